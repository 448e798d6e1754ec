"""Listings in four formats, chosen by option and never by sniffing the terminal."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar

import click

Format = Literal["table", "json", "nl", "csv"]
Command = TypeVar("Command", bound=Callable[..., Any])
Cell = object


def format_options(command: Command) -> Command:
    """Add ``--json``, ``--nl`` and ``--csv``; the command gets ``output_format``."""
    for name, text in (
        ("csv", "Comma-separated."),
        ("nl", "One JSON object a line."),
        ("json", "A JSON array."),
    ):
        command = click.option(f"--{name}", "output_format", flag_value=name, help=text)(command)
    return command


def print_rows(columns: Sequence[str], rows: Sequence[Sequence[Cell]], output_format: str | None) -> None:
    """Print a listing to stdout; ``None`` is the table."""
    if output_format == "json":
        click.echo(
            json.dumps(
                [dict(zip(columns, row, strict=True)) for row in rows], ensure_ascii=False, default=str
            )
        )
    elif output_format == "nl":
        for row in rows:
            click.echo(json.dumps(dict(zip(columns, row, strict=True)), ensure_ascii=False, default=str))
    elif output_format == "csv":
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)
        click.echo(buffer.getvalue(), nl=False)
    else:
        print_table(columns, rows)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[Cell]], title: str | None = None) -> None:
    """A rich table on stdout. Cells are plain text: markup and control characters in corpora do nothing."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, show_edge=False, pad_edge=False, title_justify="left")
    for index, column in enumerate(columns):
        numeric = bool(rows) and all(isinstance(row[index], int | float | None) for row in rows)
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell_text(cell)) for cell in row))
    console().print(table)


def console() -> Any:
    """A console on stdout; wide enough for a table when stdout is not a terminal."""
    from rich.console import Console

    made = Console(highlight=False)
    return made if made.is_terminal else Console(highlight=False, width=160)


def cell_text(cell: Cell) -> str:
    """Text of one cell with control characters (escape sequences) made visible."""
    if cell is None:
        return ""
    text = f"{cell:.4f}" if isinstance(cell, float) else str(cell)
    return "".join(char if char.isprintable() or char == "\n" else f"\\x{ord(char):02x}" for char in text)
