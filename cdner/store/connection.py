"""The store: a DuckDB file that is opened for one short transaction at a time.

A process that writes to a DuckDB file locks out all others, so no connection is held while a model computes: open, one
transaction, close (about 20 ms). A process that finds the file locked tries again with jitter.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cdner.errors import StoreError
from cdner.files import expanded

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

    Connection = DuckDBPyConnection


from cdner.store import migrations
from cdner.store.opening import first_line, opened
from cdner.store.untrusted import refuse_odd_files

# Inside one process DuckDB refuses a reading connection beside a writing one: threads take turns.
_ONE_AT_A_TIME = threading.RLock()
_DISK_FULL = os.strerror(errno.ENOSPC)


@dataclass(frozen=True, slots=True)
class Store:
    """A DuckDB file that need not exist yet. ``wait_seconds``: how long to wait for its lock."""

    path: Path
    wait_seconds: float = 60.0

    def __post_init__(self) -> None:
        """Expands ``~``: all who read, write or name the store use the same file."""
        object.__setattr__(self, "path", expanded(self.path))

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
    def reading(self, config: Mapping[str, Any] | None = None) -> Iterator[DuckDBPyConnection]:
        """Read only: many processes may read at once, a writer waits until all of them have closed."""
        refuse_odd_files(self.path)
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
        self, *, read_only: bool, config: Mapping[str, Any] | None = None
    ) -> Iterator[DuckDBPyConnection]:
        refuse_odd_files(self.path)
        if not self.path.exists():
            migrations.create(self.path)
        with opened(
            self.path, read_only=read_only, wait_seconds=self.wait_seconds, config=config
        ) as connection:
            is_current = migrations.is_current(connection, self.path)
            if is_current:
                yield connection
        if not is_current:
            migrations.upgrade(self.path, wait_seconds=self.wait_seconds)
            with opened(
                self.path, read_only=read_only, wait_seconds=self.wait_seconds, config=config
            ) as connection:
                yield connection


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


def _why_failed(path: Path, error: BaseException) -> str:
    if _DISK_FULL in str(error):
        return f"The disk of {path} is full; the store is as it was before. Make space and run the command again."
    return f"{path}: {first_line(error)}"


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
