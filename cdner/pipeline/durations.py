"""How long the steps of a plan are going to take, by what such steps took on this machine: ``--dry-run``.

Knows no speed that was not measured in this store: of work that has not been done here yet it says nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from cdner.pipeline.context import Context
from cdner.pipeline.forecast import Forecast
from cdner.pipeline.plan import LLM_KINDS, Plan, Step
from cdner.store.durations import WorkKind
from cdner.types import Split


def expected_seconds(
    step: Step, plan: Plan, context: Context, *, rates: Mapping[WorkKind, float], asked: Forecast | None
) -> float | None:
    """Seconds of a step that is not done; None where none of its kind was, or its amount is not known yet.

    ``rates``: ``store.durations.seconds_per_unit``; ``asked``: the forecast of a step that asks an LLM.
    """
    n_units = _n_units(step, context, asked)
    if n_units == 0:
        return 0.0
    rate = rates.get(work_kind(step, plan))
    return None if rate is None or n_units is None else rate * n_units


def work_kind(step: Step, plan: Plan) -> WorkKind:
    """As the view ``step_duration`` tells it from a stored run."""
    settings = cast(Mapping[str, Any], step.spec.settings)
    weights = settings.get("weights")
    if weights is None:
        models = [plan.by_label[label] for label in step.inputs.values() if label.startswith("train:")]
        weights = cast(Mapping[str, Any], models[0].spec.settings)["weights"] if models else ""
    return WorkKind(step.kind, weights, any(role.endswith("reasoning") for role in step.inputs))


def _n_units(step: Step, context: Context, asked: Forecast | None) -> int | None:
    """Calls of an LLM; sentences, in a training once an epoch; 1 for everything else."""
    if step.kind in LLM_KINDS:
        return asked.n_calls if asked else None
    settings = cast(Mapping[str, Any], step.spec.settings)
    if step.kind == "train":
        n = _n_sentences(step.inputs["train"], settings["n_train"], context)
        return None if n is None else n * int(settings["training"]["epochs"])
    if step.kind == "crossfit":  # each sentence is trained on in all folds but its own
        n, others = (
            _n_sentences(step.inputs["train"], settings["n_train"], context),
            settings["crossfit"]["folds"] - 1,
        )
        return None if n is None else n * int(settings["training"]["epochs"]) * others
    if step.kind == "predict":
        return _n_sentences(step.inputs["corpus"], settings["n"], context)
    return 1


def _n_sentences(imported: str, sample: Any, context: Context) -> int | None:
    """Of a corpus named by the label of its import, ``import:ai/train``."""
    domain, _, split = imported.removeprefix("import:").partition("/")
    return context.n_sentences(domain, cast(Split, split), sample)
