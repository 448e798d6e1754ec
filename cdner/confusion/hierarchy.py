"""Confusion from the source-target hierarchy (3.2.1): fine types seen as one coarse type are alike.

Knows M_src's predictions on the target's train split; knows no model, no description and no fine prediction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cdner.confusion.pairing import CountArray, shares, span_pairs
from cdner.types import ConfusionMatrix, Corpus, Domain, FloatArray, Prediction


@dataclass(frozen=True, slots=True)
class HierarchyRatio:
    """R_H of eq. 2 and what it was counted from. K target types, n source types.

    ``ratio[i].sum() + unrecognised[i]`` is 1 wherever ``n_gold[i] > 0``; a type without gold has zeros.
    """

    target_types: tuple[str, ...]
    source_types: tuple[str, ...]
    ratio: FloatArray  # (K, n), share of all gold entities of the row's type, in [0, 1]
    n_gold: CountArray  # (K,)
    unrecognised: FloatArray  # (K,), share of gold entities on whose span M_src predicts nothing
    counts: CountArray  # (K, n)


@dataclass(frozen=True, slots=True)
class Prefix:
    """The coarse type a fine type extends (eq. 3)."""

    index: int  # column of R_H
    name: str  # source label: "person"
    short: str  # as in prompts and maps: "PER"
    unrecognised: bool  # M_src never recognised the type: the prefix is a fallback, not a measurement


def hierarchy_ratio(
    train: Corpus, predictions: Sequence[Prediction], target: Domain, source: Domain
) -> HierarchyRatio:
    """Eq. 2: of the gold entities of t_i in target train, the share whose span M_src predicts as s_j.

    InputError for a test split, mismatched lengths, or a type outside its domain.
    """
    pairs = span_pairs(train, predictions, gold_types=target.types, predicted_types=source.types)
    return HierarchyRatio(
        target_types=target.types,
        source_types=source.types,
        ratio=shares(pairs.counts, pairs.n_gold),
        n_gold=pairs.n_gold,
        unrecognised=shares(pairs.n_gold - pairs.counts.sum(axis=1), pairs.n_gold),
        counts=pairs.counts,
    )


def prefixes(ratio: FloatArray, source: Domain) -> tuple[Prefix, ...]:
    """Eq. 3: per target type the source type with the largest R_H. ``ratio`` is R_H, (K, n).

    Ties go to the earlier source type. A row of zeros has nothing to go by: MISC if the source has it,
    else the last source type, and the prefix is flagged ``unrecognised``.
    """
    fallback = _fallback_index(source)
    found = []
    for row in ratio:
        unrecognised = not row.any()
        index = fallback if unrecognised else int(np.argmax(row))
        entry = source.entries[index]
        found.append(Prefix(index=index, name=entry.name, short=entry.short, unrecognised=unrecognised))
    return tuple(found)


def u_hie(
    ratio: FloatArray, prefix_of: Sequence[Prefix], *, types: tuple[str, ...], delta: float = 1.0
) -> ConfusionMatrix:
    """Eq. 4: u_hie(i, j) = delta * R_H(t_i -> prefix(t_j)).

    ``ratio`` is R_H, (K, n); the scores are (K, K), in [0, delta], diagonal 0.
    """
    scores = delta * ratio[:, [prefix.index for prefix in prefix_of]]
    np.fill_diagonal(scores, 0.0)
    return ConfusionMatrix("u_hie", types, scores)


def _fallback_index(source: Domain) -> int:
    for index, entry in enumerate(source.entries):
        if "misc" in (entry.name.lower(), entry.short.lower()):
            return index
    return len(source.entries) - 1
