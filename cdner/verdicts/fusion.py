"""The backbone's probabilities and the LLM's as one decision: a log-linear combination with a bias for each type.

score(t) = a log p_backbone(t) + w log p_LLM(t) + b_t, the type with the highest score wins. ``a``, ``w`` and ``b`` are
fitted on dev mentions by penalised multinomial logistic regression, a convex problem solved by Newton's method.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cdner.types import FloatArray

SMALLEST = 1e-6  # probabilities are bounded below: a zero would forbid a type whatever the other one says
_MAX_STEPS = 100
_TOLERANCE = 1e-9
IntArray = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Fusion:
    """Weights of the decision."""

    backbone: float
    llm: float
    biases: FloatArray  # (K,), in the domain's order of types

    def scores(self, p_backbone: FloatArray, p_llm: FloatArray) -> FloatArray:
        """(n, K) log-linear scores of (n, K) probabilities; softmax over a row gives fused probabilities."""
        combined: FloatArray = self.backbone * bounded_log(p_backbone) + self.llm * bounded_log(p_llm)
        return combined + self.biases


def bounded_log(probabilities: FloatArray) -> FloatArray:
    logs: FloatArray = np.log(np.maximum(probabilities, SMALLEST))
    return logs


def decide(fusion: Fusion, p_backbone: FloatArray, p_llm: FloatArray) -> FloatArray:
    """(n, K) fused probabilities, rows sum to 1."""
    return softmax(fusion.scores(p_backbone, p_llm))


def softmax(scores: FloatArray) -> FloatArray:
    """(n, K), by row."""
    weights: FloatArray = np.exp(scores - scores.max(axis=1, keepdims=True))
    shares: FloatArray = weights / weights.sum(axis=1, keepdims=True)
    return shares


def fit_fusion(
    p_backbone: FloatArray, p_llm: FloatArray, gold: IntArray, *, penalty: float, biases: bool
) -> Fusion:
    """Weights that make the gold types of n mentions most probable.

    ``p_backbone``, ``p_llm``: (n, K); ``gold``: (n,) indices of types. Minimised is the summed negative
    log-likelihood + ``penalty`` / 2 x ((a - 1)^2 + w^2 + sum of b_t^2): without mentions the backbone decides alone.
    """
    n_types = p_backbone.shape[1]
    features = np.stack([bounded_log(p_backbone), bounded_log(p_llm)], axis=2)  # (n, K, 2)
    n_biases = n_types if biases else 0
    start: FloatArray = np.zeros(2 + n_biases)
    start[0] = 1.0
    # A little of it always: without any, biases are determined only up to a constant.
    ridge = np.ones_like(start) * max(penalty, 1e-6)
    weights = start.copy()
    for _ in range(_MAX_STEPS):
        gradient, hessian = _derivatives(weights, features, gold, n_biases)
        gradient += ridge * (weights - start)
        hessian += np.diag(ridge)
        step = np.asarray(np.linalg.solve(hessian, gradient), dtype=np.float64)
        weights = _shortened(weights, step, features, gold, ridge=ridge, start=start)
        if np.abs(step).max() < _TOLERANCE:
            break
    fitted = weights[2:] if biases else np.zeros(n_types)
    return Fusion(float(weights[0]), float(weights[1]), fitted)


def objective(
    weights: FloatArray, features: FloatArray, gold: IntArray, *, ridge: FloatArray, start: FloatArray
) -> float:
    """What is minimised."""
    scores = _scores(weights, features)
    highest = scores.max(axis=1, keepdims=True)
    log_total = highest[:, 0] + np.log(np.exp(scores - highest).sum(axis=1))
    misfit = (log_total - scores[np.arange(len(gold)), gold]).sum()
    return float(misfit + 0.5 * (ridge * (weights - start) ** 2).sum())


def _scores(weights: FloatArray, features: FloatArray) -> FloatArray:
    scores: FloatArray = features @ weights[:2]
    return scores + weights[2:] if len(weights) > 2 else scores


def _derivatives(
    weights: FloatArray, features: FloatArray, gold: IntArray, n_biases: int
) -> tuple[FloatArray, FloatArray]:
    """Gradient and Hessian of the negative log-likelihood."""
    n, k, _ = features.shape
    shares = softmax(_scores(weights, features)) if n else np.zeros((0, k))
    inputs = features
    if n_biases:
        inputs = np.concatenate([features, np.broadcast_to(np.eye(k), (n, k, k))], axis=2)
    expected = np.einsum("nk,nkf->nf", shares, inputs)
    gradient = expected.sum(axis=0) - inputs[np.arange(n), gold].sum(axis=0)
    weighted = inputs * shares[:, :, None]
    n_features = inputs.shape[2]
    flat_weighted, flat = weighted.reshape(n * k, n_features), inputs.reshape(n * k, n_features)
    hessian = flat_weighted.T @ flat - expected.T @ expected
    return gradient, hessian


def _shortened(
    weights: FloatArray,
    step: FloatArray,
    features: FloatArray,
    gold: IntArray,
    *,
    ridge: FloatArray,
    start: FloatArray,
) -> FloatArray:
    """Newton's step, halved until the objective does not rise."""
    now = objective(weights, features, gold, ridge=ridge, start=start)
    for _ in range(30):
        tried = weights - step
        if objective(tried, features, gold, ridge=ridge, start=start) <= now:
            return tried
        step = step / 2
    return weights
