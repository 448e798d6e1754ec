"""Opens the store for one short transaction at a time: a process that writes to DuckDB locks out all others.

Nobody holds a connection while a model works: open, one transaction, close (about 20 ms). Whoever finds the
file locked tries again with jitter. Knows nothing of what the tables mean.
"""

from __future__ import annotations

import errno
import os
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cdner.errors import StoreError
from cdner.store.turns import Patience, turn

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

# Inside one process DuckDB refuses a reading connection beside a writing one: threads take turns.
_ONE_AT_A_TIME = threading.RLock()
# Nothing is fetched from the network behind the user's back; JSON is built in.
_NO_DOWNLOADS: Mapping[str, str | bool] = {
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
}
_DISK_FULL = os.strerror(errno.ENOSPC)
_MANY_ROWS = 1000
# Row groups of the size of DuckDB's vectors. When a store is closed DuckDB merges what was appended to it, up to
# three groups of 122,880 rows by default: 850 MiB of memory for texts of 2.4 kB, 140 with these, which take two fifths
# of the CPU time. Queries over a million rows take up to a seventh longer.
_ATTACH = "ATTACH '{path}' AS store (TYPE duckdb, ROW_GROUP_SIZE 2048)"
_HOLDER = re.compile(r"lock is held in (?P<program>.+?) \(PID (?P<pid>\d+)\)")
Row = tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Store:
    """A DuckDB file that need not exist yet. ``wait_seconds``: how long to wait for its lock."""

    path: Path
    wait_seconds: float = 60.0

    @property
    def directory(self) -> Path:
        """The folder the store lies in; checkpoints lie beside it."""
        return self.path.resolve().parent

    @contextmanager
    def transaction(self) -> Iterator[DuckDBPyConnection]:
        """Read and write in one transaction: committed at the end, rolled back by any exception.

        A missing store is created, an older one migrated. StoreError for a store that cannot be used,
        StoreLockedError after ``wait_seconds``.
        """
        with _ONE_AT_A_TIME, _as_store_error(self.path), self._open(read_only=False) as connection:
            connection.begin()
            try:
                yield connection
            except BaseException:
                connection.rollback()
                raise
            connection.commit()

    @contextmanager
    def reading(self, config: Mapping[str, str | bool] | None = None) -> Iterator[DuckDBPyConnection]:
        """Read only: many processes may read at once, a writer waits until all of them have closed."""
        if not self.path.exists():
            raise StoreError(
                f"There is no store at {self.path}. Import a corpus first, or name another store."
            )
        with (
            _ONE_AT_A_TIME,
            _as_store_error(self.path),
            self._open(read_only=True, config=config) as connection,
        ):
            yield connection

    @contextmanager
    def _open(
        self, *, read_only: bool, config: Mapping[str, str | bool] | None = None
    ) -> Iterator[DuckDBPyConnection]:
        from cdner.store import migrations

        if not self.path.exists():
            migrations.create(self.path)
        with opened(self, read_only=read_only, config=config) as connection:
            is_current = migrations.is_current(connection, self.path)
            if is_current:
                yield connection
        if not is_current:
            migrations.upgrade(self)
            with opened(self, read_only=read_only, config=config) as connection:
                yield connection


@contextmanager
def opened(
    store: Store, *, read_only: bool, config: Mapping[str, str | bool] | None = None
) -> Iterator[DuckDBPyConnection]:
    """The file as it is, after waiting for its locks. Only the store's own modules call this."""
    with (
        turn(store.path, read_only=read_only, wait_seconds=store.wait_seconds),
        closing(_connect(store, read_only=read_only, config=config)) as connection,
    ):
        yield connection


def _connect(
    store: Store, *, read_only: bool, config: Mapping[str, str | bool] | None = None
) -> DuckDBPyConnection:
    """Other programs that open the file know DuckDB's lock only."""
    import duckdb

    patience = Patience(store.path, store.wait_seconds)
    # A store that somebody else made may hold views that read files of ours.
    sealed = {"enable_external_access": False} if read_only else {}
    settings: dict[str, Any] = {**_NO_DOWNLOADS, **sealed, **(config or {})}
    while True:
        try:
            if not read_only:
                return _writing(store.path, settings)
            return duckdb.connect(str(store.path), read_only=True, config=settings)
        except duckdb.IOException as error:
            if "Could not set lock" not in str(error):
                raise StoreError(_why_unusable(store.path, error)) from error
            patience.wait(_holder(error))
        except duckdb.ConnectionException as error:
            raise StoreError(
                f"{store.path} is already open in this process: end one transaction before the next."
            ) from error
        except duckdb.Error as error:
            raise StoreError(_why_unusable(store.path, error)) from error


def _writing(path: Path, settings: Mapping[str, Any]) -> DuckDBPyConnection:
    """An attached file: the size of row groups can be said nowhere else."""
    import duckdb

    connection = duckdb.connect(config=dict(settings))
    try:
        connection.execute(_ATTACH.format(path=str(path.resolve()).replace("'", "''")))
        connection.execute("USE store")
    except BaseException:
        connection.close()
        raise
    return connection


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
    rows that are looked for; only what is small may be asked for here, for what does not fit is an error.
    """
    (n_threads,) = connection.execute("SELECT current_setting('threads')").fetchone() or (1,)
    connection.execute(f"SET memory_limit = '{16 * n_threads + n_wanted // 2000}MB'")
    yield
    connection.execute("RESET memory_limit")


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


def rows_of_run(
    store: Store,
    table: str,
    columns: Sequence[str],
    run_id: str,
    *,
    order: str,
    positions: Sequence[int] | None = None,
) -> list[tuple[Any, ...]]:
    """A run's rows of one table, sorted; those at these positions only, where they are given."""
    which, values = "run_id = ?", [run_id, list(positions or ())]
    if positions is not None:
        which += " AND position IN (SELECT unnest(?))"
    statement = f"SELECT {', '.join(columns)} FROM {table} WHERE {which} ORDER BY {order}"  # noqa: S608
    with store.reading() as connection:
        return connection.execute(statement, values[: which.count("?")]).fetchall()


def demand_rows(rows: Sequence[object], store: Store, run_id: str, what: str) -> None:
    """StoreError when there are none."""
    if not rows:
        raise StoreError(f"Run {run_id} has no {what} in {store.path}.")


@contextmanager
def _as_store_error(path: Path) -> Iterator[None]:
    """DuckDB's errors leave the store as ours, with their first line."""
    import duckdb

    try:
        yield
    except duckdb.Error as error:
        raise StoreError(_why_failed(path, error)) from error
    except RuntimeError as error:
        if str(error) == "Query interrupted":  # what DuckDB makes of a Ctrl-C while it computes
            raise KeyboardInterrupt from error
        raise


def first_line(error: BaseException) -> str:
    """An error's first line of text."""
    return next(iter(str(error).splitlines()), type(error).__name__)


def _why_failed(path: Path, error: BaseException) -> str:
    if _DISK_FULL in str(error):
        return f"The disk of {path} is full; the store is as it was before. Make space and run the command again."
    return f"{path}: {first_line(error)}"


def _why_unusable(path: Path, error: BaseException) -> str:
    if "not a valid DuckDB database file" in str(error):
        return f"{path} is not a DuckDB file, so it is no store of cdner. Move it away or name another store."
    return f"The store {path} cannot be opened: {first_line(error)}"


def _holder(error: BaseException) -> str:
    held = _HOLDER.search(str(error))
    return f"process {held['pid']} ({held['program']})" if held else "another process"
