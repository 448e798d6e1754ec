"""``cdner store``: where it is, whether it is sound."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import click

from cdner.console.groups import CommandGroup
from cdner.console.output import format_options, print_rows, visible
from cdner.errors import StoreError

if TYPE_CHECKING:
    from cdner.store import Store
    from cdner.store.verify import Problem


@click.group("store", cls=CommandGroup)
def store_group() -> None:
    """Where the store is, and whether it is sound."""


@store_group.command("path")
@click.pass_context
def path(ctx: click.Context) -> None:
    """Print the store's path."""
    click.echo(visible(str(ctx.obj["store"].resolve())))


@store_group.command("verify")
@format_options
@click.pass_context
def verify(ctx: click.Context, output_format: str | None) -> None:
    """Check references between tables, re-hash sentences, requests, run ids and checkpoint weights."""
    from cdner.store import Store
    from cdner.store.verify import verify as find_problems

    store = Store(ctx.obj["store"])
    problems = [*find_problems(store), *_changed_corpora(store)]
    if problems:
        rows = [(problem.table, problem.key, problem.message) for problem in problems]
        print_rows(("table", "key", "problem"), rows, output_format)
        raise StoreError(f"{len(problems)} problems in {ctx.obj['store']}.")
    if output_format:
        print_rows(("table", "key", "problem"), [], output_format)
    else:
        click.echo(visible(f"{ctx.obj['store']}: no problem found."))


def _changed_corpora(store: Store) -> Iterator[Problem]:
    """Stored corpora under the name and checksum of a file that this machine has, with other sentences or entities."""
    from cdner.steps.known_corpora import difference, known_checksum, own_reading
    from cdner.store.corpora import list_corpora, load_corpus
    from cdner.store.runs import load_run
    from cdner.store.verify import Problem

    for row in list_corpora(store):
        settings = load_run(store, row.run_id).settings
        if not isinstance(settings, Mapping) or settings.get("sha256") != known_checksum(
            row.domain, row.split
        ):
            continue
        own = own_reading(row.domain, row.split) if settings.get("sha256") else None
        if own and (differs := difference(load_corpus(store, row.run_id), own)):
            yield Problem("corpus", row.run_id, f"it is not the file {row.domain}/{row.split}: {differs}")


@store_group.command("hash")
@click.option("--experiment", "-e", "experiments", multiple=True, help="Only what this experiment holds.")
@click.option("--tables", is_flag=True, help="The hash of every table, to see where two stores differ.")
@format_options
@click.pass_context
def hash_command(
    ctx: click.Context, experiments: tuple[str, ...], output_format: str | None, *, tables: bool
) -> None:
    """Print one hash of all results and texts: equal on two machines exactly when their tables are.

    Attempts, times, durations, hosts and checkpoint paths are left out.
    """
    from cdner.console.named_runs import experiment_name
    from cdner.store import Store
    from cdner.store.hash import hash_tables, store_hash

    found = hash_tables(Store(ctx.obj["store"]), [experiment_name(name) for name in experiments])
    if tables:
        rows = [(table.table, table.n_rows, table.sha256) for table in found]
        print_rows(("table", "rows", "sha256"), rows, output_format)
    elif output_format:
        print_rows(("hash",), [(store_hash(found),)], output_format)
    else:
        click.echo(store_hash(found))


COMMANDS = {"store": store_group}
