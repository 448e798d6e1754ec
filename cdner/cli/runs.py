"""``cdner runs``: what was asked, and how each attempt at it ended."""

from __future__ import annotations

import click

from cdner.cli.output import format_options, print_rows

COLUMNS = ("run_id", "step", "state", "n_attempts", "started_utc", "finished_utc", "error", "labels")


@click.command("runs")
@click.option("--step", help="Only runs of this step.")
@click.option("--experiment", help="Only runs of this experiment.")
@format_options
@click.pass_context
def runs(ctx: click.Context, step: str | None, experiment: str | None, output_format: str | None) -> None:
    """List runs, the latest first."""
    from cdner.store import Store
    from cdner.store.runs import list_runs

    found = list_runs(Store(ctx.obj["store"]), step=step, experiment=experiment)
    rows = [(*(getattr(row, name) for name in COLUMNS[:-1]), ", ".join(row.labels)) for row in found]
    print_rows(COLUMNS, rows, output_format)


COMMANDS = {"runs": runs}
