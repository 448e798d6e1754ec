"""The step crossfit: predictions for train, each sentence by a model that was not trained on it.

A model predicts its own training sentences better than any others. So the sentences are divided into folds, and each
fold is predicted by a model trained on the others. The models are not kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from cdner.config import Crossfit, Experiment, Training
from cdner.config import Prediction as PredictionSettings
from cdner.corpora.sampling import chosen_positions
from cdner.errors import UsageError
from cdner.files import Json, remove
from cdner.steps import predicting, training
from cdner.steps.context import Context
from cdner.steps.protocol import StepKind
from cdner.steps.step import Step
from cdner.store import models as stored_models
from cdner.store import predictions as stored_predictions
from cdner.types import Generation, Prediction, Sentence


def settings(experiment: Experiment, trained: Mapping[str, Json]) -> dict[str, Json]:
    """What identifies out-of-fold predictions: the settings of the setting's own training, and the folds."""
    return {
        **trained,
        "crossfit": experiment.crossfit.identity(),
        "predict": experiment.predict.identity_of(experiment.backbone.family),
    }


def crossfit(step: Step, context: Context) -> None:
    """Train and predict one fold after the other; a fold with stored predictions is not trained again.

    Raises UsageError if all sentences are the same. The epoch logs of the folds are not stored.
    """
    settings = cast(Mapping[str, Any], step.spec.settings)
    corpus_run = context.input_run(step, "train")
    corpus = context.corpus_of(corpus_run)
    positions = chosen_positions(corpus, settings["n_train"])
    n_folds = Crossfit.model_validate(settings["crossfit"]).folds
    folds = dealt_folds(corpus.sentences, positions, n_folds)
    if len(folds) < 2:
        raise UsageError(
            f"{step.label}: {len(positions)} training sentences make {len(folds)} fold; cross-fitting needs 2 "
            "different sentences at least. Use more: corpora.n_target_train."
        )
    stored_models.save_training_sentences(context.store, step.spec.run_id, corpus_run, positions)
    done = stored_predictions.predicted_positions(context.store, step.spec.run_id)
    for fold, held_out in enumerate(folds):
        if not done.issuperset(held_out):
            others = [position for other in folds if other is not held_out for position in other]
            which = f"{step.label}: fold {fold + 1} of {len(folds)}"
            context.progress.start(f"{which}, trained on {len(others)} sentences")
            _carry_out(step, context, fold=fold, which=which, others=sorted(others), held_out=held_out)
    _remove_models(step, context)


def dealt_folds(sentences: Sequence[Sentence], positions: Sequence[int], n_folds: int) -> list[list[int]]:
    """The positions in at most ``n_folds`` folds, none empty. Sentences with the same text are in the same fold."""
    texts = dict.fromkeys(sentences[position].text for position in positions)
    number_of = {text: number for number, text in enumerate(texts)}
    folds: list[list[int]] = [[] for _ in range(n_folds)]
    for position in positions:
        folds[number_of[sentences[position].text] % n_folds].append(position)
    return [fold for fold in folds if fold]


def _carry_out(
    step: Step, context: Context, *, fold: int, which: str, others: Sequence[int], held_out: Sequence[int]
) -> None:
    """Train on the other folds and store the predictions of this one in one transaction. Removes the checkpoint."""
    output = context.checkpoint_path(f"{step.spec.run_id}.fold-{fold}")
    corpus_run = context.input_run(step, "train")
    sentences = context.corpus_of(corpus_run).sentences
    try:
        _train(step, context, fold=fold, others=others, output=output)
        rows = _predicted(step, context, output, which=which, held_out=held_out)
        stored_predictions.save_predictions(
            context.store,
            step.spec.run_id,
            rows,
            corpus_run_id=corpus_run,
            sentences={position: sentences[position] for position in held_out},
        )
    finally:
        context.models.release()
        remove(output)
    predicting.warn_of_too_long(step, context, rows)


def _train(step: Step, context: Context, *, fold: int, others: Sequence[int], output: Path) -> None:
    settings = cast(Mapping[str, Any], step.spec.settings)
    chosen = Training.model_validate(settings["training"])
    sentences = context.corpus_of(context.input_run(step, "train")).sentences
    training.fit_base(
        step,
        context,
        ([sentences[position] for position in others], [None] * len(others)),
        training=chosen.model_copy(update={"seed": chosen.seed + fold}),
        output=output,
    )


def _predicted(
    step: Step, context: Context, checkpoint: Path, *, which: str, held_out: Sequence[int]
) -> list[stored_predictions.Predicted]:
    settings = cast(Mapping[str, Any], step.spec.settings)
    sentences = context.corpus_of(context.input_run(step, "train")).sentences
    prediction = PredictionSettings.of_run(settings["predict"])
    model = context.models.predictor(prediction, checkpoint)
    context.progress.start(which, len(held_out))
    rows: list[stored_predictions.Predicted] = []

    def keep(index: int, predicted: Prediction, generation: Generation) -> None:
        rows.append((held_out[index], predicted, generation))

    predicting.predict_all(
        model,
        [sentences[position] for position in held_out],
        [None] * len(held_out),
        types=tuple(settings["types"]),
        context=context,
        settings=prediction,
        keep=keep,
        skip_too_long=True,
    )
    return rows


def _remove_models(step: Step, context: Context) -> None:
    """Remove what killed executions have left of the models and training states of the folds."""
    folder = context.checkpoint_path(step.spec.run_id)
    for left in folder.parent.glob(f"*{folder.name}.fold-*"):
        remove(left)


def check_crossfit(step: Step, context: Context) -> None:
    training.check_train(step, context)
    predicting.check_prediction(step, context)


def n_trained(step: Step, context: Context) -> int | None:
    """Sentences times epochs times folds: each sentence is trained on in all folds but its own."""
    n, others = training.n_trained(step, context), step.settings["crossfit"]["folds"] - 1
    return None if n is None else n * int(others)


KIND = StepKind("crossfit", 1, crossfit, check=check_crossfit, n_units=n_trained)
