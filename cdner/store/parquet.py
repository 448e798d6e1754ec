"""A sealed query's answer as a Parquet file, whatever its size. The child that runs the query sees no file.

The rows pass through a database of their own beside the file, in pieces; DuckDB writes the Parquet from there, so no
further library is needed.
"""

from __future__ import annotations

import tempfile
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cdner.errors import StoreError, UsageError
from cdner.store.connection import Store, first_line
from cdner.store.sealed_sql import Answer, Value, open_query

if TYPE_CHECKING:
    from collections.abc import Mapping

    from duckdb import DuckDBPyConnection


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

    UsageError when the file exists, unless forced, and for two columns of one name.
    """
    if file.exists() and not force:
        raise UsageError(f"{file} exists. Name another file, or use --force to replace it.")
    if not file.absolute().parent.is_dir():
        raise UsageError(f"{file}: there is no such folder.")
    limits: dict[str, Any] = {"seconds": seconds, "memory": memory, "max_rows": max_rows}
    with (
        tempfile.TemporaryDirectory(prefix=f".{file.name}.", dir=file.absolute().parent) as folder,
        open_query(store, sql, parameters=parameters, **limits) as answer,
    ):
        n_rows = _write(answer, Path(folder))
        (Path(folder) / "rows.parquet").replace(file)
    return n_rows


def _write(answer: Answer, folder: Path) -> int:
    import duckdb

    if repeated := [name for name in answer.columns if answer.columns.count(name) > 1]:
        raise UsageError(f"Two columns are named '{repeated[0]}': rename one with AS.")
    try:
        with closing(duckdb.connect(str(folder / "rows.duckdb"), config={"memory_limit": "500MB"})) as rows:
            # Names of columns and types are the statement's author's: whatever they spell, no other folder is reached.
            rows.execute("SET allowed_directories = $folders", {"folders": [str(folder)]})
            rows.execute("SET enable_external_access = false")
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
