"""One evaluation out of those of parts: a split too large for memory is compared with its predictions a part at a time.

Everything that is counted adds up; proportions are taken of the sums. Knows nothing of where the parts come from.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import get_args

import numpy as np

from cdner.evaluate.entity_arrays import CountArray, Metric
from cdner.evaluate.scores import (
    MACRO,
    MICRO,
    ErrorRow,
    Evaluation,
    ScoreRow,
    error_rows,
    evaluate_predictions,
    score_rows,
)
from cdner.types import Prediction, Sentence

_PER_TYPE: tuple[Metric, ...] = ("strict", "mention_multiset", "mention_set")
Part = tuple[Sequence[Sentence], Sequence[Prediction]]  # the same sentences on both sides


def evaluate_parts(parts: Iterable[Part], types: Sequence[str]) -> Evaluation:
    """As ``evaluate_predictions`` of all sentences together, one part in memory at a time. InputError as there."""
    counts = {metric: np.zeros((len(types), 3), dtype=np.int64) for metric in _PER_TYPE}
    spans = np.zeros((1, 3), dtype=np.int64)
    outcomes = np.zeros((len(types), 5), dtype=np.int64)
    confusion = np.zeros((len(types), len(types)), dtype=np.int64)
    for gold, predictions in parts:
        found = evaluate_predictions(gold, predictions, types)
        spans += _counted(found.scores, "span", (MICRO,))
        for metric in _PER_TYPE:
            counts[metric] += _counted(found.scores, metric, types)
        outcomes += _outcomes(found.errors, types)
        confusion += found.confusion
    scores: list[ScoreRow] = []
    for metric in get_args(Metric):
        scores += (
            score_rows(metric, types, counts[metric]) if metric in counts else score_rows(metric, (), spans)
        )
    return Evaluation(tuple(scores), error_rows(types, outcomes), confusion)


def _counted(rows: Sequence[ScoreRow], metric: Metric, names: Sequence[str]) -> CountArray:
    """(len(names), 3) counts of a metric's rows, in the order of the names."""
    by_name = {row.entity_type: row for row in rows if row.metric == metric and row.entity_type != MACRO}
    chosen = [by_name[name] for name in names]
    counts = [(row.n_gold, row.n_predicted, row.n_correct) for row in chosen]
    return np.array(counts, dtype=np.int64).reshape(len(names), 3)


def _outcomes(rows: Sequence[ErrorRow], types: Sequence[str]) -> CountArray:
    """(K, 5) correct, misclassified, boundary, not found and spurious entities of every type."""
    by_name = {row.entity_type: row for row in rows}
    chosen = [by_name[name] for name in types]
    counts = [
        (row.n_correct, row.n_misclassified, row.n_boundary, row.n_not_found, row.n_spurious)
        for row in chosen
    ]
    return np.array(counts, dtype=np.int64).reshape(len(types), 5)
