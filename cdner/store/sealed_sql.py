"""One SELECT by a user, sealed: it sees the store and nothing else, and its time and memory end where we say.

The statement runs in a process of its own, because inside ours neither limit would hold: DuckDB looks at an
interrupt only between operators and counts no memory of single values (``repeat('x', 1000000000)``: 12 s and
1 GB, whatever the limits). The other half is ``cdner.store.sealed_child``.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cdner.errors import CdnerError, StoreError, UsageError
from cdner.store.connection import Store


@dataclass(frozen=True, slots=True)
class SealedQuery:
    """What the child process is told."""

    store: Store
    sql: str
    seconds: float
    memory: str
    max_rows: int


@dataclass(frozen=True, slots=True)
class Answer:
    """What it answers: columns and rows, or the error to raise here."""

    columns: tuple[str, ...] = ()
    rows: tuple[tuple[Any, ...], ...] = ()
    error: CdnerError | None = None


def query(
    store: Store, sql: str, *, seconds: float = 30.0, memory: str = "1GB", max_rows: int = 10_000
) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
    """Columns and at most ``max_rows`` rows of one SELECT (WITH, FROM, VALUES, PIVOT, DESCRIBE, EXPLAIN).

    No other file, no network, no ATTACH, no setting, no writing. Waits for a writing process as every reader
    does. While it runs, writers wait in turn: keep ``seconds`` below the ``wait_seconds`` of those who write.
    UsageError for a statement that is refused or wrong, StoreError when a limit ends it.
    """
    if not seconds > 0:
        raise UsageError(f"The time limit must be above 0 seconds, not {seconds:g}.")
    if max_rows < 1:
        raise UsageError(f"The number of rows must be at least 1, not {max_rows}.")
    package = str(Path(__file__).parents[2])
    path = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))
    child = subprocess.run(
        [sys.executable, "-P", "-m", "cdner.store.sealed_child"],
        input=pickle.dumps(SealedQuery(store, sql, seconds, memory, max_rows)),
        capture_output=True,
        env={**os.environ, "PYTHONPATH": path},
        check=False,
    )
    if child.returncode == -signal.SIGALRM:
        raise StoreError(
            f"The query was stopped after {seconds:g} seconds. Narrow it, or allow it more time."
        )
    if child.returncode != 0:
        raise out_of_memory(memory)
    answer: Answer = pickle.loads(child.stdout)  # noqa: S301 written by our own child
    if answer.error is not None:
        raise answer.error
    return answer.columns, list(answer.rows)


def out_of_memory(memory: str) -> StoreError:
    """What both halves say when the memory does not suffice."""
    return StoreError(f"The query needed more than {memory} of memory. Narrow it, or allow it more.")
