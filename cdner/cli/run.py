"""``cdner run``: a whole experiment with one command, and the table at its end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cdner.cli.closing import print_closing
from cdner.config import Experiment, Label
from cdner.console.experiment_options import (
    compose_experiment,
    experiment_options,
    recorded_answers,
    shipped_experiments,
)
from cdner.console.output import format_options, print_rows, print_table
from cdner.console.progress import StderrProgress
from cdner.console.usage import DRY_RUN_HELP, execute_and_account, print_plans
from cdner.errors import UsageError

if TYPE_CHECKING:
    from cdner.experiment.execute import Outcome
    from cdner.experiment.plan import Plan
    from cdner.steps.context import Context


OWN_EXPERIMENT = "own"  # what --target alone stands for


@click.command("run")
@click.argument("experiment_name", metavar="[EXPERIMENT]", required=False)
@click.option(
    "--until", metavar="STEP", help="Stop after this kind of step or label, e.g. quantify, train:full."
)
@click.option("--dry-run", is_flag=True, help=DRY_RUN_HELP)
@click.option(
    "--recorded",
    is_flag=True,
    help="Ask no LLM: load the answers that come with EXPERIMENT into the store, and replay them.",
)
@click.option("--list", "list_shipped", is_flag=True, help="List the shipped experiments.")
@experiment_options
@format_options
@click.pass_context
def run(
    ctx: click.Context,
    /,
    experiment_name: str | None,
    until: str | None,
    output_format: str | None,
    corpora_from: Path | None,
    overrides: tuple[str, ...],
    *,
    dry_run: bool,
    recorded: bool,
    list_shipped: bool,
    **flags: Any,
) -> None:
    """Run EXPERIMENT (a TOML file or a shipped name): import, train, describe, quantify, reason, predict, evaluate.

    Finished steps are found in the store and not repeated; an interrupted one goes on where it stopped. Without
    EXPERIMENT, --target DOMAIN runs the experiment 'own' on a domain of your own.
    """
    from cdner.experiment.execute import label_plan
    from cdner.experiment.preflight import check_plan
    from cdner.steps.context import open_context

    if list_shipped:
        listed = [(name, compose_experiment(name, {}, ()).description) for name in shipped_experiments()]
        print_rows(("experiment", "description"), listed, output_format)
        return
    if experiment_name is None and flags.get("target"):
        experiment_name = OWN_EXPERIMENT
    if experiment_name is None:
        raise UsageError(f"Which experiment? Shipped: {', '.join(shipped_experiments())}; or a TOML file.")
    experiment = compose_experiment(experiment_name, flags, overrides)
    answers = _recorded_answers(experiment_name) if recorded else None
    if answers:
        execution = experiment.execution.model_copy(update={"replay": True})
        experiment = experiment.model_copy(update={"execution": execution})
    quiet = ctx.obj["quiet"]
    with (
        StderrProgress(quiet=quiet) as progress,
        open_context(ctx.obj["store"], experiment, progress=progress, corpora_from=corpora_from) as context,
    ):
        planned = _planned(experiment, context, until)
        if answers:
            _load_answers(answers, planned, quiet=quiet)
        if dry_run:
            print_plans(planned, output_format)
            return
        for plan, own in planned:
            check_plan(plan, own)
        outcomes: list[Outcome] = []
        for plan, own in planned:
            label_plan(plan, own, whole=not until)
            outcomes += execute_and_account(plan, own, quiet=quiet)
            own.models.release()  # the next cell loads its own model
    if len(planned) > 1:
        _print_cells(planned, outcomes, output_format=output_format)
    else:
        _print_outcomes(*planned[0], outcomes, output_format=output_format)


def _recorded_answers(name: str) -> Path:
    """The bundle that comes with an experiment. UsageError for one without."""
    recordings = recorded_answers()
    if name not in recordings:
        raise UsageError(
            f"No answers are recorded for '{name}'. Recorded: {', '.join(recordings) or 'none'}. "
            "Leave --recorded off to ask the LLM."
        )
    return recordings[name]


def _load_answers(file: Path, planned: Sequence[tuple[Plan, Context]], *, quiet: bool) -> None:
    """Load a bundle behind the corpora whose sentences its prompts leave out."""
    from cdner.bundle.contents import load_bundle

    for plan, own in planned:
        imports = [step.label for step in plan.steps if step.kind == "import"]
        execute_and_account(plan.closure(imports), own, quiet=quiet)
    load_bundle(planned[0][1].store, file)


def _planned(experiment: Experiment, context: Context, until: str | None) -> list[tuple[Plan, Context]]:
    """Each cell's plan with the context it runs in; LLM backends, corpora and the store are shared by all."""
    from cdner.experiment.plan import build_plan
    from cdner.matrix import cells

    planned = []
    for cell in cells(experiment):
        own = replace(context, experiment=cell)
        plan = build_plan(cell, own)
        if until:
            plan = plan.closure(_until(until, [step.label for step in plan.steps]))
        planned.append((plan, own))
    return planned


def _print_cells(
    planned: Sequence[tuple[Plan, Context]], outcomes: Sequence[Outcome], *, output_format: str | None
) -> None:
    """The scores of every cell for programs; for people means over seeds."""
    from cdner.experiment.summary import averaged_scores, setting_scores

    rows: list[tuple[object, ...]] = []
    columns: tuple[str, ...] = ()
    for plan, context in planned:
        columns, scores = setting_scores(plan, context)
        rows += [(plan.experiment.name, *row) for row in scores]
    columns = ("experiment", *columns)
    if not rows:
        _print_steps(outcomes, output_format)
    elif output_format:
        print_rows(columns, rows, output_format)
    else:
        title = "percent, exact spans and types (P, R, F1): mean over n seeds and standard deviation"
        shown, averages = averaged_scores(columns, rows)
        print_table(shown, averages, title=title)


def _print_steps(outcomes: Sequence[Outcome], output_format: str | None) -> None:
    done = [(o.label, o.run_id, o.state, round(o.seconds, 2)) for o in outcomes]
    print_rows(("step", "run_id", "state", "seconds"), done, output_format)


def _print_outcomes(
    plan: Plan, context: Context, outcomes: Sequence[Outcome], *, output_format: str | None
) -> None:
    """The scores and what they mean; of a plan cut before any score the executed steps."""
    from cdner.experiment.summary import setting_scores

    columns, scores = setting_scores(plan, context)
    if not scores:
        _print_steps(outcomes, output_format)
    elif output_format:
        print_rows(columns, scores, output_format)
    else:
        print_closing(plan, context, columns, scores)


def _until(until: str, labels: list[str]) -> list[str]:
    chosen = [label for label in labels if label == until or Label.of(label).kind == until]
    if not chosen:
        kinds = list(dict.fromkeys(Label.of(label).kind for label in labels))
        raise UsageError(f"No step '{until}'. Kinds: {', '.join(kinds)}; labels: {', '.join(labels)}.")
    return chosen


COMMANDS = {"run": run}
