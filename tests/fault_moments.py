"""Kills cdner commands at chosen moments of their course: at an act that leaves traces, or so many seconds after it.

An act is a store transaction (about to open, about to commit, closed) or a file made, renamed, linked or removed. The
command's unbroken course is measured first, so that moments are spread over all of it however loaded the machine is.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import struct
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from pipeline_experiments import ended, start_cdner

from cdner.store import Store
from cdner.store.hash import hash_tables
from cdner.store.verify import verify

OPENS_IN = 2.0  # seconds that a store may take to open after a kill
_STAMP = struct.Struct("d")
_FILE_ACTS = {"os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "shutil.rmtree"}
_TO_WRITE = os.O_WRONLY | os.O_RDWR | os.O_CREAT


@dataclass(frozen=True, slots=True)
class Moment:
    """Right before the ``act``-th act (from 1), or ``seconds`` after it has begun."""

    act: int
    seconds: float

    def sooner(self) -> Moment:
        """For a command that has less to do, or is faster, than when it was measured."""
        if self.seconds > 0.01:
            return Moment(self.act, self.seconds / 2)
        return Moment(self.act if self.seconds else max(1, self.act - 1), 0.0)


@dataclass(frozen=True, slots=True)
class Watched:
    """In the child: tells the pipe when each act begins, dies at one of them. Acts on ``folder`` alone count."""

    pipe: Connection
    folder: str
    die_at: int = 0
    also: Callable[[], None] | None = None  # a patch of the test's own

    def __call__(self) -> None:
        n_acts = 0

        def act() -> None:
            nonlocal n_acts
            n_acts += 1
            if n_acts == self.die_at:
                os.kill(os.getpid(), signal.SIGKILL)
            self.pipe.send_bytes(_STAMP.pack(time.monotonic()))

        if self.also:
            self.also()
        _watch_files(self.folder, act)
        _watch_transactions(act)


def _watch_files(folder: str, act: Callable[[], None]) -> None:
    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        writes = event in _FILE_ACTS or (event == "open" and arguments[2] & _TO_WRITE)
        if writes and isinstance(arguments[0], str | Path) and str(arguments[0]).startswith(folder):
            act()

    sys.addaudithook(hook)


def _watch_transactions(act: Callable[[], None]) -> None:
    original = Store.transaction

    @contextlib.contextmanager
    def watched(store: Store) -> Iterator[Any]:
        act()
        with original(store) as connection:
            yield connection
            act()
        act()

    Store.transaction = watched  # type: ignore[method-assign]


# --- courses ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Course:
    """A command over a copy of a prepared folder that holds ``s.duckdb`` (or nothing yet)."""

    prepared: Path
    command: tuple[object, ...]
    work: Path  # where copies are made
    patch: Callable[[], None] | None = None

    @property
    def store(self) -> Path:
        return self.work / "copy" / "s.duckdb"

    def restart(self) -> None:
        """A fresh copy."""
        shutil.rmtree(self.store.parent, ignore_errors=True)
        shutil.copytree(self.prepared, self.store.parent)

    def start(self, die_at: int = 0) -> tuple[BaseProcess, Connection]:
        ours, its = Pipe(duplex=False)
        watched = Watched(its, str(self.store.parent), die_at, self.patch)
        log = self.work / "log"
        log.write_text("")
        process = start_cdner(self.store, *self.command, log=log, patch=watched)
        its.close()
        return process, ours

    def said(self) -> str:
        return (self.work / "log").read_text()


def unbroken_course(course: Course) -> list[float]:
    """Run it on a fresh copy; when each act began, in seconds, and when the command was over."""
    course.restart()
    process, pipe = course.start()
    stamps = list(_stamps(pipe))
    assert ended(process) == 0, course.said()
    return [*stamps, time.monotonic()]


def moments_of(stamps: Sequence[float], n_moments: int, generator: random.Random) -> list[Moment]:
    """Half of them spread over the acts, half over the time; shuffled."""
    n_acts = len(stamps) - 1
    half = n_moments // 2
    found = []
    for n in range(half):
        act = int((n + generator.random()) / half * n_acts)
        gap = stamps[act + 1] - stamps[act]
        found.append(Moment(act + 1, generator.choice((0.0, generator.random() * gap))))
    for n in range(n_moments - half):
        share = (n + generator.random()) / (n_moments - half)
        moment = stamps[0] + share * (stamps[-1] - stamps[0])
        act = max(index for index in range(n_acts) if stamps[index] <= moment)
        found.append(Moment(act + 1, moment - stamps[act]))
    generator.shuffle(found)
    return found


def killed(course: Course, moment: Moment) -> bool:
    """Start the command and kill it then; False when it ended before, which must be well."""
    process, pipe = course.start(0 if moment.seconds else moment.act)
    stamps = _stamps(pipe)
    if moment.seconds:
        n_seen = sum(1 for _, _ in zip(range(moment.act), stamps, strict=False))
        if n_seen == moment.act:
            time.sleep(moment.seconds)
        with contextlib.suppress(ProcessLookupError):  # it has just ended by itself
            os.kill(process.pid or 0, signal.SIGKILL)
    else:
        for _ in stamps:
            pass
    code = ended(process)
    pipe.close()
    assert code in (0, -signal.SIGKILL), course.said()
    return code != 0


def _stamps(pipe: Connection) -> Iterator[float]:
    with contextlib.suppress(EOFError):
        while True:
            yield _STAMP.unpack(pipe.recv_bytes())[0]


def assert_sound(path: Path) -> None:
    """The store opens at once and nothing in it is wrong; a kill while it was being made leaves none at all."""
    if not path.exists():
        return
    store = Store(path, wait_seconds=OPENS_IN)
    started = time.process_time()  # CPU: other processes on this machine are no fault of the store
    with store.reading() as connection:
        connection.execute("SELECT count(*) FROM run").fetchall()
    assert time.process_time() - started < OPENS_IN
    problems = verify(store)
    assert problems == [], problems  # this module is no test: pytest shows no values by itself


def table_hashes(path: Path) -> dict[str, str]:
    return {table.table: table.sha256 for table in hash_tables(Store(path))}
