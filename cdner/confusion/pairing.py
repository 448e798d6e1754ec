"""Counts which type a model put on gold spans: numerators and denominators of R_H (eq. 2) and R_M (eq. 11).

Both ratios are taken over all gold entities of a type, so the rule lives here once. Knows no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cdner.errors import InputError
from cdner.spans import index_by_span
from cdner.types import Corpus, FloatArray, Prediction

CountArray = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class SpanPairs:
    """Gold entities by the type predicted on exactly their span."""

    counts: CountArray  # (K, n): row = gold type, column = type predicted on the same span
    n_gold: CountArray  # (K,): all gold entities of the type, recognised or not


def span_pairs(
    corpus: Corpus,
    predictions: Sequence[Prediction],
    *,
    gold_types: Sequence[str],
    predicted_types: Sequence[str],
) -> SpanPairs:
    """Count (gold type, predicted type) over exact spans; K gold types, n predicted types.

    InputError for a test split, for lists of different length and for a type outside its label set.
    """
    if corpus.split == "test":
        raise InputError(
            f"Corpus '{corpus.domain}' is a test split: confusion is measured on train and dev only."
        )
    check_paired(corpus, predictions)
    rows = {name: row for row, name in enumerate(gold_types)}
    columns = {name: column for column, name in enumerate(predicted_types)}
    counts = np.zeros((len(rows), len(columns)), dtype=np.int64)
    n_gold = np.zeros(len(rows), dtype=np.int64)
    try:
        for sentence, prediction in zip(corpus.sentences, predictions, strict=True):
            predicted = {span: columns[name] for span, name in index_by_span(prediction.entities).items()}
            for entity in sentence.entities:
                row = rows[entity.type]
                n_gold[row] += 1
                column = predicted.get((entity.start, entity.end))
                if column is not None:
                    counts[row, column] += 1
    except KeyError as error:
        raise InputError(
            f"Corpus '{corpus.domain}' ({corpus.split}): type {error} is in neither label set: gold "
            f"({', '.join(gold_types)}), predicted ({', '.join(predicted_types)}). Check prompts/types."
        ) from error
    return SpanPairs(counts=counts, n_gold=n_gold)


def check_paired(corpus: Corpus, predictions: Sequence[Prediction]) -> None:
    """InputError unless there is one prediction per sentence and each stays inside its sentence."""
    where = f"Corpus '{corpus.domain}' ({corpus.split})"
    if len(predictions) != len(corpus.sentences):
        raise InputError(
            f"{where} has {len(corpus.sentences)} sentences, {len(predictions)} predictions: predict again."
        )
    for number, (sentence, prediction) in enumerate(zip(corpus.sentences, predictions, strict=True), start=1):
        if any(not 0 <= entity.start < entity.end <= len(sentence.tokens) for entity in prediction.entities):
            raise InputError(
                f"{where}, sentence {number}: a predicted span leaves its {len(sentence.tokens)} tokens: "
                "these predictions belong to other sentences."
            )


def shares(counts: CountArray, n_gold: CountArray) -> FloatArray:
    """Each row of counts over its number of gold entities, in [0, 1]; zeros where there are none."""
    denominator = np.maximum(n_gold, 1).astype(np.float64)
    return counts / (denominator[:, None] if counts.ndim == 2 else denominator)
