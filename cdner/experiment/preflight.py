"""What can be known to fail before anything is executed: names, keys, packages, weights that are not here.

Exists because a wrong backend name must not cost an hour of training first. Asks no server and loads no model.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from cdner.errors import CdnerError
from cdner.experiment.plan import Plan
from cdner.steps.context import Context
from cdner.steps.kinds import KINDS


def check_plan(plan: Plan, context: Context, *, force: Collection[str] = ()) -> None:
    """Raise the first problem of a step that is to be executed, with its own class and exit code."""
    for problem in problems(plan, context, force=force):
        raise problem


def problems(plan: Plan, context: Context, *, force: Collection[str] = ()) -> Iterator[CdnerError]:
    """One problem per kind of step that is not done (or is forced) and cannot work on this machine."""
    checked: set[object] = set()  # checks that have found a problem
    context.look_up([step.spec.run_id for step in plan.steps])
    for step in plan.steps:
        check = KINDS[step.kind].check
        if check is None or check in checked:
            continue
        if step.label not in force and context.run_state(step.spec.run_id) == "done":
            continue
        try:
            check(step, context)
        except CdnerError as error:
            checked.add(check)
            yield error
