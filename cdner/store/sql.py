"""One SELECT by a user, sealed: it sees the store and no file, within limits of time and memory.

The statement runs in a process of its own (``cdner.store.sealed_child``), because neither limit holds inside ours:
DuckDB looks at an interrupt only between operators and counts no memory of single values
(``repeat('x', 1000000000)``: 12 s and 1 GB, whatever the limits). Rows come back in pieces, so that a large answer
takes no more memory than a small one.

Also the named queries that come with cdner, one SQL file each under ``store/queries``. The first comment line of a file
says what the query answers, and one line for each parameter its type and default: ``-- $limit integer = 20: rows at
most``. A parameter without a default is NULL until it is given.
"""

from __future__ import annotations

import os
import pickle
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

from cdner.errors import CdnerError, StoreError, UsageError, unknown_name
from cdner.files import resource_root
from cdner.store.connection import Store

_PARAMETER = re.compile(
    r"-- \$(?P<name>[a-z_]+) (?P<kind>text|integer|number)(?: = (?P<default>[^:]+))?: (?P<meaning>.+)"
)
_READ: Mapping[str, Callable[[str | int | float], Value]] = {"text": str, "integer": int, "number": float}


@dataclass(frozen=True, slots=True)
class Parameter:
    name: str
    kind: str  # text, integer or number
    default: Value  # None: no restriction
    meaning: str


@dataclass(frozen=True, slots=True)
class NamedQuery:
    name: str
    answers: str  # one sentence
    parameters: tuple[Parameter, ...]
    sql: str  # the whole file

    def values(self, given: Mapping[str, Value]) -> dict[str, Value]:
        """Every parameter with what was given for it, or its default. UsageError for others and wrong kinds."""
        known = {parameter.name: parameter for parameter in self.parameters}
        for name in given:
            if name not in known:
                raise unknown_name(f"parameter of @{self.name}", name, known)
        return {
            name: _read(parameter, given[name]) if name in given else parameter.default
            for name, parameter in known.items()
        }


@cache
def named_queries() -> Mapping[str, NamedQuery]:
    """All of them, by name."""
    files = sorted((resource_root("store") / "queries").glob("*.sql"))
    return {file.stem: parse_query(file.stem, file.read_text(encoding="utf-8")) for file in files}


def find_query(name: str) -> NamedQuery:
    """The query of this name, with or without its @. UsageError for an unknown one."""
    queries = named_queries()
    plain = name.removeprefix("@")
    if plain not in queries:
        raise unknown_name("query", plain, queries)
    return queries[plain]


def parse_query(name: str, text: str) -> NamedQuery:
    """ValueError for a file that does not begin as the module says."""
    first, *others = text.splitlines()
    if not first.startswith("-- "):
        raise ValueError(f"{name}.sql does not begin with what it answers")
    parameters = []
    for line in others:
        if not line.startswith("--"):
            break
        found = _PARAMETER.fullmatch(line)
        if found is None:
            raise ValueError(f"{name}.sql: no parameter: {line}")
        undefined = Parameter(found["name"], found["kind"], None, found["meaning"])
        default = None if found["default"] is None else _read(undefined, found["default"])
        parameters.append(Parameter(found["name"], found["kind"], default, found["meaning"]))
    return NamedQuery(name, first.removeprefix("-- "), tuple(parameters), text)


def _read(parameter: Parameter, value: Value) -> Value:
    if value is None:
        return None
    try:
        return _READ[parameter.kind](value)
    except ValueError as error:
        raise UsageError(f"${parameter.name} must be of kind {parameter.kind}, not '{value}'.") from error


_LONGEST = 31_536_000  # seconds; a year
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
    if not 0 < question.seconds <= _LONGEST:
        raise UsageError(
            f"The time limit must be above 0 and at most {_LONGEST:,} seconds, not {question.seconds:g}."
        )
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
    child = subprocess.Popen(  # noqa: S603 our own module
        [sys.executable, "-P", "-m", "cdner.store.sealed_child", str(os.getpid())],
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
