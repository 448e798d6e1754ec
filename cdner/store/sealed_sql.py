"""One SELECT by a user, sealed: it sees the store and nothing else, and its time and memory end where we say.

The statement runs in a process of its own, because inside ours neither limit would hold: DuckDB looks at an
interrupt only between operators and counts no memory of single values (``repeat('x', 1000000000)``: 12 s and
1 GB, whatever the limits). Rows come back in pieces, so that a large answer fits in no more memory than a small
one. The other half is ``cdner.store.sealed_child``.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from cdner.errors import CdnerError, StoreError, UsageError
from cdner.store.connection import Store

Value = str | int | float | None
Rows = tuple[tuple[Any, ...], ...]


@dataclass(frozen=True, slots=True)
class SealedQuery:
    """What the child process is told."""

    store: Store
    sql: str
    seconds: float
    memory: str
    max_rows: int | None = None  # None: all
    parameters: Mapping[str, Value] = field(default_factory=dict)  # for $name in the statement
    collected: bool = False  # the answer is kept as a whole, so as a whole it must fit the memory


@dataclass(frozen=True, slots=True)
class Head:
    """The first of the child's messages; pieces of rows follow, then ``End``."""

    columns: tuple[str, ...]
    types: tuple[str, ...]  # DuckDB's names of them


@dataclass(frozen=True, slots=True)
class End:
    """The last of the child's messages, with the error to raise here."""

    error: CdnerError | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What a statement answers. ``pieces`` can be walked through once, while the query's context is open."""

    columns: tuple[str, ...]
    types: tuple[str, ...]  # DuckDB's names, such as VARCHAR or INTEGER[]
    pieces: Iterator[Rows]


def query(
    store: Store,
    sql: str,
    *,
    parameters: Mapping[str, Value] | None = None,
    seconds: float = 30.0,
    memory: str = "1GB",
    max_rows: int = 10_000,
) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
    """Columns and at most ``max_rows`` rows of one SELECT; see ``open_query``.

    Here ``memory`` also limits what comes back: ten thousand rows of a megabyte would be ours to hold.
    """
    question = SealedQuery(store, sql, seconds, memory, max_rows, dict(parameters or {}), collected=True)
    with _opened(question) as answer:
        return answer.columns, list(chain.from_iterable(answer.pieces))


@contextmanager
def open_query(
    store: Store,
    sql: str,
    *,
    parameters: Mapping[str, Value] | None = None,
    seconds: float = 30.0,
    memory: str = "1GB",
    max_rows: int | None = None,
) -> Iterator[Answer]:
    """The answer of one SELECT (WITH, FROM, VALUES, PIVOT, DESCRIBE, EXPLAIN), in pieces.

    No other file, no network, no ATTACH, no setting, no writing. ``parameters`` are bound to the ``$names`` in the
    statement, never pasted. Waits for a writing process as every reader does. While it runs, and until the last
    piece was taken, writers wait in turn: keep ``seconds`` below the ``wait_seconds`` of those who write.
    UsageError for a statement that is refused or wrong, StoreError when a limit ends it (also between pieces).
    """
    with _opened(SealedQuery(store, sql, seconds, memory, max_rows, dict(parameters or {}))) as answer:
        yield answer


@contextmanager
def _opened(question: SealedQuery) -> Iterator[Answer]:
    if not question.seconds > 0:
        raise UsageError(f"The time limit must be above 0 seconds, not {question.seconds:g}.")
    if question.max_rows is not None and question.max_rows < 1:
        raise UsageError(f"The number of rows must be at least 1, not {question.max_rows}.")
    child = _start(question)
    try:
        head = _receive(child, question)
        if not isinstance(head, Head):
            raise TypeError(f"the child began with {head!r}")
        yield Answer(head.columns, head.types, _pieces(child, question))
    finally:
        child.kill()  # it only reads: whoever wants no more rows may end it anywhere
        child.wait()
        if child.stdout:
            child.stdout.close()


def _start(question: SealedQuery) -> subprocess.Popen[bytes]:
    package = str(Path(__file__).parents[2])
    path = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))
    child = subprocess.Popen(
        [sys.executable, "-P", "-m", "cdner.store.sealed_child"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": path},
    )
    if child.stdin:
        with child.stdin:
            child.stdin.write(pickle.dumps(question))
    return child


def _receive(child: subprocess.Popen[bytes], question: SealedQuery) -> Head | Rows | End:
    """The child's next message. Its error is raised, and so is its death."""
    try:
        message: Head | Rows | End = pickle.load(child.stdout)  # type: ignore[arg-type]  # noqa: S301 our own child
    except (EOFError, pickle.UnpicklingError) as broken_off:
        if child.wait() == -signal.SIGALRM:
            raise StoreError(
                f"The query was stopped after {question.seconds:g} seconds. Narrow it, or allow it more time."
            ) from broken_off
        raise out_of_memory(question.memory) from broken_off
    if isinstance(message, End) and message.error is not None:
        raise message.error
    return message


def _pieces(child: subprocess.Popen[bytes], question: SealedQuery) -> Iterator[Rows]:
    while isinstance(piece := _receive(child, question), tuple):
        yield piece


def out_of_memory(memory: str) -> StoreError:
    """What both halves say when the memory does not suffice."""
    return StoreError(f"The query needed more than {memory} of memory. Narrow it, or allow it more.")
