"""Runs and their attempts: a run is what was asked, an attempt is one execution of it.

A run's identity is the content hash of step, version, settings and input run ids: the same question finds the same run.
An attempt records the machine, the process and the versions that executed it; none of these is part of the identity.
Finished attempts also tell how long a unit of each kind of work takes (view ``step_duration``).
"""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cdner.errors import RunBusyError, StoreError
from cdner.files import Json, canonical_json, content_hash, pid_exists
from cdner.store.connection import Store
from cdner.store.migrations import utc_now
from cdner.store.rows import insert_rows, replace_run
from cdner.version import __version__

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection


_LIBRARIES = ("torch", "transformers", "duckdb", "numpy", "vllm", "openai")


@dataclass(frozen=True, slots=True)
class Process:
    host: str
    pid: int
    start: str  # kernel start time, so that a reused pid is another process; "" where unknown


def this_process() -> Process:
    return Process(platform.node(), os.getpid(), _start_time(os.getpid()))


def is_alive(host: str, pid: int, start: str) -> bool:
    """Whether that very process still runs. Of another host nothing is known: taken for alive."""
    if host != platform.node():
        return True
    return pid_exists(pid) and (not start or _start_time(pid) == start)


@cache
def library_versions() -> dict[str, str]:
    """Versions of Python, cdner and the libraries that shape results, as far as installed; imports none."""
    found = {"python": platform.python_version(), "cdner": __version__}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


@cache
def git_commit() -> str | None:
    """Commit of the checkout this package lies in; None for an installed package or without git."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    try:
        answer = subprocess.run(  # noqa: S603 a fixed command
            ["git", "-C", str(root), "rev-parse", "HEAD"],  # noqa: S607 the user's git, wherever it is
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()


def _start_time(pid: int) -> str:
    """Field 22 of /proc/<pid>/stat (proc(5)); a zombie, killed but not yet waited for, counts as gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return ""
    return "zombie" if fields[0] == "Z" else fields[19]


RunState = Literal["absent", "running", "done", "partial", "failed"]
AttemptStatus = Literal["done", "partial", "failed", "interrupted"]

# Every table a run's outputs lie in, by its run_id. Completions and sentences are shared: they are not here.
OUTPUT_TABLES = (
    "corpus",
    "corpus_sentence",
    "gold_entity",
    "domain_type",
    "type_description",
    "type_embedding",
    "checkpoint",
    "train_log",
    "training_sentence",
    "prediction_corpus",
    "prediction",
    "predicted_entity",
    "type_probability",
    "judged_mention",
    "shown_mention",
    "fusion_weight",
    "hierarchy_ratio",
    "misclassification_ratio",
    "confusion",
    "rival",
    "reasoning",
    "score",
    "error_count",
)

_ATTEMPT_COLUMNS = (
    *("attempt_id", "run_id", "attempt_n", "status", "execution", "host", "pid", "process_start"),
    *("versions", "git_commit", "started_utc", "error"),
)


@dataclass(frozen=True, slots=True)
class RunSpec:
    """What is asked of one step. Make it with ``run_spec``."""

    run_id: str
    step: str
    version: int
    settings: Json
    inputs: tuple[str, ...]  # run ids, in the step's own order


@dataclass(frozen=True, slots=True)
class RunSummary:
    run_id: str
    step: str
    state: RunState
    n_attempts: int
    started_utc: datetime | None  # of the latest attempt
    finished_utc: datetime | None
    error: str
    labels: tuple[str, ...]  # "experiment/label"
    warnings: tuple[str, ...] = ()  # of the latest attempt


def run_spec(step: str, version: int, settings: Json, inputs: Sequence[str]) -> RunSpec:
    """Name a run. Settings come from the typed configuration, where 1 and 1.0 are already one of the two."""
    identity: Json = {"step": step, "version": version, "settings": settings, "inputs": list(inputs)}
    return RunSpec(content_hash(identity), step, version, settings, tuple(inputs))


def run_state(store: Store, run_id: str) -> RunState:
    """State by the latest attempt; "absent" without one or without a store.

    A running attempt whose process is gone from this host, and an interrupted one, are "partial": what it
    stored is there, running again goes on.
    """
    if not store.path.exists():
        return "absent"
    with store.reading() as connection:
        row = connection.execute(
            "SELECT status, host, pid, process_start FROM attempt"
            " WHERE run_id = ? ORDER BY attempt_n DESC LIMIT 1",
            [run_id],
        ).fetchone()
    return "absent" if row is None else _state(*row)


def done_runs(store: Store, run_ids: Sequence[str]) -> set[str]:
    """Those of the runs whose latest attempt is done; none without a store."""
    if not store.path.exists():
        return set()
    with store.reading() as connection:
        rows = connection.execute(
            "SELECT run_id FROM attempt WHERE run_id IN (SELECT unnest(?))"
            " GROUP BY run_id HAVING arg_max(status, attempt_n) = 'done'",
            [list(run_ids)],
        ).fetchall()
    return {name for (name,) in rows}


def begin_attempt(store: Store, spec: RunSpec, execution: Json, *, force: bool = False) -> str:
    """Record that this process starts executing a run, and return the attempt's id.

    ``force`` deletes the run's outputs now, in the same transaction, not when the new ones are there: a forced
    execution that fails or is killed leaves the run without its old outputs, "failed" or "partial". LLM
    completions stay. RunBusyError when another live process, or one on another host, is executing the run,
    unless forced.
    """
    with store.transaction() as connection:
        _close_dead_attempts(connection, spec.run_id, force=force)
        _insert_run(connection, spec)
        if force:
            for table in OUTPUT_TABLES:
                replace_run(connection, table, (), spec.run_id, [])
        return _insert_attempt(connection, spec.run_id, execution)


def record_done(connection: DuckDBPyConnection, run_ids: Sequence[str], execution: Json) -> None:
    """Mark runs whose outputs came from elsewhere (a bundle) as done here; those that are done stay as they are."""
    rows = connection.execute(
        "SELECT run_id FROM latest_attempt WHERE status = 'done' AND run_id IN (SELECT unnest(?))",
        [list(run_ids)],
    ).fetchall()
    for run_id in sorted(set(run_ids) - {name for (name,) in rows}):
        attempt_id = _insert_attempt(connection, run_id, execution)
        connection.execute(
            "UPDATE attempt SET status = 'done', finished_utc = started_utc WHERE attempt_id = ?",
            [attempt_id],
        )


def finish_attempt(
    store: Store, attempt_id: str, status: AttemptStatus, error: str = "", *, warnings: Sequence[str] = ()
) -> None:
    """Record how an attempt ended and what it warned of. Raises StoreError if there is no such attempt."""
    with store.transaction() as connection:
        changed = connection.execute(
            "UPDATE attempt SET status = ?, error = ?, finished_utc = ?"
            " WHERE attempt_id = ? RETURNING attempt_id",
            [status, error, utc_now(), attempt_id],
        ).fetchall()
        if not changed:
            raise StoreError(f"No attempt {attempt_id} in {store.path}.")
        rows = [(attempt_id, position, text) for position, text in enumerate(warnings)]
        insert_rows(connection, "attempt_warning", ("attempt_id", "position", "message"), rows)


def label_experiment(
    store: Store, experiment: str, labels: Sequence[tuple[str, str]], *, replace: bool = False
) -> None:
    """Store (run id, label): which run plays which part; ``replace`` drops the earlier labels."""
    with store.transaction() as connection:
        if replace:
            connection.execute("DELETE FROM experiment_run WHERE experiment = ?", [experiment])
        rows = [(experiment, label, run_id, utc_now()) for run_id, label in dict.fromkeys(labels)]
        columns = ("experiment", "label", "run_id", "labelled_utc")
        insert_rows(connection, "experiment_run", columns, rows, on_conflict="replace")


def list_runs(store: Store, *, step: str | None = None, experiment: str | None = None) -> list[RunSummary]:
    """Runs with their state, the most recently started first; optionally of one step or one experiment."""
    with store.reading() as connection:
        rows = connection.execute(
            """
            SELECT run.run_id, run.step, latest.status, latest.host, latest.pid, latest.process_start,
                   coalesce(latest.attempt_n, 0), latest.started_utc, latest.finished_utc,
                   coalesce(latest.error, ''),
                   (SELECT coalesce(list(experiment || '/' || label ORDER BY experiment, label), [])
                    FROM experiment_run WHERE experiment_run.run_id = run.run_id),
                   (SELECT coalesce(list(message ORDER BY position), [])
                    FROM attempt_warning WHERE attempt_warning.attempt_id = latest.attempt_id)
            FROM run
            LEFT JOIN attempt AS latest ON latest.run_id = run.run_id
            WHERE ($step IS NULL OR run.step = $step)
              AND ($experiment IS NULL OR run.run_id IN
                   (SELECT run_id FROM experiment_run WHERE experiment = $experiment))
            QUALIFY row_number() OVER (PARTITION BY run.run_id ORDER BY latest.attempt_n DESC) = 1
            ORDER BY latest.started_utc DESC NULLS LAST, run.run_id
            """,
            {"step": step, "experiment": experiment},
        ).fetchall()
    return [
        RunSummary(
            run_id=row[0],
            step=row[1],
            state=_state(*row[2:6]) if row[2] else "absent",
            n_attempts=row[6],
            started_utc=row[7],
            finished_utc=row[8],
            error=row[9],
            labels=tuple(row[10]),
            warnings=tuple(row[11]),
        )
        for row in rows
    ]


def load_run(store: Store, run_id: str) -> RunSpec:
    """What was asked. StoreError when the store has no such run."""
    import json

    with store.reading() as connection:
        row = connection.execute(
            "SELECT step, version, settings FROM run WHERE run_id = ?", [run_id]
        ).fetchone()
        inputs = connection.execute(
            "SELECT input_run_id FROM run_input WHERE run_id = ? ORDER BY position", [run_id]
        ).fetchall()
    if row is None:
        raise StoreError(f"No run {run_id} in {store.path}.")
    return RunSpec(run_id, row[0], row[1], json.loads(row[2]), tuple(name for (name,) in inputs))


def _insert_run(connection: DuckDBPyConnection, spec: RunSpec) -> None:
    row = (spec.run_id, spec.step, spec.version, canonical_json(spec.settings), utc_now())
    columns: tuple[str, ...] = ("run_id", "step", "version", "settings", "created_utc")
    insert_rows(connection, "run", columns, [row], on_conflict="ignore")
    inputs = [(spec.run_id, position, name) for position, name in enumerate(spec.inputs)]
    columns = ("run_id", "position", "input_run_id")
    insert_rows(connection, "run_input", columns, inputs, on_conflict="ignore")


def _insert_attempt(connection: DuckDBPyConnection, run_id: str, execution: Json) -> str:
    """A running attempt of this process, numbered after the earlier ones."""
    row = connection.execute(
        "SELECT coalesce(max(attempt_n), 0) + 1 FROM attempt WHERE run_id = ?", [run_id]
    ).fetchone()
    attempt_n = int(row[0]) if row else 1
    attempt_id = f"{run_id}.{attempt_n}"
    process = this_process()
    values = (
        *(attempt_id, run_id, attempt_n, "running", canonical_json(execution)),
        *(process.host, process.pid, process.start),
        *(canonical_json(library_versions()), git_commit(), utc_now(), ""),
    )
    insert_rows(connection, "attempt", _ATTEMPT_COLUMNS, [values])
    return attempt_id


def _close_dead_attempts(connection: DuckDBPyConnection, run_id: str, *, force: bool) -> None:
    """A killed process leaves its attempt running; so does an own earlier attempt that was never finished."""
    rows = connection.execute(
        "SELECT host, pid, process_start FROM attempt WHERE run_id = ? AND status = 'running'", [run_id]
    ).fetchall()
    own = this_process()
    for host, pid, start in rows:
        is_own = (host, pid, start) == (own.host, own.pid, own.start)
        if not is_own and not force and is_alive(host, pid, start):
            raise RunBusyError(
                f"Run {run_id} is being executed by process {pid} on {host}. Wait for it, or use --force."
            )
    connection.execute(
        "UPDATE attempt SET status = 'interrupted' WHERE run_id = ? AND status = 'running'", [run_id]
    )


def _state(status: str, host: str, pid: int, process_start: str) -> RunState:
    if status == "running":
        return "running" if is_alive(host, pid, process_start) else "partial"
    states: dict[str, RunState] = {"done": "done", "failed": "failed"}
    return states.get(status, "partial")


@dataclass(frozen=True, slots=True)
class WorkKind:
    """Work that takes alike long: the same step with the same weights on inputs of the same make."""

    step: str
    weights: str  # identity; empty where none is used
    with_reasoning: bool


def seconds_per_unit(store: Store) -> Mapping[WorkKind, float]:
    """Kind of work -> median seconds a unit took on this machine; empty without a store."""
    if not store.path.exists():
        return {}
    statement = """
        SELECT step, weights, with_reasoning, median(seconds_per_unit) FROM step_duration
        WHERE host = ? AND seconds_per_unit IS NOT NULL GROUP BY ALL
    """
    with store.reading() as connection:
        rows = connection.execute(statement, [platform.node()]).fetchall()
    return {WorkKind(*kind): float(seconds) for *kind, seconds in rows}
