"""``cdner store``: where it is, whether it is sound."""

from __future__ import annotations

import click

from cdner.cli.groups import CommandGroup
from cdner.cli.output import format_options, print_rows
from cdner.errors import StoreError


@click.group("store", cls=CommandGroup)
def store_group() -> None:
    """Where the store is, and whether it is sound."""


@store_group.command("path")
@click.pass_context
def path(ctx: click.Context) -> None:
    """Print the store's path."""
    click.echo(ctx.obj["store"].resolve())


@store_group.command("verify")
@format_options
@click.pass_context
def verify(ctx: click.Context, output_format: str | None) -> None:
    """Check references between tables, re-hash sentences, requests, run ids and checkpoint weights."""
    from cdner.store import Store
    from cdner.store.verify import verify as find_problems

    problems = find_problems(Store(ctx.obj["store"]))
    if problems:
        rows = [(problem.table, problem.key, problem.message) for problem in problems]
        print_rows(("table", "key", "problem"), rows, output_format)
        raise StoreError(f"{len(problems)} problems in {ctx.obj['store']}.")
    if output_format:
        print_rows(("table", "key", "problem"), [], output_format)
    else:
        click.echo(f"{ctx.obj['store']}: no problem found.")


COMMANDS = {"store": store_group}
