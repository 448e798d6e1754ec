"""All kinds of steps by name."""

from __future__ import annotations

from collections.abc import Mapping

from cdner.steps import (
    crossfitting,
    describing,
    evaluating,
    extracting,
    fusing,
    importing,
    judging,
    predicting,
    quantifying,
    reasoning,
    telling,
    training,
)
from cdner.steps.context import Context
from cdner.steps.protocol import StepKind
from cdner.steps.step import Step
from cdner.types import ReasoningRequest

KINDS: Mapping[str, StepKind] = {
    kind.name: kind
    for kind in (
        importing.KIND,
        training.KIND,
        predicting.KIND,
        describing.KIND,
        describing.EMBED,
        quantifying.KIND,
        reasoning.KIND,
        extracting.KIND,
        judging.KIND,
        crossfitting.KIND,
        telling.KIND,
        fusing.KIND,
        evaluating.KIND,
    )
}
STEP_NAMES = (*KINDS, "explain")  # explain is in no plan: its sentence is in no corpus


def sentence_requests(step: Step, context: Context) -> tuple[list[int], list[ReasoningRequest]]:
    """Positions and requests of a describe, reason or extract step; a description's position is that of its type."""
    if step.kind == "describe":
        requests = list(describing.description_requests_of(context))
        return list(range(len(requests))), requests
    windows = extracting.windows_of if step.kind == "extract" else reasoning.request_windows
    found = list(windows(step, context))
    return [p for window in found for p in window.positions], [r for window in found for r in window.requests]
