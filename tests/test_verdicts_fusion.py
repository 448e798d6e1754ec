"""The fusion's fit against scipy's optimiser, its derivatives against differences, and what it must get right."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize

from cdner.verdicts import decide, fit_fusion
from cdner.verdicts.fusion import SMALLEST, Fusion, softmax


def opinions(seed: int, *, n: int = 200, k: int = 5):
    """Gold types, and two opinions that are each right more often than not."""
    rng = np.random.default_rng(seed)
    gold = rng.integers(0, k, n)
    signal = np.eye(k)[gold]
    return (
        softmax(1.5 * signal + rng.normal(0, 1, (n, k))),
        softmax(1.0 * signal + rng.normal(0, 1, (n, k))),
        gold,
    )


def penalised_loss(weights, p_backbone, p_llm, gold, *, penalty):
    """The same in plain loops, from the formula in the module's docstring."""
    a, w, biases = weights[0], weights[1], weights[2:]
    total = penalty / 2 * ((a - 1) ** 2 + w**2 + sum(b**2 for b in biases))
    for backbone, llm, right in zip(p_backbone, p_llm, gold, strict=True):
        scores = [
            a * np.log(max(pb, SMALLEST)) + w * np.log(max(pl, SMALLEST)) + (biases[t] if len(biases) else 0)
            for t, (pb, pl) in enumerate(zip(backbone, llm, strict=True))
        ]
        total += np.log(sum(np.exp(score) for score in scores)) - scores[right]
    return total


@pytest.mark.parametrize("biases", [True, False])
@pytest.mark.parametrize("penalty", [0.1, 1.0, 10.0])
def test_the_fit_finds_what_a_general_optimiser_finds(biases, penalty):
    p_backbone, p_llm, gold = opinions(3, n=120)
    fusion = fit_fusion(p_backbone, p_llm, gold, penalty=penalty, biases=biases)
    start = np.zeros(2 + (5 if biases else 0))
    start[0] = 1
    found = minimize(
        lambda weights: penalised_loss(weights, p_backbone, p_llm, gold, penalty=penalty),
        start,
        method="BFGS",
        options={"gtol": 1e-6},
    )
    ours = np.array([fusion.backbone, fusion.llm, *(fusion.biases if biases else ())])
    np.testing.assert_allclose(ours, found.x, atol=2e-3)
    assert penalised_loss(ours, p_backbone, p_llm, gold, penalty=penalty) <= found.fun + 1e-9


def test_without_mentions_the_backbone_decides_alone():
    fusion = fit_fusion(
        np.zeros((0, 4)), np.zeros((0, 4)), np.zeros(0, dtype=np.int64), penalty=1.0, biases=True
    )
    assert (fusion.backbone, fusion.llm) == (1.0, 0.0)
    assert not fusion.biases.any()
    shares = np.array([[0.1, 0.2, 0.3, 0.4]])
    np.testing.assert_allclose(decide(fusion, shares, np.array([[0.9, 0.05, 0.03, 0.02]])), shares)


def test_an_opinion_that_knows_nothing_gets_no_weight_and_a_good_one_does():
    p_backbone, p_llm, gold = opinions(5, n=400)
    with_noise = np.random.default_rng(0).dirichlet(np.ones(5), 400)
    assert abs(fit_fusion(p_backbone, with_noise, gold, penalty=1.0, biases=False).llm) < 0.15
    both = fit_fusion(p_backbone, p_llm, gold, penalty=1.0, biases=False)
    right_alone = (p_backbone.argmax(1) == gold).mean()
    right_fused = (decide(both, p_backbone, p_llm).argmax(1) == gold).mean()
    assert both.llm > 0.3
    assert right_fused > right_alone + 0.03


def test_a_type_that_both_name_too_often_gets_a_negative_bias():
    p_backbone, p_llm, gold = opinions(7, n=600)
    tilted = np.array([4.0, 1, 1, 1, 1])
    p_backbone, p_llm = p_backbone * tilted, p_llm * tilted
    p_backbone /= p_backbone.sum(1, keepdims=True)
    p_llm /= p_llm.sum(1, keepdims=True)
    fusion = fit_fusion(p_backbone, p_llm, gold, penalty=1.0, biases=True)
    assert fusion.biases[0] < -0.5
    assert fusion.biases[0] < fusion.biases[1:].min()


def test_a_probability_of_zero_forbids_nothing():
    fusion = Fusion(1.0, 1.0, np.zeros(2))
    shares = decide(fusion, np.array([[0.0, 1.0]]), np.array([[1.0, 0.0]]))
    np.testing.assert_allclose(shares, [[0.5, 0.5]])
