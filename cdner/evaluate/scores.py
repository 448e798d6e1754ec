"""Scores and errors of predictions against gold entities: pure counting, no model, no store, no printing.

Conventions, stated once: every proportion is a fraction in [0, 1]; 0 / 0 is 0, and the counts beside it show
why. Strict scores are over token spans; the two mention scores compare surfaces, as papers on generation do,
and are named apart so that nobody takes one for the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cdner.errors import InputError
from cdner.evaluate.entity_arrays import (
    CountArray,
    Metric,
    PairedEntities,
    items_by_metric,
    pair_entities,
    predicted_on_gold_spans,
    touching,
)
from cdner.types import Prediction, Sentence

MICRO = "*"
MACRO = "macro"


@dataclass(frozen=True, slots=True)
class ScoreRow:
    metric: Metric
    entity_type: str  # a type, "*" (micro average) or "macro"
    n_gold: int
    n_predicted: int
    n_correct: int
    precision: float  # n_correct / n_predicted; the macro row holds the mean over types
    recall: float  # n_correct / n_gold; likewise
    f1: float  # harmonic mean; the macro row holds the mean of the types' F1


@dataclass(frozen=True, slots=True)
class ErrorRow:
    """What became of the gold entities of one type ("*" = all). n_gold = correct + misclassified + missed."""

    entity_type: str
    n_gold: int
    n_correct: int  # exact span, right type
    n_misclassified: int  # exact span, wrong type
    n_missed: int  # no predicted entity with this exact span (the paper's figure 6) = boundary + not found
    n_boundary: int  # ... but one that shares a token with it
    n_not_found: int  # ... and none that shares a token
    n_spurious: int  # predicted entities of this type that share no token with any gold entity
    error_proportion: float  # (missed + misclassified) / gold
    missed_proportion: float
    misclassified_proportion: float  # the paper's type-classification error proportion


@dataclass(frozen=True, slots=True, eq=False)  # arrays have no single truth value
class Evaluation:
    """Everything that is counted of one set of predictions."""

    scores: tuple[ScoreRow, ...]  # as ``score`` has them
    errors: tuple[ErrorRow, ...]  # as ``error_proportions`` has them
    confusion: (
        CountArray  # (K, K) entities predicted on exactly a gold span; the diagonal holds the correct ones
    )


def evaluate_predictions(
    gold: Sequence[Sentence], predictions: Sequence[Prediction], types: Sequence[str]
) -> Evaluation:
    """All tables in one pass over the entities. InputError as ``score``."""
    pair = _paired(gold, predictions, types)
    found = predicted_on_gold_spans(pair)
    exact = found >= 0
    cells = np.bincount(pair.gold.type_index[exact] * len(types) + found[exact], minlength=len(types) ** 2)
    return Evaluation(
        scores=_scores(pair, types),
        errors=_errors(pair, found, types),
        confusion=cells.reshape(len(types), len(types)),
    )


def score(
    gold: Sequence[Sentence], predictions: Sequence[Prediction], types: Sequence[str]
) -> tuple[ScoreRow, ...]:
    """Rows per metric: "*" first, then "macro", then every type in the order given; "span" has only "*".

    The macro average is over types that occur in gold or predictions (as seqeval does). InputError when the
    lists differ in length or a type is not among ``types``.
    """
    return _scores(_paired(gold, predictions, types), types)


def error_proportions(
    gold: Sequence[Sentence], predictions: Sequence[Prediction], types: Sequence[str]
) -> tuple[ErrorRow, ...]:
    """Figure 6 per gold type, "*" first, with boundary errors and spurious predictions told apart."""
    pair = _paired(gold, predictions, types)
    return _errors(pair, predicted_on_gold_spans(pair), types)


def sentence_counts(
    gold: Sequence[Sentence], predictions: Sequence[Prediction], metric: Metric
) -> CountArray:
    """(n_sentences, 3): gold, predicted and correct items of every sentence, all types together.

    Their sums over the sentences are the metric's micro row. InputError when the lists differ in length.
    """
    pair = _paired(gold, predictions, sorted(_types_of(gold, predictions)))
    items = items_by_metric(pair)[metric]
    return items.summed_by(items.start // pair.stride, len(gold))


def f1_score(precision: float, recall: float) -> float:
    """Harmonic mean, 0 when both are 0."""
    return 2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0


# --- counting ---------------------------------------------------------------------------------------------


def _paired(
    gold: Sequence[Sentence], predictions: Sequence[Prediction], types: Sequence[str]
) -> PairedEntities:
    if len(gold) != len(predictions):
        raise InputError(
            f"{len(gold)} gold sentences but {len(predictions)} predictions: predict the whole split again."
        )
    try:
        return pair_entities(gold, predictions, types)
    except KeyError as error:
        unknown = sorted(_types_of(gold, predictions).difference(types))
        raise InputError(
            f"Types outside the domain: {', '.join(unknown)}. Known: {', '.join(types)}."
        ) from error


def _types_of(gold: Sequence[Sentence], predictions: Sequence[Prediction]) -> set[str]:
    found = {entity.type for sentence in gold for entity in sentence.entities}
    return found | {entity.type for prediction in predictions for entity in prediction.entities}


def _scores(pair: PairedEntities, types: Sequence[str]) -> tuple[ScoreRow, ...]:
    rows: list[ScoreRow] = []
    for metric, items in items_by_metric(pair).items():
        counts = items.summed_by(items.type_index, len(types))
        rows += score_rows(metric, types if metric != "span" else (), counts)
    return tuple(rows)


def _errors(pair: PairedEntities, found: CountArray, types: Sequence[str]) -> tuple[ErrorRow, ...]:
    """``found``: the type predicted on each gold span, -1 for none."""
    gold_types = pair.gold.type_index
    touched, spurious = touching(pair.gold, pair.predicted), ~touching(pair.predicted, pair.gold)
    chosen = (
        gold_types[found == gold_types],
        gold_types[(found >= 0) & (found != gold_types)],
        gold_types[(found < 0) & touched],
        gold_types[(found < 0) & ~touched],
        pair.predicted.type_index[spurious],
    )
    outcomes = np.stack([np.bincount(of_types, minlength=len(types)) for of_types in chosen], axis=1)
    return error_rows(types, outcomes)


# --- rows -------------------------------------------------------------------------------------------------


def score_rows(metric: Metric, types: Sequence[str], counts: CountArray) -> list[ScoreRow]:
    """Of (K, 3) counts per type; without ``types`` the micro row alone."""
    micro = _row(metric, MICRO, *counts.sum(axis=0).tolist())
    if not types:
        return [micro]
    per_type = [_row(metric, name, *row) for name, row in zip(types, counts.tolist(), strict=True)]
    present = [row for row in per_type if row.n_gold + row.n_predicted > 0]
    n = max(len(present), 1)
    macro = ScoreRow(
        metric,
        MACRO,
        micro.n_gold,
        micro.n_predicted,
        micro.n_correct,
        precision=sum(row.precision for row in present) / n,
        recall=sum(row.recall for row in present) / n,
        f1=sum(row.f1 for row in present) / n,
    )
    return [micro, macro, *per_type]


def _row(metric: Metric, entity_type: str, n_gold: int, n_predicted: int, n_correct: int) -> ScoreRow:
    precision, recall = _share(n_correct, n_predicted), _share(n_correct, n_gold)
    return ScoreRow(
        metric, entity_type, n_gold, n_predicted, n_correct, precision, recall, f1_score(precision, recall)
    )


def error_rows(types: Sequence[str], outcomes: CountArray) -> tuple[ErrorRow, ...]:
    """Of (K, 5) correct, misclassified, boundary, not found and spurious entities per type; "*" first."""
    total = _error_row(MICRO, outcomes.sum(axis=0).tolist())
    return total, *(_error_row(name, row) for name, row in zip(types, outcomes.tolist(), strict=True))


def _error_row(name: str, outcomes: Sequence[int]) -> ErrorRow:
    """Of correct, misclassified, boundary, not found and spurious."""
    n_correct, n_misclassified, n_boundary, n_not_found, n_spurious = outcomes
    n_missed = n_boundary + n_not_found
    n_gold = n_correct + n_misclassified + n_missed
    return ErrorRow(
        entity_type=name,
        n_gold=n_gold,
        n_correct=n_correct,
        n_misclassified=n_misclassified,
        n_missed=n_missed,
        n_boundary=n_boundary,
        n_not_found=n_not_found,
        n_spurious=n_spurious,
        error_proportion=_share(n_missed + n_misclassified, n_gold),
        missed_proportion=_share(n_missed, n_gold),
        misclassified_proportion=_share(n_misclassified, n_gold),
    )


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
