"""Rows in and out of tables in bulk, inside a connection that somebody else has opened.

Knows nothing of what the tables mean.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

Row = tuple[object, ...]
_MANY_ROWS = 1000


def insert_rows(
    connection: DuckDBPyConnection,
    table: str,
    columns: Sequence[str],
    rows: Sequence[Row],
    *,
    on_conflict: Literal["fail", "ignore", "replace"] = "fail",
    computed: Mapping[str, str] | None = None,
    unless_known: Sequence[str] = (),
) -> None:
    """Insert rows in bulk, fifty times faster than ``executemany``.

    ``computed``: further columns as SQL over those given. ``unless_known``: the key of a table without an index; rows
    whose key is in the table are left out, among themselves they must differ in it.
    """
    if unless_known:
        known = _known(connection, table, columns, rows, key=unless_known)
        places = [columns.index(name) for name in unless_known]
        rows = [row for row in rows if tuple(row[place] for place in places) not in known]
    if not rows:
        return
    verb = {"fail": "INSERT", "ignore": "INSERT OR IGNORE", "replace": "INSERT OR REPLACE"}[on_conflict]
    written = {**{name: name for name in columns}, **(computed or {})}
    into = f"{verb} INTO {table} ({', '.join(written)}) SELECT {', '.join(written.values())} FROM"
    lists = [list(column) for column in zip(*rows, strict=True)]
    arrays = _as_arrays(columns, lists)
    if arrays is None:
        source = ", ".join(f"unnest(?) AS {name}" for name in columns)
        connection.execute(f"{into} (SELECT {source})", lists)
    else:
        connection.register("incoming", arrays)
        connection.execute(f"{into} incoming")
        connection.unregister("incoming")  # not after an error: that ends the connection


def _known(
    connection: DuckDBPyConnection,
    table: str,
    columns: Sequence[str],
    rows: Sequence[Row],
    *,
    key: Sequence[str],
) -> set[Row]:
    """Those keys of the rows that the table has."""
    lists = [[row[columns.index(name)] for row in rows] for name in key]
    asked = ", ".join(f"unnest(?) AS {name}" for name in key)
    names = ", ".join(key)
    with passing_by(connection, len(rows)):
        found = connection.execute(
            f"SELECT {names} FROM {table} SEMI JOIN (SELECT {asked}) AS asked USING ({names})",  # noqa: S608
            lists,
        )
        return set(found.fetchall())


@contextmanager
def passing_by(connection: DuckDBPyConnection, n_wanted: int) -> Iterator[None]:
    """For statements that go through a whole table for a few rows: what they have read of it is not kept.

    Without a limit DuckDB keeps all it reads until it is closed, 90 MiB of the ids of a million rows. ``n_wanted``:
    rows that are looked for; only what is small may be asked for here, for what does not fit is an error. One thread:
    each holds blocks of its own. No index: DuckDB would take one for up to fifty rows, and hold all of it.
    """
    settings = {
        "threads": "1",
        "memory_limit": f"'{32 + n_wanted // 2000}MB'",
        "index_scan_max_count": "0",
        "index_scan_percentage": "0",
    }
    connection.execute("; ".join(f"SET {name} = {value}" for name, value in settings.items()))
    yield
    connection.execute("; ".join(f"RESET {name}" for name in settings))


def _as_arrays(columns: Sequence[str], lists: Sequence[list[object]]) -> dict[str, Any] | None:
    """Columns as DuckDB reads them four times as fast; None for few rows, where it takes longer than to write them.

    None also for columns that are not all text or all whole numbers: of others DuckDB would guess the type, and make
    NULL of NaN.
    """
    import numpy as np

    kinds = [set(map(type, column)) for column in lists]
    if len(lists[0]) < _MANY_ROWS or not all(kind in ({str}, {int}) for kind in kinds):
        return None
    return {
        name: np.array(column, dtype=object if kind == {str} else np.int64)
        for name, column, kind in zip(columns, lists, kinds, strict=True)
    }


def replace_run(
    connection: DuckDBPyConnection, table: str, columns: Sequence[str], run_id: str, rows: Sequence[Row]
) -> None:
    """Make these the run's only rows of the table; ``rows`` begin with the run id, as ``columns`` do."""
    connection.execute(f"DELETE FROM {table} WHERE run_id = ?", [run_id])  # noqa: S608 our own names
    insert_rows(connection, table, columns, rows)
