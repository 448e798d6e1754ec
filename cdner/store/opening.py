"""Opens a store's file for one connection at a time, under a lock of our own (flock) around DuckDB's.

Anyone may have made the file. Every connection, also one that writes or migrates, is sealed before the first statement
touches the store: no file but the store's own, no network, no change of the configuration.

DuckDB 2.0 reads the header of a file before it locks the file. A transaction that another process commits in between
is not seen, and the next checkpoint overwrites it: about one transaction in five hundred with eight writing processes.
Our lock is held from before opening until after closing, so nothing can come in between. DuckDB's own lock (fcntl) is
of another kind and is not affected.
"""

from __future__ import annotations

import fcntl
import os
import random
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cdner.errors import StoreError, StoreLockedError
from cdner.store.untrusted import STORE_FILES, refuse_foreign_objects, refuse_odd_files, refuse_odd_log

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

    Connection = DuckDBPyConnection


_FIRST_PAUSE, _LONGEST_PAUSE = 0.005, 0.02  # seconds between two tries on the lock
# Who works on the file without a break would keep all others out: after so many seconds it leaves them a gap that is
# longer than the longest pause between two of their tries.
_BREAK_AFTER, _GAP = 0.25, 0.04
_own_turns: dict[Path, _OwnTurns] = {}  # of this process


@dataclass(slots=True)
class Patience:
    """With one holder: where many processes take turns, each may wait for as long as it comes to that."""

    path: Path
    seconds: float
    held_by: str = ""
    pause: float = _FIRST_PAUSE
    since: float = field(default_factory=time.monotonic)

    def wait(self, holder: str) -> None:
        """A moment; StoreLockedError after ``seconds`` with the same holder."""
        if self.held_by and holder != self.held_by:
            self.since = time.monotonic()
        self.held_by = holder
        if time.monotonic() - self.since >= self.seconds:
            raise StoreLockedError(
                f"The store {self.path} was held by {holder} for {self.seconds:g} seconds. "
                "Wait until that has finished, or end it."
            )
        time.sleep(self.pause * random.uniform(0.5, 1.5))
        self.pause = min(1.5 * self.pause, _LONGEST_PAUSE)


@dataclass(slots=True)
class _OwnTurns:
    since: float  # begin of the first turn without a gap behind it
    until: float = 0.0  # end of the last one


def _leave_a_gap(path: Path) -> _OwnTurns:
    now = time.monotonic()
    own = _own_turns.setdefault(path, _OwnTurns(now))
    if now - own.until < _GAP and now - own.since > _BREAK_AFTER:
        time.sleep(_GAP)
        now = time.monotonic()
    if now - own.until >= _GAP:
        own.since = now
    return own


@contextmanager
def turn(path: Path, *, read_only: bool, wait_seconds: float) -> Iterator[None]:
    """Our turn with the file: alone, or beside others that read only. Nothing for a file that is not there yet."""
    own = _leave_a_gap(path)
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:  # there is none, or DuckDB will say why it cannot be read
        yield
        return
    try:
        _lock(handle, path, read_only=read_only, wait_seconds=wait_seconds)
        yield
    finally:
        # After DuckDB has closed the file: closing any handle on it gives up the fcntl locks of this process.
        os.close(handle)
        own.until = time.monotonic()


def _lock(handle: int, path: Path, *, read_only: bool, wait_seconds: float) -> None:
    patience = Patience(path, wait_seconds)
    while True:
        try:
            fcntl.flock(handle, (fcntl.LOCK_SH if read_only else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            pids = _holders(handle)
            if os.getpid() in pids:
                raise StoreError(
                    f"{path} is already open in this process: end one transaction before the next."
                ) from None
            patience.wait(_named(pids[0]) if pids else "another process")
        except OSError:  # a file system without such locks: DuckDB's own must do
            return
        else:
            return


def _holders(handle: int) -> list[int]:
    """Processes with an flock on the file, by /proc/locks; none where that does not exist."""
    inode = str(os.fstat(handle).st_ino)
    try:
        lines = Path("/proc/locks").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    locks = [line.split() for line in lines if " FLOCK " in line and "->" not in line]
    return [int(lock[4]) for lock in locks if lock[5].rpartition(":")[2] == inode]


def _named(pid: int) -> str:
    try:
        return f"process {pid} ({Path(f'/proc/{pid}/exe').readlink()})"
    except OSError:  # somebody else's, or just ended
        return f"process {pid} (unknown)"


# Nothing is fetched from the network behind the user's back; JSON is built in. Names of Python variables are no tables.
_UNSEALED: Mapping[str, Any] = {
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "python_enable_replacements": False,
    # What ``cdner.store.rows.passing_by`` changes for a moment although the configuration is locked.
    "allowed_configs": ["threads", "memory_limit", "index_scan_max_count", "index_scan_percentage"],
}
_SEAL: Mapping[str, Any] = {"enable_external_access": False, "lock_configuration": True}
# Row groups of the size of DuckDB's vectors. When a store is closed DuckDB merges what was appended to it, up to
# three groups of 122,880 rows by default: 850 MiB of memory for texts of 2.4 kB, 140 with these, which take two fifths
# of the CPU time. Queries over a million rows take up to a seventh longer.
_ATTACH = "ATTACH '{path}' AS store (TYPE duckdb, ROW_GROUP_SIZE 2048)"
_HOLDER = re.compile(r"lock is held in (?P<program>.+?) \(PID (?P<pid>\d+)\)")


@contextmanager
def opened(
    path: Path, *, read_only: bool, wait_seconds: float, config: Mapping[str, Any] | None = None
) -> Iterator[DuckDBPyConnection]:
    """The file as it is, after waiting for its locks. Only the store's own modules call this.

    ``config`` is added to the settings that seal every connection. StoreError for a store that is a link or no regular
    file, and for one that holds a view or a macro where cdner expects a table or a function of DuckDB.
    """
    refuse_odd_files(path)
    path = Path(os.path.abspath(path))  # noqa: PTH100  DuckDB has its own meanings for ``:memory:`` and ``s3:x``
    with (
        turn(path, read_only=read_only, wait_seconds=wait_seconds),
        closing(_connect(path, read_only=read_only, wait_seconds=wait_seconds, config=config)) as connection,
    ):
        refuse_foreign_objects(connection, path)
        yield connection


def _connect(
    path: Path, *, read_only: bool, wait_seconds: float, config: Mapping[str, Any] | None = None
) -> DuckDBPyConnection:
    """Other programs that open the file know DuckDB's lock only."""
    import duckdb

    refuse_odd_log(path)
    patience = Patience(path, wait_seconds)
    settings: dict[str, Any] = {**_UNSEALED, **(config or {})}
    while True:
        try:
            if not read_only:
                return _writing(path, settings)
            return duckdb.connect(str(path), read_only=True, config={**settings, **_SEAL})
        except duckdb.IOException as error:
            if "Could not set lock" not in str(error):
                raise StoreError(_why_unusable(path, error)) from error
            patience.wait(_holder(error))
        except duckdb.ConnectionException as error:
            raise StoreError(
                f"{path} is already open in this process: end one transaction before the next."
            ) from error
        except duckdb.Error as error:
            raise StoreError(_why_unusable(path, error)) from error


def _writing(path: Path, settings: Mapping[str, Any]) -> DuckDBPyConnection:
    """An attached file: the size of row groups can be set nowhere else. Sealed before it is attached."""
    import duckdb

    connection = duckdb.connect(config=dict(settings))
    try:
        own = [f"{path}{suffix}" for suffix in STORE_FILES]
        connection.execute("SET allowed_paths = $own", {"own": own})
        connection.execute("SET temp_directory = $folder", {"folder": f"{path}.tmp"})
        connection.execute("SET enable_external_access = false")
        connection.execute(_ATTACH.format(path=str(path).replace("'", "''")))
        connection.execute("USE store")
        connection.execute("SET lock_configuration = true")
    except BaseException:
        connection.close()
        raise
    return connection


def first_line(error: BaseException) -> str:
    """An error's first line of text."""
    return next(iter(str(error).splitlines()), type(error).__name__)


def _why_unusable(path: Path, error: BaseException) -> str:
    if "not a valid DuckDB database file" in str(error):
        return f"{path} is not a DuckDB file, so it is no store of cdner. Move it away or name another store."
    return f"The store {path} cannot be opened: {first_line(error)}"


def _holder(error: BaseException) -> str:
    held = _HOLDER.search(str(error))
    return f"process {held['pid']} ({held['program']})" if held else "another process"
