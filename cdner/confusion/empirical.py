"""Confusion that was observed (3.2.4, eq. 11): what M_tgt takes each type for on the target's dev split.

Knows the predictions of M_tgt on dev; knows no model and neither of the implicit dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cdner.confusion.pairing import CountArray, shares, span_pairs
from cdner.types import ConfusionMatrix, Corpus, Domain, FloatArray, Prediction


@dataclass(frozen=True, slots=True)
class MisclassificationRatio:
    """R_M of eq. 11 and what it was counted from. K target types."""

    types: tuple[str, ...]
    ratio: FloatArray  # (K, K), share of all gold entities of the row's type, in [0, 1]; diagonal 0
    n_gold: CountArray  # (K,)
    counts: CountArray  # (K, K); the diagonal holds the correctly classified ones
    unrecognised: FloatArray  # (K,), share of gold entities on whose span M_tgt predicts nothing
    unsupported: tuple[bool, ...]  # no gold entity in dev: the row is zeros because nothing could be measured

    def as_matrix(self) -> ConfusionMatrix:
        """The ratio as the dimension named "R_M"."""
        return ConfusionMatrix("R_M", self.types, self.ratio)


def misclassification_ratio(
    dev: Corpus, predictions: Sequence[Prediction], target: Domain
) -> MisclassificationRatio:
    """Eq. 11: of the gold entities of t_i in target dev, the share whose span M_tgt predicts as t_j, j != i.

    InputError for a test split, mismatched lengths, or a type outside the domain.
    """
    pairs = span_pairs(dev, predictions, gold_types=target.types, predicted_types=target.types)
    ratio = shares(pairs.counts, pairs.n_gold)
    np.fill_diagonal(ratio, 0.0)
    return MisclassificationRatio(
        types=target.types,
        ratio=ratio,
        n_gold=pairs.n_gold,
        counts=pairs.counts,
        unrecognised=shares(pairs.n_gold - pairs.counts.sum(axis=1), pairs.n_gold),
        unsupported=tuple(bool(n == 0) for n in pairs.n_gold),
    )
