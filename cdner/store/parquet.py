"""Parquet files, written and read by DuckDB: blocks of rows in memory, and the answer of a sealed query of any size.

Blocks are written with one thread in a fixed order, so the same rows make the same file. The rows of a sealed query
pass through a database of their own beside the file, in pieces; the child that runs the query sees no file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cdner.errors import InputError, StoreError, UsageError
from cdner.files import output, remove
from cdner.store.connection import Store
from cdner.store.opening import first_line
from cdner.store.sql import Answer, Value, open_query

if TYPE_CHECKING:
    from collections.abc import Mapping

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
    "python_enable_replacements": False,
    "lock_configuration": True,
}


def parquet_columns(file: Path) -> dict[str, str]:
    """Columns of a Parquet file. InputError for what is none."""
    with _in_memory(file) as connection:
        rows = connection.execute(
            "DESCRIBE SELECT * FROM read_parquet($file)", {"file": _literal(file)}
        ).fetchall()
    return {str(row[0]): str(row[1]) for row in rows}


def column_values(file: Path, column: str, *, first: int = 0, n_rows: int | None = None) -> Iterator[object]:
    """Values of one column in the file's order, from row ``first`` (0-based) on; a piece at a time."""
    with _in_memory(file) as connection:
        answer = connection.execute(
            f"SELECT {_quoted_name(column)} FROM read_parquet($file, file_row_number = true)"  # noqa: S608 quoted
            " WHERE file_row_number >= $first AND ($n IS NULL OR file_row_number < $first + $n)",
            {"file": _literal(file), "first": first, "n": n_rows},
        )
        while piece := answer.fetchmany(_PIECE):
            yield from (value for (value,) in piece)


def json_to_parquet(lines: Path, file: Path, columns: Columns) -> None:
    """Write the objects of a JSON Lines file as Parquet with exactly these columns; what a row lacks is NULL."""
    with _in_memory(lines) as connection:
        connection.execute(
            f"COPY (SELECT * FROM {_read_json(columns)}) TO $file ({_OPTIONS['parquet']})",  # noqa: S608 quoted
            {"lines": _literal(lines), "file": str(file)},
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
            {"source": _literal(source), "lines": _literal(annotations), "file": str(file)},
        )


def _literal(path: Path) -> str:
    """A path to read that DuckDB takes as it is: "r[1].parquet" is no pattern."""
    return re.sub(r"([*?\[])", r"[\1]", str(path))


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


def _quoted_name(name: str) -> str:
    doubled = name.replace('"', '""')
    return f'"{doubled}"'


def _text(value: str) -> str:
    doubled = value.replace("'", "''")
    return f"'{doubled}'"


def write_parquet(
    store: Store,
    sql: str,
    file: Path,
    *,
    force: bool = False,
    parameters: Mapping[str, Value] | None = None,
    seconds: float = 30.0,
    memory: str = "1GB",
    max_rows: int | None = None,
) -> int:
    """Run one SELECT as ``open_query`` does and write its rows to ``file``, all or nothing; how many there are.

    UsageError as ``cdner.files.output``, and for two columns of one name.
    """
    limits: dict[str, Any] = {"seconds": seconds, "memory": memory, "max_rows": max_rows}
    with (
        output(file, force=force) as made,
        _scratch(made) as folder,
        open_query(store, sql, parameters=parameters, **limits) as answer,
    ):
        n_rows = _write(answer, folder)
        (folder / "rows.parquet").replace(made)
    return n_rows


@contextmanager
def _scratch(made: Path) -> Iterator[Path]:
    """A folder beside an unfinished file; after a kill the next writer of that file removes both."""
    folder = made.with_name(f"{made.name}.rows")
    remove(folder)
    folder.mkdir(mode=0o700)
    try:
        yield folder
    finally:
        remove(folder)


def _write(answer: Answer, folder: Path) -> int:
    import duckdb

    if repeated := [name for name in answer.columns if answer.columns.count(name) > 1]:
        raise UsageError(f"Two columns are named '{repeated[0]}': rename one with AS.")
    try:
        with closing(duckdb.connect(str(folder / "rows.duckdb"), config={"memory_limit": "500MB"})) as rows:
            # Names of columns and types are the statement's author's: whatever they spell, no other folder is reached.
            rows.execute("SET allowed_directories = $folders", {"folders": [str(folder)]})
            rows.execute("SET enable_external_access = false")
            rows.execute("SET lock_configuration = true")
            return _collect(rows, answer, folder)
    except duckdb.Error as error:
        raise StoreError(f"The rows cannot be written as Parquet: {first_line(error)}") from error


def _collect(rows: DuckDBPyConnection, answer: Answer, folder: Path) -> int:
    # A column of nothing but NULL has no type that a file could hold.
    types = ["INTEGER" if name == '"NULL"' else name for name in answer.types]
    columns = ", ".join(f"{_quoted(name)} {kind}" for name, kind in zip(answer.columns, types, strict=True))
    rows.execute(f"CREATE TABLE rows ({columns})")
    values = ", ".join(f"unnest(?::{kind}[])" for kind in types)
    n_rows = 0
    for piece in answer.pieces:
        rows.execute(
            f"INSERT INTO rows SELECT {values}", [list(column) for column in zip(*piece, strict=True)]
        )
        n_rows += len(piece)
    rows.execute("COPY rows TO $file (FORMAT parquet)", {"file": str(folder / "rows.parquet")})
    return n_rows


def _quoted(name: str) -> str:
    doubled = name.replace('"', '""')
    return f'"{doubled}"'
