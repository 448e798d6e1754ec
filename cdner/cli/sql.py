"""``cdner sql``: read-only and sealed; sees the store and nothing else."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from cdner.cli.output import format_options, print_rows
from cdner.errors import InputError, UsageError


@click.command("sql")
@click.argument("statement", required=False)
@click.option(
    "--file",
    "file",
    type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
    help="Read the statement from a file; - is standard input.",
)
@click.option("--seconds", type=float, default=30.0, show_default=True, help="Time limit.")
@click.option("--memory", default="1GB", show_default=True, help="Memory limit.")
@click.option(
    "--max-rows", type=click.IntRange(min=1), default=10_000, show_default=True, help="Rows printed at most."
)
@format_options
@click.pass_context
def sql(
    ctx: click.Context,
    statement: str | None,
    file: Path | None,
    seconds: float,
    memory: str,
    max_rows: int,
    output_format: str | None,
) -> None:
    """Run one SELECT on the store. Tables and views are described in store/README.md.

    No other file, no network, no ATTACH, no settings; several statements at once are refused.
    """
    from cdner.store import Store
    from cdner.store.sealed_sql import query

    if (statement is None) == (file is None):
        raise UsageError('Give one statement or --file: cdner sql "SELECT * FROM leaderboard".')
    columns, rows = query(
        Store(ctx.obj["store"]),
        statement if statement is not None else _read(file),
        seconds=seconds,
        memory=memory,
        max_rows=max_rows + 1,
    )
    print_rows(columns, rows[:max_rows], output_format, exact=True)
    if len(rows) > max_rows:
        click.echo(f"The first {max_rows} rows; there are more: --max-rows N.", err=True)


def _read(file: Path | None) -> str:
    try:
        if file is None or str(file) == "-":
            return sys.stdin.read()
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"Cannot read {file}: {error}.") from error


COMMANDS = {"sql": sql}
