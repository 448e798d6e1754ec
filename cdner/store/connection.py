"""Opens the store for one short transaction at a time: a process that writes to DuckDB locks out all others.

Nobody holds a connection while a model works: open, one transaction, close (about 20 ms). Whoever finds the
file locked tries again with jitter. Knows nothing of what the tables mean.
"""

from __future__ import annotations

import errno
import os
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
# Row groups of the size of DuckDB's vectors. When a store is closed DuckDB merges what was appended to it, up to
# three groups of 122,880 rows by default: 850 MiB of memory for texts of 2.4 kB, 140 with these, which take two fifths
# of the CPU time. Queries over a million rows take up to a seventh longer.
_ATTACH = "ATTACH '{path}' AS store (TYPE duckdb, ROW_GROUP_SIZE 2048)"
_HOLDER = re.compile(r"lock is held in (?P<program>.+?) \(PID (?P<pid>\d+)\)")


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
