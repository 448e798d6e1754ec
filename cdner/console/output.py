"""Listings in four formats, chosen by option and never by sniffing the terminal.

A table is for people: long run ids are cut to a beginning that every command accepts, wide cells fold, and text
from corpora can neither move the cursor nor style itself. The other three are for programs and keep every value.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

import click

from cdner.errors import UsageError
from cdner.text import visible as visible  # noqa: PLC0414  its users find it beside what prints

if TYPE_CHECKING:
    from rich.table import Table

Format = Literal["table", "json", "nl", "csv"]
Command = TypeVar("Command", bound=Callable[..., Any])
Cell = object

SHORT_ID = 8  # characters of a run id in a table
_WIDTH = 160  # where stdout is no terminal
# JSON may carry these raw, but terminals obey the first group and line readers split at the second.
_RAW_IN_JSON = re.compile("[\x7f-\x9f\u2028\u2029]")


def format_options(command: Command) -> Command:
    """Add ``--json``, ``--nl`` and ``--csv``; the command gets ``output_format``."""
    for name, text in (
        ("csv", "Comma-separated, every value as it is: a spreadsheet may take a text for a formula."),
        ("nl", "One JSON object a line."),
        ("json", "A JSON array."),
    ):
        command = click.option(f"--{name}", "output_format", flag_value=name, help=text)(command)
    return command


def no_format_before(ctx: click.Context, output_format: str | None) -> None:
    """UsageError for ``cdner corpora --json show``: the format belongs to what prints."""
    if output_format and ctx.invoked_subcommand:
        name = ctx.invoked_subcommand
        raise UsageError(
            f"Put --{output_format} after '{name}': {ctx.command_path} {name} --{output_format}."
        )


def print_rows(
    columns: Sequence[str], rows: Sequence[Sequence[Cell]], output_format: str | None, *, exact: bool = False
) -> None:
    """Print a listing to stdout; ``None`` is the table. ``exact`` keeps ids and column names whole in a table."""
    if output_format in ("json", "nl"):
        records = _records(columns, rows)
        lines = [json_text(records)] if output_format == "json" else [json_text(record) for record in records]
        for line in lines:
            click.echo(line)
    elif output_format == "csv":
        _print_csv([columns, *rows])
    elif exact:
        print_table(columns, rows)
    else:
        short = [name.endswith("run_id") for name in columns]
        print_table(
            [name.replace("_", " ") for name in columns],
            [
                [
                    str(cell)[:SHORT_ID] if is_id and cell else cell
                    for cell, is_id in zip(row, short, strict=True)
                ]
                for row in rows
            ],
        )


def print_pieces(
    columns: Sequence[str],
    pieces: Iterable[Sequence[Sequence[Cell]]],
    output_format: str | None,
    *,
    limit: int,
) -> int:
    """As ``print_rows`` with "csv" or "nl", piece by piece as they come; at most ``limit`` rows. How many came."""
    n_rows = 0
    if output_format == "csv":
        _print_csv([columns])
    for piece in pieces:
        shown = piece[: max(0, limit - n_rows)]
        n_rows += len(piece)
        if output_format == "csv":
            _print_csv(shown)
        else:
            print_rows(columns, shown, "nl")
    return n_rows


def _print_csv(rows: Sequence[Sequence[Cell]]) -> None:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerows(
        [json_text(cell) if isinstance(cell, list | tuple | dict) else cell for cell in row] for row in rows
    )
    click.echo(buffer.getvalue(), nl=False, color=True)  # color: click would take bytes out of the values


def print_table(columns: Sequence[str], rows: Sequence[Sequence[Cell]], title: str | None = None) -> None:
    """A rich table on stdout. Cells are plain text: markup and control characters in corpora do nothing.

    Where a column has less than four characters, rich would leave cells out: there each value has a line of its own.
    """
    from rich.table import Table
    from rich.text import Text

    if 7 * len(columns) - 3 > console().width:
        heading = [title] if title else []
        values = [
            f"{name}: {cell_text(cell)}" for row in rows for name, cell in zip(columns, row, strict=True)
        ]
        for line in [*heading, *(values or columns)]:
            print_rich(Text(visible(line), overflow="fold"))
        return
    table = Table(
        title=Text(visible(title)) if title else None, show_edge=False, pad_edge=False, title_justify="left"
    )
    for index, column in enumerate(columns):
        numeric = bool(rows) and all(isinstance(row[index], int | float | None) for row in rows)
        table.add_column(
            Text(visible(column)), justify="right" if numeric else "left", overflow="fold", no_wrap=False
        )
    for row in rows:
        table.add_row(*(Text(cell_text(cell)) for cell in row))
    _tighten(table)
    print_rich(table)


def _tighten(table: Table) -> None:
    """Without its lines where that makes it fit; a table too wide even so keeps them and folds its cells."""
    made = console()
    unbounded = made.options.update(max_width=1_000_000)  # else rich measures what is left of it
    ruled = table.box, table.padding
    if made.measure(table, options=unbounded).maximum > made.width:
        table.box, table.padding = None, (0, 2, 0, 0)
        if made.measure(table, options=unbounded).maximum > made.width:
            table.box, table.padding = ruled


def print_rich(renderable: object) -> None:
    """Print through click, so that a stdout that takes no more ends every command in the same way."""
    made = console()
    made.print(renderable)
    click.echo(made.file.getvalue(), nl=False, color=True)  # rich has decided on colour already


def console() -> Any:
    """A console that collects what it prints (``file.getvalue()``), coloured and wide as stdout wants it.

    Wide enough for a table when stdout is neither a terminal nor told its COLUMNS.
    """
    from rich.console import Console

    stdout = Console()
    return Console(
        file=io.StringIO(),
        force_terminal=stdout.is_terminal,
        color_system=cast(Any, stdout.color_system),
        width=stdout.width if stdout.is_terminal or "COLUMNS" in os.environ else _WIDTH,
        highlight=False,
    )


def cell_text(cell: Cell) -> str:
    """Text of one cell: no value is empty, a fraction has four decimals."""
    if cell is None:
        return ""
    return visible(f"{cell:.4f}" if isinstance(cell, float) else str(cell))


def json_text(value: object) -> str:
    """JSON in one line; safe to show in a terminal."""
    text = json.dumps(_plain(value), ensure_ascii=False, allow_nan=False)
    return _RAW_IN_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _records(columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> list[dict[str, Cell]]:
    repeated = [name for name in dict.fromkeys(columns) if list(columns).count(name) > 1]
    if repeated:
        raise UsageError(
            f"Two columns are named '{repeated[0]}': a JSON object holds one. Rename with AS, or use --csv."
        )
    return [dict(zip(columns, row, strict=True)) for row in rows]


def _plain(value: object) -> object:
    """What JSON knows: no number where there is none (NaN, infinity), text for dates and the like."""
    if isinstance(value, Mapping):
        return {
            name if isinstance(name, str) else json_text(name): _plain(part) for name, part in value.items()
        }
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, Decimal):
        return _plain(float(value))
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, bytes):
        return value.hex()
    return value if value is None or isinstance(value, str | int) else str(value)


def readable_seconds(seconds: float) -> str:
    """A duration as people say it: '40 s', '12 min', '2 h 05 min'."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"
