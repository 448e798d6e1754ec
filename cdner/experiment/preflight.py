"""What can be known to fail before anything is executed: names, keys, packages, weights that are not here.

Exists because a wrong backend name must not cost an hour of training first. Asks no server and loads no model.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from cdner import prompts
from cdner.config import Prediction, Training
from cdner.confusion.descriptions import gloss, read_descriptions
from cdner.errors import CdnerError, UsageError, unknown_name
from cdner.experiment import forecast
from cdner.experiment.plan import Plan
from cdner.models.engines import check_engine, check_training
from cdner.models.shelf import model_location
from cdner.registry import names
from cdner.steps.context import Context
from cdner.steps.reasoning_from_file import check_file
from cdner.steps.step import FROM_FILE, Step
from cdner.verdicts.questions import answer_names

PBRC_TEMPLATES = "pbrc."
JUDGE_TEMPLATES = "judge."


def check_plan(plan: Plan, context: Context, *, force: Collection[str] = ()) -> None:
    """Raise the first problem of a step that is to be executed, with its own class and exit code."""
    for problem in problems(plan, context, force=force):
        raise problem


def problems(plan: Plan, context: Context, *, force: Collection[str] = ()) -> Iterator[CdnerError]:
    """One problem per kind of step that is not done (or is forced) and cannot work on this machine."""
    checked: set[str] = set()
    context.look_up([step.spec.run_id for step in plan.steps])
    for step in plan.steps:
        check = _CHECKS.get(step.kind)
        if check is None or check.__name__ in checked:
            continue
        if step.label not in force and context.run_state(step.spec.run_id) == "done":
            continue
        try:
            check(step, context)
        except CdnerError as error:
            checked.add(check.__name__)
            yield error


def _check_backbone(step: Step, context: Context) -> None:  # noqa: ARG001  every check has one signature
    choice, device = context.experiment.backbone, context.experiment.execution.device
    if choice.family not in names("backbone"):
        raise unknown_name("backbone", choice.family, names("backbone"))
    model_location(choice.model)  # ModelError for a model of the shelf that is not here
    if device not in ("auto", "cpu"):  # these two are everywhere, and asking about others imports torch
        from cdner.models.devices import choose_device

        choose_device(device)


def _check_training(step: Step, context: Context) -> None:
    _check_backbone(step, context)
    settings = cast(Mapping[str, Any], step.spec.settings)["training"]
    check_training(Training.model_validate(settings), family=context.experiment.backbone.family)


def _check_prediction(step: Step, context: Context) -> None:
    _check_backbone(step, context)
    settings = cast(Mapping[str, Any], step.spec.settings)["predict"]
    prediction = Prediction.of_run(settings)
    family = context.experiment.backbone.family
    check_engine(
        prediction.engine, family=family, decoding=prediction.decoding, confidence=prediction.confidence
    )


def _check_crossfit(step: Step, context: Context) -> None:
    _check_training(step, context)
    _check_prediction(step, context)


def _check_describing(step: Step, context: Context) -> None:
    target = context.domain(context.experiment.corpora.target, "target")
    for entry in target.entries:
        gloss(entry)
    if context.experiment.describe.backend == FROM_FILE:
        read_descriptions(Path(context.experiment.describe.model), target)
    _check_llm(step, context)


def _check_reasoning(step: Step, context: Context) -> None:
    settings = context.experiment.reason
    if settings.backend == FROM_FILE:
        check_file(step, context)
        return
    if not settings.template.startswith(PBRC_TEMPLATES):
        raise UsageError(
            f"reason.template = '{settings.template}' is no template for reasoning texts: "
            f"their names begin with '{PBRC_TEMPLATES}'."
        )
    _check_examples(context)
    _check_llm(step, context)


def _check_extraction(step: Step, context: Context) -> None:
    _check_examples(context)
    _check_llm(step, context)


def _check_judging(step: Step, context: Context) -> None:
    domain = context.domain(context.experiment.corpora.target, "target")
    settings = context.experiment.judge
    if not settings.template.startswith(JUDGE_TEMPLATES):
        raise UsageError(
            f"judge.template = '{settings.template}' is not a template for verdicts: "
            f"their names begin with '{JUDGE_TEMPLATES}'."
        )
    answer_names(domain, settings)
    _check_llm(step, context)


def _check_examples(context: Context) -> None:
    settings, target = context.experiment.reason, context.experiment.corpora.target
    n_present = len(prompts.load_examples(target)) if settings.n_examples else 0
    if settings.n_examples > n_present:
        raise UsageError(
            f"reason.n_examples = {settings.n_examples}, but '{target}' has {n_present} examples."
        )


def _check_llm(step: Step, context: Context) -> None:
    """Open the backend where it will be asked; what the store can answer needs none."""
    llm = forecast.llm_of(step, context)
    if llm is None:
        return
    if context.experiment.execution.replay or not forecast.must_ask(step, context):
        return
    context.llm(llm)


_CHECKS: Mapping[str, Callable[[Step, Context], None]] = {
    "train": _check_training,
    "crossfit": _check_crossfit,
    "embed": _check_backbone,
    "predict": _check_prediction,
    "describe": _check_describing,
    "reason": _check_reasoning,
    "extract": _check_extraction,
    "judge": _check_judging,
}
