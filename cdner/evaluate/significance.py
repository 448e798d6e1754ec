"""Whether two settings differ by more than chance: a paired bootstrap of F1, and McNemar's exact test.

What is drawn anew are the sentences, the same ones for both settings; the models stay as they are. So an interval
says what other sentences of the same kind would do, and the deviation over seeds beside it what other seeds do.

Conventions: ``counts`` is (n_runs, n_sentences, 3) with gold, predicted and correct items per sentence, the runs of
one setting (its seeds) over the same sentences; differences are after - before, F1 in [0, 1].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev

import numpy as np
from numpy.typing import NDArray

from cdner.types import FloatArray

Counts = NDArray[np.int64]
N_RESAMPLES = 10_000
_CONFIDENCE = 0.95
_BLOCK = 100_000  # drawn sentences held at a time: 800 kB stay in the processor's cache, three times as fast


@dataclass(frozen=True, slots=True)
class Difference:
    """A difference of F1 with its percentile interval (95 %) and two-sided p-value."""

    value: float
    low: float
    high: float
    p_value: float


@dataclass(frozen=True, slots=True)
class SeedSpread:
    """F1 over the seeds of one setting."""

    n_seeds: int
    mean: float
    deviation: float | None  # sample standard deviation (n - 1); None for one seed


def micro_f1(totals: NDArray[np.number]) -> FloatArray:
    """(..., 3) gold, predicted and correct -> (...) F1 = 2 correct / (gold + predicted); 0 where all are 0."""
    found = 2.0 * totals[..., 2]
    whole = np.asarray(totals[..., 0] + totals[..., 1], dtype=np.float64)
    scores: FloatArray = np.divide(found, whole, out=np.zeros_like(whole), where=whole > 0)
    return scores


def seed_spread(counts: Counts) -> SeedSpread:
    """Mean and deviation of the runs' F1."""
    scores = micro_f1(counts.sum(axis=1)).tolist()
    return SeedSpread(len(scores), mean(scores), stdev(scores) if len(scores) > 1 else None)


def f1_difference(before: Counts, after: Counts) -> float:
    """Mean F1 of the runs after, minus that of the runs before."""
    return float(micro_f1(after.sum(axis=1)).mean() - micro_f1(before.sum(axis=1)).mean())


def resampled_differences(
    before: Counts, after: Counts, *, seed: int | Sequence[int] = 0, n_resamples: int = N_RESAMPLES
) -> FloatArray:
    """(n_resamples,) ``f1_difference`` on as many sentences drawn with replacement, all runs on the same ones.

    Each resample is a row of multinomial counts (how often each sentence was drawn) times the sentences' counts
    (Efron and Tibshirani 1993, chapter 13). ValueError unless both have the same sentences, at least one.
    """
    n_sentences = before.shape[1]
    if after.shape[1] != n_sentences or n_sentences == 0:
        raise ValueError(f"{n_sentences} sentences before, {after.shape[1]} after: not paired")
    scores = resampled_f1(np.concatenate([before, after]), seed=seed, n_resamples=n_resamples)
    differences: FloatArray = scores[:, len(before) :].mean(1) - scores[:, : len(before)].mean(1)
    return differences


def resampled_f1(
    counts: Counts, *, seed: int | Sequence[int] = 0, n_resamples: int = N_RESAMPLES
) -> FloatArray:
    """(n_resamples, n_runs) F1 of every run, in each resample on the same drawn sentences; at least one sentence."""
    n_runs, n_sentences, _ = counts.shape
    table = np.moveaxis(counts, 0, 1).reshape(n_sentences, -1).astype(np.float64)  # (sentences, runs * 3)
    generator = np.random.default_rng(seed)
    n_rows = max(1, _BLOCK // n_sentences)
    scores = np.empty((n_resamples, n_runs))
    for start in range(0, n_resamples, n_rows):
        size = min(n_rows, n_resamples - start)
        totals = _drawn_times(generator, size, n_sentences) @ table
        scores[start : start + size] = micro_f1(totals.reshape(size, n_runs, 3))
    return scores


def percentile_interval(resampled: FloatArray) -> tuple[float, float]:
    """The 95 % percentile interval of resamples (n,) (Efron and Tibshirani 1993, chapter 13)."""
    low, high = np.quantile(resampled, [(1 - _CONFIDENCE) / 2, (1 + _CONFIDENCE) / 2])
    return float(low), float(high)


def _drawn_times(generator: np.random.Generator, n_rows: int, n_sentences: int) -> FloatArray:
    """(n_rows, n_sentences): how often each sentence is drawn in n_sentences draws; rows are independent.

    Counting uniform draws is three times faster than numpy's multinomial, and the same distribution.
    """
    drawn = generator.integers(0, n_sentences, size=(n_rows, n_sentences))
    drawn += np.arange(n_rows)[:, None] * n_sentences
    times = np.bincount(drawn.ravel(), minlength=n_rows * n_sentences)
    return times.reshape(n_rows, n_sentences).astype(np.float64)


def difference_of(value: float, resampled: FloatArray) -> Difference:
    """Interval and p-value of an observed difference from its resamples (n,).

    The interval is the percentile one (Efron and Tibshirani 1993, chapter 13). The p-value takes the resamples'
    scatter around the observed difference for that around no difference: two-sided,
    p = (1 + #{|resampled - value| >= |value|}) / (1 + n), the test of Berg-Kirkpatrick et al. (2012)
    on both sides, with the observation counted in as Davison and Hinkley (1997, section 4.2) do.
    """
    low, high = percentile_interval(resampled)
    n_as_far = int(np.count_nonzero(np.abs(resampled - value) >= abs(value)))
    return Difference(value, low, high, (1 + n_as_far) / (1 + len(resampled)))


def mcnemar_p_value(n_fixed: int, n_broken: int) -> float:
    """Exact two-sided p-value of McNemar's test: are changes to right as likely as changes to wrong?

    Of the n = n_fixed + n_broken decisions that changed, the rarer kind is Binomial(n, 1/2) when neither setting
    decides better: p = min(1, 2 P(X <= min)). Whole numbers until the end, so no rounding. 1 without a change.
    It takes decisions as independent; those of one sentence hardly are, so a p-value near the level is none to trust.
    """
    n, rarer = n_fixed + n_broken, min(n_fixed, n_broken)
    ways = total = 1
    for k in range(rarer):
        ways = ways * (n - k) // (k + 1)  # n choose k + 1
        total += ways
    return min(1.0, total / 2 ** (n - 1)) if n else 1.0
