"""Temperature scaling against scipy; bins and errors against plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import optimize

from cdner.evaluate.calibration import (
    N_BINS,
    bin_of,
    calibration_error_per_type,
    expected_calibration_error,
    fit_temperature,
    log_loss,
    reliability,
    tempered,
)


def drawn(seed: int, *, n: int = 200, k: int = 5, temperature: float = 1.0):
    """Log-probabilities, and gold types drawn from them at another temperature."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(0, 2, (n, k))
    log_probs = scores - np.log(np.exp(scores).sum(1, keepdims=True))
    p = np.exp(log_probs / temperature)
    gold = np.array([rng.choice(k, p=row / row.sum()) for row in p])
    return log_probs, gold


def plain_loss(log_probs, gold, temperature: float) -> float:
    total = 0.0
    for row, column in zip(log_probs, gold, strict=True):
        weights = [math.exp(score / temperature) for score in row]
        total -= math.log(weights[column] / sum(weights))
    return total / len(gold)


def plain_error(confidence, correct, n_bins: int) -> float:
    total = 0.0
    for k in range(n_bins):
        held = [
            (c, r)
            for c, r in zip(confidence, correct, strict=True)
            if k / n_bins < c <= (k + 1) / n_bins or (k == 0 and c == 0)
        ]
        if held:
            total += abs(sum(c for c, _ in held) - sum(r for _, r in held))
    return total / len(confidence)


# --- temperature ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_the_temperature_is_scipy_s(seed, temperature) -> None:
    log_probs, gold = drawn(seed, temperature=temperature)
    found = optimize.minimize_scalar(
        lambda x: plain_loss(log_probs, gold, math.exp(x)),
        bounds=(-6, 6),
        method="bounded",
        options={"xatol": 1e-9},
    )
    assert math.log(fit_temperature(log_probs, gold)) == pytest.approx(found.x, abs=1e-4)
    assert log_loss(log_probs, gold) == pytest.approx(plain_loss(log_probs, gold, 1.0))


def test_the_temperature_that_the_types_were_drawn_with_is_found() -> None:
    log_probs, gold = drawn(0, n=20_000, temperature=2.5)
    assert fit_temperature(log_probs, gold) == pytest.approx(2.5, rel=0.05)


def test_a_fit_starts_far_away_and_shifted_rows_change_nothing() -> None:
    log_probs, gold = drawn(1)
    expected = fit_temperature(log_probs, gold)
    shifted = log_probs * 200 + np.arange(len(gold))[:, None]
    assert fit_temperature(shifted, gold) == pytest.approx(200 * expected, rel=1e-4)
    assert fit_temperature(log_probs / 200, gold) == pytest.approx(expected / 200, rel=1e-4)


def test_where_there_is_no_maximum_the_temperature_is_at_its_bound() -> None:
    log_probs, _ = drawn(2)
    assert fit_temperature(log_probs, log_probs.argmax(1)) < 0.01
    assert fit_temperature(log_probs, log_probs.argmin(1)) == pytest.approx(math.exp(12))


def test_a_type_without_any_probability_is_no_obstacle() -> None:
    log_probs = np.array([[0.0, -np.inf], [math.log(0.5), math.log(0.5)], [-np.inf, 0.0]])
    assert 0 < fit_temperature(log_probs, np.array([1, 0, 1])) < math.inf
    assert tempered(log_probs, 2.0).sum(1) == pytest.approx(np.ones(3))


@pytest.mark.parametrize(
    ("log_probs", "gold"),
    [
        (np.zeros((0, 3)), np.zeros(0, dtype=np.int64)),
        (np.array([[np.nan, 0.0]]), np.array([0])),
        (np.array([[-np.inf, -np.inf]]), np.array([0])),
        (np.zeros((2, 3)), np.array([0])),
    ],
)
def test_a_fit_of_what_is_no_distribution_is_refused(log_probs, gold) -> None:
    with pytest.raises(ValueError, match="log_probs"):
        fit_temperature(log_probs, gold)


def test_tempered_is_a_softmax() -> None:
    log_probs, _ = drawn(3, n=10)
    for row, probabilities in zip(log_probs, tempered(log_probs, 1.7), strict=True):
        weights = [math.exp(score / 1.7) for score in row]
        assert probabilities == pytest.approx([weight / sum(weights) for weight in weights])


# --- bins -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_bins", [1, 4, N_BINS])
@pytest.mark.parametrize("seed", range(4))
def test_errors_are_those_of_plain_loops(seed, n_bins) -> None:
    rng = np.random.default_rng(seed)
    confidence = np.concatenate([rng.random(300), [0.0, 1.0, 0.25, 0.5, 0.75]])
    correct = rng.random(len(confidence)) < confidence**2
    assert expected_calibration_error(confidence, correct, n_bins=n_bins) == pytest.approx(
        plain_error(confidence, correct, n_bins)
    )
    bins = reliability(confidence, correct, n_bins=n_bins)
    assert len(bins) == n_bins
    assert sum(found.n for found in bins) == len(confidence)
    assert sum(found.n * found.share_correct for found in bins) == pytest.approx(correct.sum())
    assert all(found.low <= found.mean_confidence <= found.high for found in bins if found.n)


def test_errors_per_type_ask_each_type_against_the_others() -> None:
    log_probs, gold = drawn(5)
    probabilities = np.exp(log_probs)
    found = calibration_error_per_type(probabilities, gold)
    for k in range(5):
        assert found[k] == pytest.approx(plain_error(probabilities[:, k], gold == k, N_BINS))


def test_a_bin_holds_its_upper_edge_and_the_first_one_zero() -> None:
    assert bin_of(np.array([0.0, 0.5, 0.500001, 1.0]), 2).tolist() == [0, 0, 1, 1]
    with pytest.raises(ValueError, match="outside"):
        bin_of(np.array([1.5]))


def test_nothing_has_no_error() -> None:
    empty = np.zeros(0)
    assert expected_calibration_error(empty, empty.astype(bool)) == 0
    assert [found.n for found in reliability(empty, empty.astype(bool))] == [0] * N_BINS
