"""The step predict: the entities that a trained model finds in the sentences of a split."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from cdner.config import Experiment
from cdner.config import Prediction as PredictionSettings
from cdner.errors import InputTooLongError, unknown_name
from cdner.files import Json
from cdner.models.engines import check_engine
from cdner.models.shelf import model_location
from cdner.models.weights import checked
from cdner.registry import names
from cdner.steps.context import Context
from cdner.steps.protocol import StepKind
from cdner.steps.step import Step
from cdner.steps.text_or_tags import Way, way_of
from cdner.steps.windows import PREDICTED, Chunk, windows
from cdner.store import llm_log as stored_reasoning
from cdner.store import models as stored_models
from cdner.store import predictions as stored_predictions
from cdner.store.corpora import load_sentences
from cdner.types import (
    Generation,
    Prediction,
    ReasoningChain,
    Sentence,
    Tagger,
    TextGenerator,
)

TOO_LONG = "too_long"  # malformed: the sentence is longer than the model's window, nothing was generated


def settings(
    experiment: Experiment, prediction: PredictionSettings, types: Sequence[str], *, n: Json
) -> dict[str, Json]:
    """What identifies predictions, beside their inputs."""
    return {"predict": prediction.identity_of(experiment.backbone.family), "types": list(types), "n": n}


def predict(step: Step, context: Context) -> None:
    """Predict the sentences without a stored prediction, one window at a time."""
    settings = cast(Mapping[str, Any], step.spec.settings)
    positions = context.positions(context.input_run(step, "corpus"), settings["n"])
    n_left = len(positions) - stored_predictions.count_predictions(context.store, step.spec.run_id)
    if not n_left:
        return
    prediction = PredictionSettings.of_run(settings["predict"])
    backbone = context.models.predictor(prediction, cast(Path, checkpoint_of(step, context, "model")))
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
    """Warn about sentences that were not predicted because they are too long."""
    positions = [position for position, prediction, _ in rows if TOO_LONG in prediction.malformed]
    if positions:
        context.progress.warn(
            f"{step.label}: {len(positions)} sentences are longer than the model's window and count as "
            f"sentences without entities (first: position {min(positions)}; malformed: {TOO_LONG})"
        )


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
    """Index into ``sentences`` -> prediction. ``keep`` gets each as it finishes, ``tell`` a line about all of them.

    A sentence longer than the model's window is never cut. It raises InputTooLongError, or with ``skip_too_long`` gives
    a prediction without entities that is counted as malformed (``TOO_LONG``).
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
    """Index -> prediction or error. An input that is too long makes a call fail; halving the call finds it.

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


def checkpoint_of(step: Step, context: Context, role: str) -> Path | None:
    if role not in step.inputs:
        return None
    checkpoint = stored_models.load_checkpoint(context.store, context.input_run(step, role))
    folder = stored_models.checkpoint_directory(context.store, checkpoint)
    return checked(folder, checkpoint.weights_sha256)


def check_backbone(step: Step, context: Context) -> None:  # noqa: ARG001  every check has one signature
    """Raises UsageError for an unknown family or device, ModelError for a model of the shelf that is not fetched."""
    choice, device = context.experiment.backbone, context.experiment.execution.device
    if choice.family not in names("backbone"):
        raise unknown_name("backbone", choice.family, names("backbone"))
    model_location(choice.model)
    if device not in ("auto", "cpu"):  # these two are everywhere, and asking about others imports torch
        from cdner.models.devices import choose_device

        choose_device(device)


def check_predict(step: Step, context: Context) -> None:
    check_backbone(step, context)
    check_prediction(step, context)


def check_prediction(step: Step, context: Context) -> None:
    """Raises UsageError for an engine that cannot do what the settings ask for."""
    prediction = PredictionSettings.of_run(step.settings["predict"])
    check_engine(
        prediction.engine,
        family=context.experiment.backbone.family,
        decoding=prediction.decoding,
        confidence=prediction.confidence,
    )


def n_predicted(step: Step, context: Context) -> int | None:
    """Sentences."""
    return context.n_imported(step.inputs["corpus"], step.settings["n"])


KIND = StepKind("predict", 1, predict, check=check_predict, n_units=n_predicted)
