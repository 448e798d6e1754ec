"""Predictions against gold entities: scores, errors, and whether two settings differ by more than chance.

Pure counting: knows no model and no store.
"""

from __future__ import annotations

from cdner.evaluate.blocks import evaluate_parts
from cdner.evaluate.entity_arrays import Metric
from cdner.evaluate.scores import (
    MACRO,
    MICRO,
    ErrorRow,
    Evaluation,
    ScoreRow,
    error_proportions,
    evaluate_predictions,
    f1_score,
    score,
)

__all__ = [
    "MACRO",
    "MICRO",
    "ErrorRow",
    "Evaluation",
    "Metric",
    "ScoreRow",
    "error_proportions",
    "evaluate_parts",
    "evaluate_predictions",
    "f1_score",
    "score",
]
