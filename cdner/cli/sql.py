"""``cdner sql``: read-only and sealed; sees the store and nothing else."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cdner.console.named_runs import experiment_name
from cdner.console.output import format_options, print_pieces, print_rows, visible
from cdner.errors import InputError, UsageError

if TYPE_CHECKING:
    from cdner.store.sql import NamedQuery, Value

_PRINTED_ROWS = 10_000
_LONGEST_STATEMENT = 1_000_000  # characters; a device such as /dev/zero never ends
SHORT_FORMS = ("domain", "split", "run", "experiment", "gold", "predicted", "limit")


def _short_forms(command: Any) -> Any:
    """``--domain politics`` for ``--param domain=politics`` and so on."""
    for name in reversed(SHORT_FORMS):
        kind = click.IntRange(min=1) if name == "limit" else None
        more = " (an experiment's file stands for its name)" if name == "experiment" else ""
        command = click.option(f"--{name}", type=kind, help=f"The query's parameter ${name}{more}.")(command)
    return command


@click.command("sql")
@click.argument("statement", required=False)
@click.option(
    "--file",
    "file",
    type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
    help="Read the statement from a file; - is standard input.",
)
@click.option("--list", "list_queries", is_flag=True, help="List the queries that have a name.")
@click.option("--show", metavar="@NAME", help="Show a query that has a name: its SQL and its parameters.")
@click.option("--param", "params", multiple=True, metavar="NAME=VALUE", help="Value of $NAME; several times.")
@_short_forms
@click.option(
    "--parquet",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write all rows to this Parquet file; prints nothing.",
)
@click.option("--force", is_flag=True, help="With --parquet: replace the file if it exists.")
@click.option(
    "--seconds", type=float, default=30.0, show_default=True, help="Time limit, until the last row is taken."
)
@click.option("--memory", default="1GB", show_default=True, help="Memory limit.")
@click.option(
    "--max-rows",
    type=click.IntRange(min=1),
    help=f"Rows at most.  [default: {_PRINTED_ROWS}; with --parquet all]",
)
@format_options
@click.pass_context
def sql(
    ctx: click.Context,
    /,
    statement: str | None,
    file: Path | None,
    show: str | None,
    params: tuple[str, ...],
    parquet: Path | None,
    seconds: float,
    memory: str,
    max_rows: int | None,
    output_format: str | None,
    *,
    list_queries: bool,
    force: bool,
    **short_forms: str | int | None,
) -> None:
    """Run one SELECT on the store, or a query that has a name: cdner sql @most_confused --domain politics.

    Tables and views are described in store/README.md. No other file, no network, no ATTACH, no settings; several
    statements at once are refused. Values for $names in a statement are bound, never pasted.
    """
    from cdner.store import Store

    if sum((statement is not None, file is not None, show is not None, list_queries)) != 1:
        raise UsageError('Give one statement or --file: cdner sql "SELECT * FROM leaderboard"; or --list.')
    given = _given(params, short_forms)
    if (list_queries or show is not None) and (given or parquet):
        raise UsageError("--list and --show run no query: they take no parameters and no --parquet.")
    if force and parquet is None:
        raise UsageError("--force goes with --parquet FILE.")
    if list_queries:
        return _list(output_format)
    if show is not None:
        return _show(show)
    if parquet is not None and output_format:
        raise UsageError(f"Give --parquet or --{output_format}, not both.")
    text, values = _question(statement, file, given)
    limits: dict[str, Any] = {"parameters": values, "seconds": seconds, "memory": memory}
    store = Store(ctx.obj["store"])
    if parquet is None:
        return _print(store, text, limits, max_rows or _PRINTED_ROWS, output_format)
    from cdner.store.parquet import write_parquet

    n_rows = write_parquet(store, text, parquet, force=force, max_rows=max_rows, **limits)
    if not ctx.obj["quiet"]:
        click.echo(visible(f"{parquet}: {n_rows} rows"), err=True)
    return None


def _print(store: Any, text: str, limits: dict[str, Any], max_rows: int, output_format: str | None) -> None:
    """Few rows are collected before any is printed; many go through in pieces where the format allows."""
    from cdner.store.sql import open_query, query

    if max_rows > _PRINTED_ROWS and output_format in ("csv", "nl"):
        with open_query(store, text, max_rows=max_rows + 1, **limits) as answer:
            n_rows = print_pieces(answer.columns, answer.pieces, output_format, limit=max_rows)
    else:
        columns, rows = query(store, text, max_rows=max_rows + 1, **limits)
        print_rows(columns, rows[:max_rows], output_format, exact=True)
        n_rows = len(rows)
    if n_rows > max_rows:
        click.echo(f"The first {max_rows} rows; there are more: --max-rows N.", err=True)


def _given(params: tuple[str, ...], short_forms: Mapping[str, str | int | None]) -> dict[str, Value]:
    """Every parameter named on the command line. UsageError for one without a value, or named twice."""
    given: dict[str, Value] = {name: value for name, value in short_forms.items() if value is not None}
    for param in params:
        name, equals, value = param.partition("=")
        if not equals or not name:
            raise UsageError(f"--param takes NAME=VALUE, not '{param}'.")
        if name in given:
            raise UsageError(f"The parameter '{name}' is given twice.")
        given[name] = value
    if isinstance(experiment := given.get("experiment"), str):
        given["experiment"] = experiment_name(experiment)
    return given


def _question(
    statement: str | None, file: Path | None, given: dict[str, Value]
) -> tuple[str, dict[str, Value]]:
    """The SQL and the value of every parameter in it."""
    if statement is None or not statement.startswith("@"):
        return statement if statement is not None else _read(file), given
    from cdner.store.sql import find_query

    named = find_query(statement)
    return named.sql, named.values(given)


def _list(output_format: str | None) -> None:
    from cdner.store.sql import named_queries

    queries = named_queries().values()
    if output_format in ("json", "nl"):
        rows = [(query.name, query.answers, _parameter_rows(query)) for query in queries]
        print_rows(("query", "answers", "parameters"), rows, output_format)
        return
    shown = [(f"@{query.name}", query.answers, _parameter_words(query)) for query in queries]
    print_rows(("query", "answers", "parameters"), shown, output_format)


def _parameter_rows(query: NamedQuery) -> list[dict[str, object]]:
    names = ("name", "kind", "default", "meaning")
    return [{name: getattr(parameter, name) for name in names} for parameter in query.parameters]


def _parameter_words(query: NamedQuery) -> str:
    return ", ".join(
        parameter.name if parameter.default is None else f"{parameter.name}={parameter.default}"
        for parameter in query.parameters
    )


def _show(name: str) -> None:
    from cdner.store.sql import find_query

    click.echo(find_query(name).sql, nl=False)


def _read(file: Path | None) -> str:
    try:
        if file is None or str(file) == "-":
            text = sys.stdin.read(_LONGEST_STATEMENT + 1)
        else:
            with file.open(encoding="utf-8") as source:
                text = source.read(_LONGEST_STATEMENT + 1)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"Cannot read {file}: {error}.") from error
    if len(text) > _LONGEST_STATEMENT:
        raise InputError(
            f"{file} has more than {_LONGEST_STATEMENT:,} characters: it is not read as a statement."
        )
    return text


COMMANDS = {"sql": sql}
