"""Processes take turns at a store's file, with a lock of our own (flock) around DuckDB's.

DuckDB 2.0 reads a file's header before it locks the file. Whoever commits in between is forgotten by the one who opens,
and overwritten by its next checkpoint: about one transaction in five hundred where eight processes write. Under a lock
that is held from before opening until after closing nothing comes in between. DuckDB's own lock (fcntl) is another
kind, which this one neither takes nor gives up. Knows nothing of what is in the file.
"""

from __future__ import annotations

import fcntl
import os
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cdner.errors import StoreError, StoreLockedError

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
