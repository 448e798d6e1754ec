"""``cdner runs``: what was asked, and how each attempt at it ended. Also how other commands name one run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from cdner.console.named_runs import experiment_name
from cdner.console.output import format_options, print_rows
from cdner.errors import unknown_name

if TYPE_CHECKING:
    from cdner.store.runs import RunSummary

COLUMNS = (
    *("run_id", "step", "state", "n_attempts", "started_utc", "finished_utc", "error", "labels"),
    "warnings",
)
TABLE = ("run_id", "step", "state", "started_utc", "seconds", "labels")


@click.command("runs")
@click.option("--step", help="Only runs of this step, such as quantify.")
@click.option("--experiment", help="Only runs of this experiment: its name in the store, or its file.")
@click.option("--limit", type=click.IntRange(min=1), help="Only so many.  [default: all]")
@format_options
@click.pass_context
def runs(
    ctx: click.Context,
    step: str | None,
    experiment: str | None,
    limit: int | None,
    output_format: str | None,
) -> None:
    """List runs, the latest first. State 'partial' means: run the same command again to go on."""
    from cdner.steps.kinds import STEP_NAMES
    from cdner.store import Store
    from cdner.store.runs import list_runs

    if step is not None and step not in STEP_NAMES:
        raise unknown_name("step", step, STEP_NAMES)
    store = Store(ctx.obj["store"])
    name = experiment_name(experiment) if experiment else None
    found = list_runs(store, step=step, experiment=name)
    if name and not found and step is None:
        known = {label.partition("/")[0] for row in list_runs(store) for label in row.labels}
        raise unknown_name("experiment in the store", name, known)
    found = found[:limit]
    if output_format:
        rows = [
            (*(getattr(row, column) for column in COLUMNS[:-2]), list(row.labels), list(row.warnings))
            for row in found
        ]
        print_rows(COLUMNS, rows, output_format)
        return
    shown = [column for column in ("error", "warnings") if any(getattr(row, column) for row in found)]
    print_rows((*TABLE, *shown), [(*_table_row(row), *_messages(row, shown)) for row in found], None)


def _table_row(row: RunSummary) -> tuple[object, ...]:
    started, finished = row.started_utc, row.finished_utc
    return (
        *(row.run_id, row.step, row.state),
        started.isoformat(" ", "minutes") if started else "",
        round((finished - started).total_seconds()) if started and finished else None,
        "\n".join(row.labels),
    )


def _messages(row: RunSummary, columns: Sequence[str]) -> list[str]:
    found = {"error": row.error, "warnings": "\n".join(row.warnings)}
    return [found[column] for column in columns]


COMMANDS = {"runs": runs}
