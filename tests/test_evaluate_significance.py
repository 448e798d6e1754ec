"""The bootstrap against plain loops, scipy and its own promise; McNemar's test against scipy and enumeration."""

from __future__ import annotations

import time
import tracemalloc
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from random_corpora import paired_corpora, seeded_pair
from scipy import stats

from cdner.evaluate import score, significance
from cdner.evaluate.scores import sentence_counts
from cdner.evaluate.significance import (
    Counts,
    difference_of,
    f1_difference,
    mcnemar_p_value,
    micro_f1,
    resampled_differences,
    seed_spread,
)

TYPES = ("poet", "city", "river")
METRICS = ("strict", "span", "mention_multiset", "mention_set")


def random_counts(seed: int, *, n_runs: int = 1, n_sentences: int = 60, luck: float = 0.5) -> Counts:
    """Gold and predicted between 0 and 4 a sentence; of what can be right, a share of about ``luck`` is."""
    rng = np.random.default_rng(seed)
    gold = np.broadcast_to(np.random.default_rng(99).integers(0, 5, n_sentences), (n_runs, n_sentences))
    predicted = rng.integers(0, 5, (n_runs, n_sentences))
    return np.stack([gold, predicted, rng.binomial(np.minimum(gold, predicted), luck)], axis=-1)


def plain_f1(rows: list[list[int]]) -> float:
    gold, predicted, correct = (sum(row[k] for row in rows) for k in range(3))
    return 2 * correct / (gold + predicted) if gold + predicted else 0.0


# --- counts and F1 ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", METRICS)
def test_sentence_counts_add_up_to_the_micro_row(metric) -> None:
    gold, predicted = seeded_pair(3, n_sentences=50, types=TYPES)
    (row,) = [r for r in score(gold, predicted, TYPES) if (r.metric, r.entity_type) == (metric, "*")]
    counts = sentence_counts(gold, predicted, metric)
    assert counts.shape == (50, 3)
    assert counts.sum(0).tolist() == [row.n_gold, row.n_predicted, row.n_correct]
    assert float(micro_f1(counts.sum(0))) == pytest.approx(row.f1)


@settings(max_examples=30)
@given(paired_corpora(TYPES, TYPES, "test"))
def test_each_sentence_s_counts_are_those_of_the_sentence_alone(pair) -> None:
    sentences, predictions = pair[0].sentences, pair[1]
    alone: dict[str, list[list[int]]] = {metric: [] for metric in METRICS}
    for gold, predicted in zip(sentences, predictions, strict=True):
        for row in score([gold], [predicted], TYPES):
            if row.entity_type == "*":
                alone[row.metric].append([row.n_gold, row.n_predicted, row.n_correct])
    for metric in METRICS:
        assert sentence_counts(sentences, predictions, metric).tolist() == alone[metric]


def test_nothing_found_of_nothing_is_zero() -> None:
    assert micro_f1(np.array([[0, 0, 0], [2, 2, 1], [3, 0, 0]])).tolist() == [0.0, 0.5, 0.0]


def test_the_deviation_over_seeds_is_the_sample_s_and_one_seed_has_none() -> None:
    counts = random_counts(0, n_runs=3)
    scores = [plain_f1(run) for run in counts.tolist()]
    spread = seed_spread(counts)
    assert (spread.n_seeds, spread.mean) == (3, pytest.approx(sum(scores) / 3))
    assert spread.deviation == pytest.approx(float(np.std(scores, ddof=1)))
    assert seed_spread(counts[:1]).deviation is None


# --- bootstrap ----------------------------------------------------------------------------------------------


def test_the_bootstrap_equals_plain_loops_over_the_same_draws() -> None:
    before, after = random_counts(1, n_runs=2), random_counts(2, n_runs=3, luck=0.7)
    found = resampled_differences(before, after, seed=5, n_resamples=40)
    draws = np.random.default_rng(5).integers(0, 60, size=(40, 60)).tolist()
    for drawn, difference in zip(draws, found.tolist(), strict=True):
        old = [plain_f1([run[i] for i in drawn]) for run in before.tolist()]
        new = [plain_f1([run[i] for i in drawn]) for run in after.tolist()]
        assert difference == pytest.approx(sum(new) / 3 - sum(old) / 2)


def test_working_in_blocks_changes_nothing(monkeypatch) -> None:
    before, after = random_counts(1), random_counts(2)
    whole = resampled_differences(before, after, n_resamples=101)
    monkeypatch.setattr(significance, "_BLOCK", 7 * 60)
    assert np.array_equal(resampled_differences(before, after, n_resamples=101), whole)


def test_the_interval_equals_scipy_s() -> None:
    before, after = random_counts(1, n_sentences=200), random_counts(2, n_sentences=200, luck=0.6)

    def statistic(drawn, axis):
        return micro_f1(after[0][drawn].sum(axis)) - micro_f1(before[0][drawn].sum(axis))

    theirs = stats.bootstrap(
        (np.arange(200),),
        lambda drawn, axis: statistic(drawn, axis if drawn.ndim == 1 else 1),
        n_resamples=10_000,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    ours = difference_of(f1_difference(before, after), resampled_differences(before, after))
    assert [ours.low, ours.high] == pytest.approx([theirs.low, theirs.high], abs=0.003)
    assert ours.high - ours.low > 0.05


def test_the_same_predictions_differ_by_nothing_with_p_one() -> None:
    counts = random_counts(1)
    found = difference_of(f1_difference(counts, counts), resampled_differences(counts, counts))
    assert found == significance.Difference(0.0, 0.0, 0.0, 1.0)


def test_a_clear_difference_has_the_smallest_p_value_and_an_interval_beside_zero() -> None:
    before, after = random_counts(1, n_sentences=500, luck=0.3), random_counts(1, n_sentences=500, luck=0.9)
    found = difference_of(f1_difference(before, after), resampled_differences(before, after, n_resamples=999))
    assert found.p_value == pytest.approx(1 / 1000)
    assert 0 < found.low < found.value < found.high


def test_turning_the_comparison_round_turns_the_difference_round() -> None:
    before, after = random_counts(1), random_counts(2)
    one = difference_of(f1_difference(before, after), resampled_differences(before, after))
    other = difference_of(f1_difference(after, before), resampled_differences(after, before))
    assert [other.value, other.low, other.high] == pytest.approx([-one.value, -one.high, -one.low])
    assert other.p_value == one.p_value


def test_without_a_difference_five_percent_of_p_values_are_below_five_percent() -> None:
    """The promise of a p-value, over 400 comparisons of settings equally good by construction."""
    rng = np.random.default_rng(7)
    p_values = []
    for repetition in range(400):
        pair = random_counts(repetition, n_runs=2, n_sentences=150)
        swapped = np.where((rng.random(150) < 0.5)[None, :, None], pair, pair[::-1])
        drawn = resampled_differences(swapped[:1], swapped[1:], seed=repetition, n_resamples=300)
        p_values.append(difference_of(f1_difference(swapped[:1], swapped[1:]), drawn).p_value)
    assert 0.02 < np.mean(np.array(p_values) < 0.05) < 0.09
    assert np.mean(p_values) == pytest.approx(0.5, abs=0.06)


def test_seeds_of_one_setting_share_the_sentences_drawn() -> None:
    """Drawing them apart would make a difference of a setting to itself."""
    counts = random_counts(1, n_runs=3)
    assert np.allclose(resampled_differences(counts, counts[::-1], n_resamples=50), 0, atol=1e-15)


def test_unpaired_sentences_are_refused() -> None:
    with pytest.raises(ValueError, match="60 sentences before, 59 after"):
        resampled_differences(random_counts(1), random_counts(1)[:, :59])
    with pytest.raises(ValueError, match="0 sentences"):
        resampled_differences(random_counts(1)[:, :0], random_counts(1)[:, :0])


def test_five_thousand_sentences_take_about_a_second_and_little_memory() -> None:
    before, after = random_counts(1, n_sentences=5_000), random_counts(2, n_sentences=5_000)
    tracemalloc.start()
    started = time.process_time()
    resampled_differences(before, after, n_resamples=1_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert time.process_time() - started < 2  # a tenth of the usual resamples
    assert peak < 150e6


# --- McNemar ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n_fixed", "n_broken"), [(3, 9), (9, 3), (5, 0), (62, 93), (700, 801), (10, 10)])
def test_mcnemar_equals_scipy_s_binomial_test(n_fixed, n_broken) -> None:
    theirs = stats.binomtest(n_fixed, n_fixed + n_broken, 0.5).pvalue
    assert mcnemar_p_value(n_fixed, n_broken) == pytest.approx(theirs)


@pytest.mark.parametrize(("n_fixed", "n_broken"), [(0, 0), (0, 1), (2, 1), (1, 5), (4, 4)])
def test_mcnemar_equals_counting_all_ways_a_fair_coin_falls(n_fixed, n_broken) -> None:
    n, rarer = n_fixed + n_broken, min(n_fixed, n_broken)
    as_far = [sum(ways) <= rarer or sum(ways) >= n - rarer for ways in product((0, 1), repeat=n)]
    assert mcnemar_p_value(n_fixed, n_broken) == sum(as_far) / len(as_far)


def test_mcnemar_of_very_many_decisions_does_not_overflow() -> None:
    assert 0 < mcnemar_p_value(4_000, 6_000) < 1e-80
