"""Whether probabilities mean what they say: temperature scaling, expected calibration error, reliability diagrams.

Pure counting over arrays: knows no model and no store. Conventions: ``log_probs`` is (n, K), row i the
log-probabilities of the K types for mention i; ``gold`` is (n,), the column of each mention's gold type;
``confidence`` is (n,), in [0, 1]; ``correct`` is (n,), whether what was said with that confidence is right.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cdner.types import FloatArray

N_BINS = 15  # of equal width; Guo and others 2017 (arXiv 1706.04599), also the source of temperature scaling
IMPOSSIBLE = (
    -700.0
)  # below the largest of a row: what minus infinity stands for, unless others are lower still
_LONGEST_STEP = 2.0  # of log(1 / temperature) in one Newton step
_SHARPEST = 12.0  # bound of |log temperature|: where all is right, the likelihood grows for ever
_MAX_STEPS = 100


@dataclass(frozen=True, slots=True)
class Bin:
    """One point of a reliability diagram: of what was said with a confidence in (low, high], how much is right.

    The first bin holds 0 too.
    """

    low: float
    high: float
    n: int
    mean_confidence: float  # 0 in an empty bin
    share_correct: float  # 0 in an empty bin


def fit_temperature(log_probs: FloatArray, gold: NDArray[np.int64]) -> float:
    """The temperature T > 0 that makes softmax(log_probs / T) most likely to have named ``gold``.

    Maximum likelihood by Newton steps on log(1 / T) with step halving; T is kept in [e^-12, e^12], the bound where the
    data have no maximum (everything right: the smallest T). ValueError for no row, for NaN and for a row of only minus
    infinity; minus infinity elsewhere counts as 700 below the row's largest entry, or as low as the lowest of all.
    """
    scores = _checked(log_probs, gold)
    rows = np.arange(len(gold))
    x = 0.0
    value = _mean_loss(scores, gold, x)
    for _ in range(_MAX_STEPS):
        sharpness = np.exp(x)
        weights = _softmax(scores * sharpness)
        mean = (weights * scores).sum(1)
        variance = (weights * scores**2).sum(1) - mean**2
        slope = float(sharpness * (mean - scores[rows, gold]).mean())  # of the loss by x
        curvature = float(slope + sharpness**2 * variance.mean())
        step = -slope / curvature if curvature > 0 else -np.sign(slope)
        step = float(np.clip(step, -_LONGEST_STEP, _LONGEST_STEP))
        x, value, moved = _descended(scores, gold, x, value, step)
        if moved < 1e-9:
            break
    return float(np.exp(-x))


def _descended(
    scores: FloatArray, gold: NDArray[np.int64], x: float, value: float, step: float
) -> tuple[float, float, float]:
    """The first of x + step, x + step / 2, ... with a smaller loss; x itself where none has."""
    while abs(step) > 1e-9:
        candidate = float(np.clip(x + step, -_SHARPEST, _SHARPEST))
        found = _mean_loss(scores, gold, candidate)
        if found < value:
            return candidate, found, abs(candidate - x)
        step /= 2
    return x, value, 0.0


def tempered(log_probs: FloatArray, temperature: float) -> FloatArray:
    """(n, K) softmax(log_probs / temperature), in probabilities."""
    return _softmax(np.asarray(log_probs, dtype=np.float64) / temperature)


def log_loss(log_probs: FloatArray, gold: NDArray[np.int64]) -> float:
    """Mean of -log p(gold type) in nats, after normalising each row. ValueError as in ``fit_temperature``."""
    return _mean_loss(_checked(log_probs, gold), gold, 0.0)


def reliability(confidence: FloatArray, correct: NDArray[np.bool_], *, n_bins: int = N_BINS) -> list[Bin]:
    """The points of a reliability diagram, all ``n_bins`` of them from low to high."""
    bins = bin_of(confidence, n_bins)
    n = np.bincount(bins, minlength=n_bins)
    total = np.bincount(bins, weights=confidence, minlength=n_bins)
    right = np.bincount(bins, weights=correct.astype(np.float64), minlength=n_bins)
    return [
        Bin(
            k / n_bins,
            (k + 1) / n_bins,
            int(n[k]),
            float(total[k] / max(n[k], 1)),
            float(right[k] / max(n[k], 1)),
        )
        for k in range(n_bins)
    ]


def bin_of(confidence: FloatArray, n_bins: int = N_BINS) -> NDArray[np.int64]:
    """(n,) bin of each, 0 to n_bins - 1: (k / n_bins, (k + 1) / n_bins], 0 with the first.

    ValueError outside [0, 1].
    """
    if confidence.size and not (confidence.min() >= 0 and confidence.max() <= 1 + 1e-9):
        raise ValueError("A confidence is outside [0, 1].")
    return np.clip(np.ceil(confidence * n_bins).astype(np.int64) - 1, 0, n_bins - 1)


def expected_calibration_error(
    confidence: FloatArray, correct: NDArray[np.bool_], *, n_bins: int = N_BINS
) -> float:
    """Mean over mentions of |share right - mean confidence| of their bin, in [0, 1]; 0 without mentions."""
    bins = reliability(confidence, correct, n_bins=n_bins)
    n = sum(found.n for found in bins)
    return sum(found.n * abs(found.share_correct - found.mean_confidence) for found in bins) / max(n, 1)


def calibration_error_per_type(
    probabilities: FloatArray, gold: NDArray[np.int64], *, n_bins: int = N_BINS
) -> FloatArray:
    """(K,) the same for each type against all others: how often it is the gold type where it is given p.

    Over all n mentions, also those with another type most probable.
    """
    return np.array(
        [
            expected_calibration_error(column, gold == k, n_bins=n_bins)
            for k, column in enumerate(np.clip(probabilities, 0.0, 1.0).T)
        ]
    )


def _mean_loss(scores: FloatArray, gold: NDArray[np.int64], x: float) -> float:
    sharpened = scores * np.exp(x)
    largest = sharpened.max(1, keepdims=True)
    normaliser = largest[:, 0] + np.log(np.exp(sharpened - largest).sum(1))
    return float((normaliser - sharpened[np.arange(len(gold)), gold]).mean())


def _softmax(scores: FloatArray) -> FloatArray:
    weights: FloatArray = np.exp(scores - scores.max(1, keepdims=True))
    normalised: FloatArray = weights / weights.sum(1, keepdims=True)
    return normalised


def _checked(log_probs: FloatArray, gold: NDArray[np.int64]) -> FloatArray:
    """Rows shifted to a largest entry of 0, which changes no softmax."""
    scores = np.asarray(log_probs, dtype=np.float64)
    if scores.ndim != 2 or not len(scores) or len(scores) != len(gold):
        raise ValueError(f"log_probs of shape {scores.shape} for {len(gold)} gold types.")
    if np.isnan(scores).any() or not np.isfinite(scores.max(1)).all():
        raise ValueError("log_probs hold NaN or plus infinity, or a row of only minus infinity.")
    shifted: FloatArray = scores - scores.max(1, keepdims=True)
    lowest = min(IMPOSSIBLE, float(shifted.min(where=np.isfinite(shifted), initial=0.0)))
    bounded: FloatArray = np.where(np.isfinite(shifted), shifted, lowest)
    return bounded
