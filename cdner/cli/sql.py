"""``cdner sql``: read-only and sealed; sees the store and nothing else."""

from __future__ import annotations

from pathlib import Path

import click

from cdner.cli.output import format_options, print_rows
from cdner.errors import InputError, UsageError


@click.command("sql")
@click.argument("statement", required=False)
@click.option(
    "--file", "file", type=click.Path(path_type=Path, dir_okay=False), help="Read the statement from a file."
)
@click.option("--seconds", type=float, default=30.0, show_default=True, help="Time limit.")
@click.option("--memory", default="1GB", show_default=True, help="Memory limit.")
@click.option("--max-rows", type=int, default=10_000, show_default=True, help="Rows printed at most.")
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
    if file is not None:
        try:
            statement = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"Cannot read {file}: {error}.") from error
    columns, rows = query(
        Store(ctx.obj["store"]), statement or "", seconds=seconds, memory=memory, max_rows=max_rows
    )
    print_rows(columns, rows, output_format)


COMMANDS = {"sql": sql}
