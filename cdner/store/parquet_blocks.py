"""Parquet files in blocks of rows, read and written by DuckDB in memory: no store is opened, no further library needed.

One thread and a fixed order, so that the same rows make the same file. Knows nothing of sentences and entities.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cdner.errors import InputError
from cdner.store.connection import first_line

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

Columns = Mapping[str, str]  # name -> DuckDB's type, in order
FileFormat = Literal["jsonl", "parquet"]
ROW = "row"  # of ``annotations`` in ``join_block``: 0-based, in the whole file

_PIECE = 2048  # rows fetched at once
_MOST_BYTES = 1 << 30  # of one row as JSON
_OPTIONS: Mapping[FileFormat, str] = {"jsonl": "FORMAT json", "parquet": "FORMAT parquet, COMPRESSION zstd"}
_CONFIG: dict[str, str | bool | int | float | list[str]] = {
    "threads": 1,
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
}


def parquet_columns(file: Path) -> dict[str, str]:
    """Columns of a Parquet file. InputError for what is none."""
    with _in_memory(file) as connection:
        rows = connection.execute(
            "DESCRIBE SELECT * FROM read_parquet($file)", {"file": str(file)}
        ).fetchall()
    return {str(row[0]): str(row[1]) for row in rows}


def column_values(file: Path, column: str, *, first: int = 0, n_rows: int | None = None) -> Iterator[object]:
    """Values of one column in the file's order, from row ``first`` (0-based) on; a piece at a time."""
    with _in_memory(file) as connection:
        answer = connection.execute(
            f"SELECT {_quoted(column)} FROM read_parquet($file, file_row_number = true)"  # noqa: S608 quoted
            " WHERE file_row_number >= $first AND ($n IS NULL OR file_row_number < $first + $n)",
            {"file": str(file), "first": first, "n": n_rows},
        )
        while piece := answer.fetchmany(_PIECE):
            yield from (value for (value,) in piece)


def json_to_parquet(lines: Path, file: Path, columns: Columns) -> None:
    """Write the objects of a JSON Lines file as Parquet with exactly these columns; what a row lacks is NULL."""
    with _in_memory(lines) as connection:
        connection.execute(
            f"COPY (SELECT * FROM {_read_json(columns)}) TO $file ({_OPTIONS['parquet']})",  # noqa: S608 quoted
            {"lines": str(lines), "file": str(file)},
        )


def join_block(
    source: Path,
    file: Path,
    to: FileFormat,
    *,
    first: int,
    n_rows: int,
    annotations: Path,
    columns: Columns,
) -> None:
    """Write rows of a Parquet file with more ``columns`` to its right, all types as they are.

    ``annotations``: JSON Lines with ``row`` and these columns; rows of the block that it lacks are left out.
    """
    select = (
        f"SELECT block.* EXCLUDE (file_row_number), annotation.* EXCLUDE ({ROW})"  # noqa: S608 our own names
        f" FROM (SELECT * FROM read_parquet($source, file_row_number = true) WHERE file_row_number >= {first}"
        f" AND file_row_number < {first + n_rows}) AS block"
        f" JOIN {_read_json({ROW: 'BIGINT', **columns})} AS annotation ON annotation.{ROW} = block.file_row_number"
        f" ORDER BY annotation.{ROW}"
    )
    with _in_memory(source) as connection:
        connection.execute(
            f"COPY ({select}) TO $file ({_OPTIONS[to]})",
            {"source": str(source), "lines": str(annotations), "file": str(file)},
        )


def _read_json(columns: Columns) -> str:
    types = ", ".join(f"{_text(name)}: {_text(kind)}" for name, kind in columns.items())
    options = f"format = 'newline_delimited', maximum_object_size = {_MOST_BYTES}, columns = {{{types}}}"
    return f"read_json($lines, {options})"


@contextmanager
def _in_memory(file: Path) -> Iterator[DuckDBPyConnection]:
    import duckdb

    try:
        with closing(duckdb.connect(config=_CONFIG)) as connection:
            yield connection
    except duckdb.Error as error:
        raise InputError(f"{file}: {first_line(error)}") from error


def _quoted(name: str) -> str:
    doubled = name.replace('"', '""')
    return f'"{doubled}"'


def _text(value: str) -> str:
    doubled = value.replace("'", "''")
    return f"'{doubled}'"
