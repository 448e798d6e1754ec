"""The steps that need a backbone: train, predict, embed. The only part of the pipeline that loads model weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from cdner.config import Prediction as PredictionSettings
from cdner.config import Training
from cdner.corpora.sampling import chosen_positions
from cdner.errors import InputTooLongError
from cdner.evaluate import score
from cdner.files import Json
from cdner.models.weights import checked, weights_sha256
from cdner.steps.context import Context, predicting
from cdner.steps.step import Step
from cdner.steps.text_or_tags import Way, way_of
from cdner.steps.windows import PREDICTED, Chunk, windows
from cdner.store import confusion as stored_descriptions
from cdner.store import llm_log as stored_reasoning
from cdner.store import models as stored_models
from cdner.store import predictions as stored_predictions
from cdner.store.corpora import load_sentences
from cdner.types import (
    EpochLog,
    FitResult,
    Generation,
    Prediction,
    ReasoningChain,
    Sentence,
    Tagger,
    TextGenerator,
)

WithTexts = tuple[list[Sentence], list[ReasoningChain | None]]  # sentences, and what is read beside each
TOO_LONG = "too_long"  # malformed: the sentence is longer than the model's window, nothing was generated


def train(step: Step, context: Context) -> None:
    """M_src, M_tgt or M_aug; resumes from the last epoch's training state.

    A run that was killed after its checkpoint was stored has nothing left to train: training again would take the
    stored checkpoint's place for a moment, and a second kill in that moment would leave the store without it.
    """
    if _is_trained(step, context):
        return
    settings = cast(Mapping[str, Any], step.spec.settings)
    sentences = _sentences(step, context, "train", settings["n_train"])
    _remember_sample(step, context)
    context.progress.start(f"{step.label} on {len(sentences[0])} sentences")
    result = fit_base(
        step,
        context,
        sentences,
        training=_training(step, context),
        output=context.checkpoint_path(step.spec.run_id),
        on_epoch=lambda log: stored_models.save_epoch(context.store, step.spec.run_id, log),
    )
    stored_models.save_checkpoint(context.store, step.spec.run_id, result)


def _is_trained(step: Step, context: Context) -> bool:
    """Whether the run's checkpoint is stored and its weights are the ones that were stored."""
    checkpoint = stored_models.find_checkpoint(context.store, step.spec.run_id)
    if checkpoint is None:
        return False
    folder = stored_models.checkpoint_directory(context.store, checkpoint)
    return any(folder.glob("*.safetensors")) and weights_sha256(folder) == checkpoint.weights_sha256


def fit_base(
    step: Step,
    context: Context,
    sentences: WithTexts,
    *,
    training: Training,
    output: Path,
    on_epoch: Callable[[EpochLog], None] = lambda _log: None,
) -> FitResult:
    """Train the step's base on these sentences, select on its dev, and write the weights to ``output``.

    The model is not kept in memory.
    """
    from cdner.models.training import fit  # imports torch

    settings = cast(Mapping[str, Any], step.spec.settings)
    types = tuple(settings["types"])
    base = _checkpoint(step, context, "base")
    context.release()
    backbone = context.backbone(context.experiment.backbone, base)
    dev = _sentences(step, context, "dev", settings["n_dev"])
    way = way_of(
        predicting(backbone),
        types,
        settings=context.experiment.predict,
        batch_size=context.experiment.execution.batch_size,
    )
    result = fit(
        backbone,
        way.examples(*sentences),
        way.examples(*dev) if training.select != "last" else [],
        settings=training,
        types=types,
        output=output,
        on_epoch=on_epoch,
        progress=context.progress,
        metric=_strict_f1(*dev, types=types, context=context) if training.select == "dev_metric" else None,
    )
    context.release()  # its weights have changed under the cached identity
    return result


def _strict_f1(
    sentences: Sequence[Sentence],
    chains: Sequence[ReasoningChain | None],
    *,
    types: tuple[str, ...],
    context: Context,
) -> Callable[[TextGenerator | Tagger], float]:
    """What an epoch's model is measured by: micro strict F1 of its predictions on these sentences."""

    def measured(model: TextGenerator | Tagger) -> float:
        predicted = predict_all(
            model,
            sentences,
            chains,
            types=types,
            context=context,
            settings=context.experiment.predict.model_copy(update={"confidence": False}),
            skip_too_long=True,
        )
        rows = score(sentences, [predicted[index] for index in range(len(sentences))], types)
        return next(row.f1 for row in rows if (row.metric, row.entity_type) == ("strict", "*"))

    return measured


def _remember_sample(step: Step, context: Context) -> None:
    """Store which sentences the model is trained on."""
    corpus_run = context.input_run(step, "train")
    settings = cast(Mapping[str, Any], step.spec.settings)
    chosen = chosen_positions(context.corpus_of(corpus_run), settings["n_train"])
    stored_models.save_training_sentences(context.store, step.spec.run_id, corpus_run, chosen)


def predict(step: Step, context: Context) -> None:
    """Predict what is not predicted yet, a window at a time; every chunk is stored before the next is counted."""
    settings = cast(Mapping[str, Any], step.spec.settings)
    positions = context.positions(context.input_run(step, "corpus"), settings["n"])
    n_left = len(positions) - stored_predictions.count_predictions(context.store, step.spec.run_id)
    if not n_left:
        return
    prediction = PredictionSettings.of_run(settings["predict"])
    backbone = context.predictor(prediction, cast(Path, _checkpoint(step, context, "model")))
    context.progress.start(step.label, n_left)
    for window in windows(positions, PREDICTED):
        done = stored_predictions.predicted_positions(context.store, step.spec.run_id, window)
        if pending := [position for position in window if position not in done]:
            _predict_window(step, context, backbone, pending)


def _predict_window(
    step: Step, context: Context, backbone: TextGenerator | Tagger, positions: Sequence[int]
) -> None:
    settings = cast(Mapping[str, Any], step.spec.settings)
    corpus_run = context.input_run(step, "corpus")
    sentences = load_sentences(context.store, corpus_run, positions)
    chains: Mapping[int, ReasoningChain] = {}
    if "reasoning" in step.inputs:
        run_id = context.input_run(step, "reasoning")
        chains = stored_reasoning.load_reasoning(context.store, run_id, positions)
    chunk = Chunk(context.store, step.spec.run_id, corpus_run, dict(zip(positions, sentences, strict=True)))
    too_long: list[stored_predictions.Predicted] = []

    def keep(index: int, prediction: Prediction, generation: Generation) -> None:
        if TOO_LONG in prediction.malformed:
            too_long.append((positions[index], prediction, generation))
        chunk.add((positions[index], prediction, generation))

    predict_all(
        backbone,
        sentences,
        [chains.get(position) for position in positions],
        types=tuple(settings["types"]),
        context=context,
        settings=PredictionSettings.of_run(settings["predict"]),
        keep=keep,
        tell=lambda said: context.progress.start(f"{step.label}: {said}"),
        skip_too_long=True,
    )
    chunk.store()
    warn_of_too_long(step, context, too_long)


def warn_of_too_long(step: Step, context: Context, rows: Sequence[stored_predictions.Predicted]) -> None:
    """One line that counts the sentences for which nothing was predicted because of their length; none without."""
    positions = [position for position, prediction, _ in rows if TOO_LONG in prediction.malformed]
    if positions:
        context.progress.start(
            f"Warning: {step.label}: {len(positions)} sentences are longer than the model's window and count as "
            f"without entities (first: position {min(positions)}; malformed: {TOO_LONG})"
        )


def embed(step: Step, context: Context) -> None:
    """H-bar of eq. 6-7: the source model's encoding of every target type's description."""
    stored = stored_descriptions.load_descriptions(context.store, context.input_run(step, "descriptions"))
    descriptions = {item.entity_type: item.description for item in stored}
    types = context.domain(context.experiment.corpora.target, "target").types
    backbone = context.backbone(context.experiment.backbone, _checkpoint(step, context, "model"))
    context.progress.start(step.label, len(types))
    vectors = backbone.embed([descriptions[entity_type] for entity_type in types])
    stored_descriptions.save_embeddings(context.store, step.spec.run_id, types, vectors)


def _training(step: Step, context: Context) -> Any:
    experiment = context.experiment
    if step.label == "train:source":
        return experiment.train_source
    return experiment.train_augmented if "train_reasoning" in step.inputs else experiment.train_target


def _checkpoint(step: Step, context: Context, role: str) -> Path | None:
    if role not in step.inputs:
        return None
    checkpoint = stored_models.load_checkpoint(context.store, context.input_run(step, role))
    folder = stored_models.checkpoint_directory(context.store, checkpoint)
    return checked(folder, checkpoint.weights_sha256)


def _sentences(step: Step, context: Context, role: str, sample: Json) -> WithTexts:
    """Sentences a model is trained with (sampled), each with its reasoning text where the step has one."""
    corpus = context.corpus_of(context.input_run(step, role))
    positions = chosen_positions(corpus, sample)
    chains: Mapping[int, ReasoningChain] = {}
    if f"{role}_reasoning" in step.inputs:
        run_id = context.input_run(step, f"{role}_reasoning")
        chains = stored_reasoning.load_reasoning(context.store, run_id)
    return [corpus.sentences[p] for p in positions], [chains.get(p) for p in positions]


def predict_all(
    model: TextGenerator | Tagger,
    sentences: Sequence[Sentence],
    chains: Sequence[ReasoningChain | None],
    *,
    types: tuple[str, ...],
    context: Context,
    settings: PredictionSettings,
    keep: Callable[[int, Prediction, Generation], None] | None = None,
    tell: Callable[[str], None] | None = None,
    skip_too_long: bool = False,
) -> dict[int, Prediction]:
    """Index into ``sentences`` -> prediction. ``keep`` sees each as it finishes; ``tell`` hears how sure they are.

    A sentence longer than the model's window is never cut: InputTooLongError, or with ``skip_too_long`` a prediction
    of nothing that is counted as malformed (``TOO_LONG``).
    """
    way = way_of(model, types, settings=settings, batch_size=context.experiment.execution.batch_size)
    predicted: dict[int, Prediction] = {}
    for index, outcome in _outcomes(way, sentences, chains):
        if not isinstance(outcome, InputTooLongError):
            prediction, generation = outcome
        elif skip_too_long:
            generation = Generation("", outcome.n_tokens, outcome.n_tokens, 0, "length")
            prediction = Prediction("", (), {TOO_LONG: 1})
        else:
            raise outcome
        predicted[index] = prediction
        if keep:
            keep(index, prediction, generation)
            context.progress.advance()
    if tell and way.told:
        tell(way.told)
    return predicted


def _outcomes(
    way: Way, sentences: Sequence[Sentence], chains: Sequence[ReasoningChain | None], *, first: int = 0
) -> Iterator[tuple[int, tuple[Prediction, Generation] | InputTooLongError]]:
    """What is predicted, or why nothing is: one input that is too long stops a call, halving finds it.

    ``first``: index of the first sentence.
    """
    try:
        for index, prediction, generation in way.predict(sentences, chains):
            yield first + index, (prediction, generation)
    except InputTooLongError as error:
        if len(sentences) == 1:
            yield first, error
            return
        middle = len(sentences) // 2
        for half in (slice(middle), slice(middle, None)):
            yield from _outcomes(way, sentences[half], chains[half], first=first + (half.start or 0))
