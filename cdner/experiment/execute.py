"""Runs a plan against the store: what is done is skipped, what fails or is interrupted leaves a resumable attempt."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from cdner.errors import CdnerError, PartialError, RunBusyError
from cdner.experiment.forecast import NOTHING, Forecast, expected_seconds, forecast
from cdner.experiment.plan import Plan
from cdner.steps.context import Context
from cdner.steps.kinds import KINDS
from cdner.steps.step import Step
from cdner.store import Store, runs
from cdner.store.runs import AttemptStatus, seconds_per_unit
from cdner.types import Progress

POLL_SECONDS = 1.0  # while another process executes a run we need


@dataclass(frozen=True, slots=True)
class Outcome:
    label: str
    run_id: str
    state: str  # "done" or "found" (was done before, or by another process while we waited)
    seconds: float


@dataclass(frozen=True, slots=True)
class Preview:
    label: str
    run_id: str
    state: str
    forecast: Forecast | None  # None: the step asks no LLM
    seconds: float | None  # None: nothing of the kind was done on this machine, or how much it is is unknown


def execute(plan: Plan, context: Context, *, force: set[str] | None = None) -> list[Outcome]:
    """Execute every step that is not done. Errors leave the attempt marked and finished work stored.

    A step that another process is executing is waited for, without limit: the user can always interrupt.
    """
    outcomes = []
    context.look_up([step.spec.run_id for step in plan.steps])
    for step in plan.steps:
        forced = step.label in (force or set())
        started = time.monotonic()
        attempt = _begin(step, context, force=forced)
        if attempt is not None:
            with recorded(context.store, attempt, context.progress):
                KINDS[step.kind].run(step, context)
        state = "found" if attempt is None else "done"
        outcomes.append(Outcome(step.label, step.spec.run_id, state, time.monotonic() - started))
    return outcomes


def _begin(step: Step, context: Context, *, force: bool) -> str | None:
    """The attempt's id; None when the run is done, here before or by the process we waited for."""
    execution = context.experiment.execution.identity()
    while force or context.run_state(step.spec.run_id) != "done":
        try:
            return runs.begin_attempt(context.store, step.spec, execution, force=force)
        except RunBusyError as error:
            context.progress.start(f"{step.label}: waiting. {error}")
        while context.run_state(step.spec.run_id) == "running":
            time.sleep(POLL_SECONDS)
    return None


@contextmanager
def recorded(store: Store, attempt: str, progress: Progress | None = None) -> Iterator[None]:
    """Record how the attempt ends, whatever ends it, and the warnings given meanwhile."""
    n_before = len(progress.warnings) if progress else 0

    def finish(status: AttemptStatus, error: str = "") -> None:
        warnings = progress.warnings[n_before:] if progress else ()
        runs.finish_attempt(store, attempt, status, error, warnings=warnings)

    try:
        yield
    except PartialError as error:
        finish("partial", str(error))
        raise
    except CdnerError as error:
        finish("failed", str(error))
        raise
    except KeyboardInterrupt:
        finish("interrupted")
        raise
    except BaseException as error:
        # Not ours: record that the attempt ended, then let the traceback through.
        finish("failed", f"{type(error).__name__}: {error}")
        raise
    finish("done")


def label_plan(plan: Plan, context: Context, *, whole: bool) -> None:
    """Remember which runs belong to the experiment (``experiment_run``); a whole plan drops what it no longer has."""
    rows = [(step.spec.run_id, step.label) for step in plan.steps]
    runs.label_experiment(context.store, plan.experiment.name, rows, replace=whole)


def preview(plan: Plan, context: Context) -> list[Preview]:
    """State of every step, and what is still to be asked of an LLM. Executes nothing."""
    rows = []
    context.look_up([step.spec.run_id for step in plan.steps])
    rates = seconds_per_unit(context.store)
    for step in plan.steps:
        state, asked = context.run_state(step.spec.run_id), None
        seconds: float | None = 0.0
        if KINDS[step.kind].asks:
            asked = NOTHING if state == "done" else forecast(step, context)
        if state != "done":
            seconds = expected_seconds(step, plan, context, rates=rates, asked=asked)
        rows.append(Preview(step.label, step.spec.run_id, state, asked, seconds))
    return rows
