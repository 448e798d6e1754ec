"""The step train: a backbone on source sentences, on target sentences, or on these with texts about each sentence.

M_src, M_tgt and M_aug of the paper (section 3.1 and 3.3.2). Resumes after the last finished epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from cdner.config import Experiment, Training
from cdner.corpora.sampling import chosen_positions
from cdner.evaluate import score
from cdner.files import Json
from cdner.models.engines import check_training
from cdner.steps.context import Context
from cdner.steps.holders import predicting
from cdner.steps.predicting import check_backbone, checkpoint_of, predict_all
from cdner.steps.protocol import StepKind
from cdner.steps.step import Identities, Step, with_weights
from cdner.steps.text_or_tags import way_of
from cdner.store import llm_log as stored_reasoning
from cdner.store import models as stored_models
from cdner.types import (
    EpochLog,
    FitResult,
    ReasoningChain,
    Sentence,
    Tagger,
    TextGenerator,
)

WithTexts = tuple[list[Sentence], list[ReasoningChain | None]]  # sentences, and the text read beside each


def settings(
    experiment: Experiment,
    identities: Identities,
    training: Training,
    types: Sequence[str],
    *,
    n_train: Json,
    n_dev: Json,
) -> dict[str, Json]:
    """What identifies a training, beside its inputs.

    Where an epoch is chosen by its predictions, the way torch makes these decides which weights are kept.
    """
    choice = experiment.backbone
    weights = identities.model(choice.family, choice.model)
    found: dict[str, Json] = {
        "backbone": with_weights(choice, weights),
        "weights": weights,
        "training": training.identity(),
        "types": list(types),
        "n_train": n_train,
        "n_dev": n_dev,
    }
    if training.select == "dev_metric":
        found["predict"] = experiment.predict.model_copy(
            update={"engine": "torch", "confidence": False}
        ).identity_of(choice.family)
    return found


def train(step: Step, context: Context) -> None:
    """Train M_src, M_tgt or M_aug, resuming from the training state of the last epoch.

    A run that was killed after its checkpoint was stored is not trained again: that would replace the stored checkpoint
    for a moment, and a second kill in that moment would lose it.
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
    from cdner.models.weights import weights_sha256

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
    base = checkpoint_of(step, context, "base")
    context.models.release()
    backbone = context.models.backbone(context.experiment.backbone, base)
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
    context.models.release()  # its weights have changed, its identity has not
    return result


def _strict_f1(
    sentences: Sequence[Sentence],
    chains: Sequence[ReasoningChain | None],
    *,
    types: tuple[str, ...],
    context: Context,
) -> Callable[[TextGenerator | Tagger], float]:
    """The measure of an epoch: micro strict F1 of its predictions on these sentences."""

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


def _sentences(step: Step, context: Context, role: str, sample: Json) -> WithTexts:
    """The sampled sentences of a split, each with its text where the step has one."""
    corpus = context.corpus_of(context.input_run(step, role))
    positions = chosen_positions(corpus, sample)
    chains: Mapping[int, ReasoningChain] = {}
    if f"{role}_reasoning" in step.inputs:
        run_id = context.input_run(step, f"{role}_reasoning")
        chains = stored_reasoning.load_reasoning(context.store, run_id)
    return [corpus.sentences[p] for p in positions], [chains.get(p) for p in positions]


def _training(step: Step, context: Context) -> Any:
    experiment = context.experiment
    if step.label == "train:source":
        return experiment.train_source
    return experiment.train_augmented if "train_reasoning" in step.inputs else experiment.train_target


def check_train(step: Step, context: Context) -> None:
    check_backbone(step, context)
    training = Training.model_validate(step.settings["training"])
    check_training(training, family=context.experiment.backbone.family)


def n_trained(step: Step, context: Context) -> int | None:
    """Sentences times epochs."""
    n = context.n_imported(step.inputs["train"], step.settings["n_train"])
    return None if n is None else n * int(step.settings["training"]["epochs"])


KIND = StepKind("train", 1, train, check=check_train, n_units=n_trained)
