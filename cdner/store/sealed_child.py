"""The process in which a user's SELECT runs: reads one ``SealedQuery`` from stdin, writes messages to stdout.

First a ``Head``, then pieces of rows, at last an ``End``; an ``End`` alone where the statement is refused.

The limits are the operating system's: an alarm that kills, and a bound on the memory the process may have.
Killing it harms nothing: it only reads.
"""

from __future__ import annotations

import ctypes
import os
import pickle
import re
import resource
import signal
import sys
from collections.abc import Iterator, Mapping, Set
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from cdner.errors import CdnerError, UsageError
from cdner.store.opening import first_line
from cdner.store.sql import End, Head, Rows, SealedQuery, out_of_memory

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection, Statement

_UNITS: Mapping[str, int] = {
    **{"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12},
    **{"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40},
}
# What Python, DuckDB and their threads take beside the query (measured: 150 MB).
_OVERHEAD_BYTES = 400 * 10**6
_PR_SET_PDEATHSIG = 1  # prctl(2)
_MOST_BYTES = 10**15
_PIECE = 1000  # rows sent at a time
# PIVOT is the one statement DuckDB parses as MULTI.
_ALLOWED = ("SELECT", "EXPLAIN", "MULTI")


def answer(question: SealedQuery) -> Iterator[Head | Rows | End]:
    """Run it under its limits; every expected error is part of the last message."""
    import duckdb

    try:
        n_bytes = parse_memory(question.memory)
        sealed: dict[str, Any] = {
            "memory_limit": f"{n_bytes}B",
            "temp_directory": "",  # what does not fit the memory fails; it does not fill the disk
            "allowed_configs": [],
        }
        with question.store.reading(sealed) as connection:
            _limit_process(question.seconds, n_bytes + _OVERHEAD_BYTES)
            try:
                yield from _select(connection, question)
            except (duckdb.OutOfMemoryException, MemoryError):
                yield End(out_of_memory(question.memory))
            except duckdb.Error as error:
                if "pytz" in str(error):
                    advice = "a TIMESTAMP WITH TIME ZONE cannot be shown; cast it: now()::TIMESTAMP"
                    yield End(UsageError(f"SQL: {advice}."))
                else:
                    yield End(UsageError(f"SQL: {_one_line(error)}"))
    except CdnerError as error:
        yield End(error)


def parse_memory(text: str) -> int:
    """Bytes of "512MB", "1.5 GiB" and the like. UsageError for anything else."""
    parts = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]+)\s*", text)
    unit = _UNITS.get(parts[2].upper()) if parts else None
    if parts is None or unit is None:
        raise UsageError(f"Memory must be a number with a unit such as 512MB or 1GB, not '{text}'.")
    n_bytes = float(parts[1]) * unit
    if not n_bytes <= _MOST_BYTES:
        raise UsageError(f"Memory must be at most 1000 TB, not '{text[:60]}'.")
    return int(n_bytes)


def _select(connection: DuckDBPyConnection, question: SealedQuery) -> Iterator[Head | Rows | End]:
    _refuse_half_characters(question)
    statements = connection.extract_statements(question.sql)
    if len(statements) != 1:
        raise UsageError(f"One statement is allowed, not {len(statements)}.")
    kind = _kind(statements[0])
    if kind not in _ALLOWED:
        raise UsageError(f"Only SELECT is allowed (with WITH, PIVOT, DESCRIBE, EXPLAIN), not {kind}.")
    _check_parameters(statements[0].named_parameters, question.parameters)
    result = connection.execute(statements[0], dict(question.parameters) or None)
    described = result.description or ()
    left = sys.maxsize if question.max_rows is None else question.max_rows
    rows = tuple(result.fetchmany(min(left, _PIECE)))  # before the head: what fails at once is no answer
    yield Head(tuple(column[0] for column in described), tuple(str(column[1]) for column in described))
    while rows:
        yield rows
        left -= len(rows)
        rows = tuple(result.fetchmany(min(left, _PIECE))) if left else ()
    yield End()


def _refuse_half_characters(question: SealedQuery) -> None:
    """Bytes of a command line that are no UTF-8 arrive as lone surrogates, which DuckDB takes for no text at all."""
    for text in (question.sql, *question.parameters, *question.parameters.values()):
        if isinstance(text, str) and re.search("[\ud800-\udfff]", text):
            raise UsageError(f"This is no text in UTF-8: {text[:60]!r}.")


def _kind(statement: Statement) -> str:
    try:
        return str(statement.type.name)
    except ValueError:  # DuckDB has kinds, such as UPDATE EXTENSIONS, for which its Python module has no name
        return "this"


def _check_parameters(named: Set[str], given: Mapping[str, object]) -> None:
    if missing := sorted(named - given.keys()):
        raise UsageError(f"The statement has ${missing[0]}, which has no value: --param {missing[0]}=VALUE.")
    if unknown := sorted(given.keys() - named):
        has = ", ".join(f"${name}" for name in sorted(named)) or "no parameter"
        raise UsageError(f"The statement has no ${unknown[0]}; it has {has}.")


def _limit_process(seconds: float, n_bytes: int) -> None:
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # the alarm ends the process, whatever it is doing
    signal.setitimer(signal.ITIMER_REAL, seconds)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_DATA, (n_bytes, n_bytes))


def _one_line(error: Exception) -> str:
    """DuckDB's message with its "Did you mean", without the picture of the statement."""
    text = " ".join(str(error).partition("\nLINE ")[0].split())
    return text or first_line(error)


def _end_with_parent(parent: int) -> None:
    """Ask Linux to kill this process when its parent ends, also when that was killed; elsewhere the alarm must do."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it has ended meanwhile
        sys.exit(1)


def main() -> None:
    _end_with_parent(int(sys.argv[1]))
    question: SealedQuery = pickle.load(sys.stdin.buffer)  # noqa: S301 written by our own parent
    n_bytes = 0
    for message in answer(question):
        written = pickle.dumps(message)
        n_bytes += len(written)
        too_much = (
            isinstance(message, tuple) and question.collected and n_bytes > parse_memory(question.memory)
        )
        sys.stdout.buffer.write(pickle.dumps(End(out_of_memory(question.memory))) if too_much else written)
        sys.stdout.buffer.flush()
        if too_much:
            return


if __name__ == "__main__":
    main()
