"""The step evaluate: scores and error counts of one setting's predictions on one split."""

from __future__ import annotations

from collections.abc import Iterator

from cdner.errors import InputError
from cdner.evaluate import ErrorRow, evaluate_parts
from cdner.files import Json
from cdner.steps.context import Context
from cdner.steps.protocol import StepKind
from cdner.steps.quantifying import nothing_predicted
from cdner.steps.step import Step
from cdner.steps.windows import EVALUATED, windows
from cdner.store import predictions as stored_predictions
from cdner.store import scores as stored_scores
from cdner.store.corpora import CorpusHead, load_head, load_sentences
from cdner.types import Prediction, Sentence, Split


def settings(split: Split) -> dict[str, Json]:
    """What identifies the scores, beside their inputs."""
    return {"split": split}


def evaluate(step: Step, context: Context) -> None:
    """Scores and error counts of one setting's predictions on one split."""
    corpus = load_head(context.store, context.input_run(step, "corpus"))
    types = context.domain(context.experiment.corpora.target, "target").types
    unknown = sorted(set(corpus.types) - set(types))
    if unknown:
        raise InputError(
            f"{step.label}: {corpus.domain}/{corpus.split} has labels that train and dev do not have: "
            f"{', '.join(unknown)}. Import train again with all labels named: --types A,B,..."
        )
    context.progress.start(step.label)
    found = evaluate_parts(_parts(step, context), types)
    stored_scores.save_scores(
        context.store,
        step.spec.run_id,
        [
            stored_scores.ScoreRow(
                domain=corpus.domain,
                split=corpus.split,
                metric_family=row.metric,
                entity_type=row.entity_type,
                n_gold=row.n_gold,
                n_predicted=row.n_predicted,
                n_correct=row.n_correct,
                precision=row.precision,
                recall=row.recall,
                f1=row.f1,
            )
            for row in found.scores
        ],
        errors=[_error_row(row, corpus) for row in found.errors],
    )


def _parts(step: Step, context: Context) -> Iterator[tuple[list[Sentence], list[Prediction]]]:
    """The predicted part of a corpus with its predictions, in the corpus's order, a window at a time."""
    corpus_run, run_id = context.input_run(step, "corpus"), context.input_run(step, "predictions")
    n_sentences, n_predicted = load_head(context.store, corpus_run).n_sentences, 0
    for window in windows(range(n_sentences), EVALUATED):
        predictions = stored_predictions.load_predictions(context.store, run_id, window)
        n_predicted += len(predictions)
        yield load_sentences(context.store, corpus_run, list(predictions)), list(predictions.values())
    if not n_predicted:
        raise nothing_predicted(step)


def _error_row(row: ErrorRow, corpus: CorpusHead) -> stored_scores.ErrorRow:
    return stored_scores.ErrorRow(
        domain=corpus.domain,
        split=corpus.split,
        entity_type=row.entity_type,
        n_gold=row.n_gold,
        n_missed=row.n_missed,
        n_boundary=row.n_boundary,
        n_misclassified=row.n_misclassified,
        n_spurious=row.n_spurious,
    )


KIND = StepKind("evaluate", 1, evaluate)
