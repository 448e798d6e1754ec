"""Checks a store without changing it: whether it opens, its references, content hashes and checkpoint files.

Runs no migration, repairs nothing, and does not wait for a process that holds the store.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cdner.errors import StoreError
from cdner.files import content_hash, file_sha256
from cdner.store.connection import Store
from cdner.store.corpora import sentence_id
from cdner.store.llm_log import request_id, request_of_rows, template_id
from cdner.store.migrations import schema_version
from cdner.store.models import Checkpoint, checkpoint_directory
from cdner.store.opening import opened
from cdner.store.runs import OUTPUT_TABLES, is_alive, run_spec

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection


@dataclass(frozen=True, slots=True)
class StoreHealth:
    schema_version: int
    n_runs: int
    n_running: int  # runs that a live process is executing
    abandoned: tuple[tuple[str, str], ...]  # (step, run id) of runs whose process is gone
    splits: dict[str, frozenset[str]]  # domain -> splits in the store


def examine(store: Store) -> StoreHealth:
    """StoreLockedError where another process holds it, StoreError for what is no store or cannot be opened."""
    with opened(store.path, read_only=True, wait_seconds=store.wait_seconds) as connection:
        version = schema_version(connection, store.path)
        n_runs = connection.execute("SELECT count(*) FROM run").fetchall()[0][0]
        running = connection.execute(
            """
            SELECT step, run_id, host, pid, process_start FROM run JOIN
              (FROM attempt QUALIFY row_number() OVER (PARTITION BY run_id ORDER BY attempt_n DESC) = 1)
              USING (run_id)
            WHERE status = 'running' ORDER BY started_utc
            """
        ).fetchall()
        corpora = connection.execute("SELECT DISTINCT domain, split FROM corpus ORDER BY ALL").fetchall()
    abandoned = tuple((step, run_id) for step, run_id, *process in running if not is_alive(*process))
    splits: dict[str, set[str]] = defaultdict(set)
    for domain, split in corpora:
        splits[domain].add(split)
    by_domain = {domain: frozenset(found) for domain, found in splits.items()}
    return StoreHealth(version, n_runs, len(running) - len(abandoned), abandoned, by_domain)


@dataclass(frozen=True, slots=True)
class Problem:
    table: str
    key: str  # which row
    message: str


# (table, its columns, the table referred to, its columns). No experiment_run: a label may name a planned run.
_REFERENCES = (
    ("run_input", "run_id", "run", "run_id"),
    ("run_input", "input_run_id", "run", "run_id"),
    ("attempt", "run_id", "run", "run_id"),
    ("attempt_warning", "attempt_id", "attempt", "attempt_id"),
    *((table, "run_id", "run", "run_id") for table in OUTPUT_TABLES),
    ("corpus_sentence", "run_id", "corpus", "run_id"),
    ("corpus_sentence", "sentence_id", "sentence", "sentence_id"),
    ("gold_entity", "run_id, position", "corpus_sentence", "run_id, position"),
    ("domain_type", "run_id", "corpus", "run_id"),
    ("training_sentence", "corpus_run_id, position", "corpus_sentence", "run_id, position"),
    ("prediction_corpus", "corpus_run_id", "corpus", "run_id"),
    ("prediction", "run_id", "prediction_corpus", "run_id"),
    ("predicted_entity", "run_id, position", "prediction", "run_id, position"),
    (
        "type_probability",
        "run_id, position, start_token, end_token",
        "predicted_entity",
        "run_id, position, start_token, end_token",
    ),
    ("judged_mention", "request_id", "request", "request_id"),
    ("type_description", "request_id", "request", "request_id"),
    ("reasoning", "request_id", "request", "request_id"),
    ("completion", "request_id", "request", "request_id"),
    ("batch_request", "request_id", "request", "request_id"),
    ("batch_request", "submission_id", "batch", "submission_id"),
    ("request_message", "request_id", "request", "request_id"),
    ("request_message", "text_id", "prompt_text", "text_id"),
)

# (table, its key) of those without an index: nothing but our own code keeps a key from coming twice.
_KEYS = (
    ("request", "request_id"),
    ("request_message", "request_id, position"),
    ("prompt_text", "text_id"),
    ("completion", "request_id, attempt_n"),
    ("type_probability", "run_id, position, start_token, end_token, entity_type"),
    ("judged_mention", "run_id, position, start_token, end_token"),
    ("shown_mention", "run_id, position, start_token, end_token, place"),
    ("fusion_weight", "run_id, name"),
)


def verify(store: Store) -> list[Problem]:
    """Every problem found; empty for a sound store. Reads checkpoints in full: seconds for each gigabyte."""
    with store.reading() as connection:
        problems = [
            *_dangling(connection),
            *_repeated(connection),
            *_misplaced_predictions(connection),
            *_changed_runs(connection),
            *_changed_texts(connection),
            *_changed_requests(connection),
        ]
        checkpoints = connection.execute("SELECT run_id, path, weights_sha256 FROM checkpoint").fetchall()
    for run_id, path, expected in checkpoints:  # after the store is closed: this takes long
        try:
            directory = checkpoint_directory(store, Checkpoint(path, expected, 0))
        except StoreError as error:
            problems.append(Problem("checkpoint", run_id, str(error)))
        else:
            problems += _checkpoint_problems(run_id, directory, expected)
    return problems


def _dangling(connection: DuckDBPyConnection) -> Iterator[Problem]:
    for table, columns, parent, parent_columns in _REFERENCES:
        rows = connection.execute(
            f"SELECT {columns} FROM {table} EXCEPT SELECT {parent_columns} FROM {parent} ORDER BY ALL"  # noqa: S608
        ).fetchall()
        for row in rows:
            if None not in row:
                key = ", ".join(map(str, row))
                yield Problem(table, key, f"{columns} {key} is not in {parent}")


def _repeated(connection: DuckDBPyConnection) -> Iterator[Problem]:
    for table, columns in _KEYS:
        rows = connection.execute(
            f"SELECT {columns} FROM {table} GROUP BY ALL HAVING count(*) > 1 ORDER BY ALL"  # noqa: S608 our own names
        ).fetchall()
        for row in rows:
            yield Problem(table, ", ".join(map(str, row)), f"it has more than one row with this {columns}")


def _misplaced_predictions(connection: DuckDBPyConnection) -> Iterator[Problem]:
    rows = connection.execute(
        """
        SELECT prediction.run_id, prediction.position
        FROM prediction JOIN prediction_corpus USING (run_id)
        ANTI JOIN corpus_sentence
          ON corpus_sentence.run_id = corpus_run_id AND corpus_sentence.position = prediction.position
        ORDER BY ALL
        """
    ).fetchall()
    for run_id, position in rows:
        yield Problem("prediction", f"{run_id}, {position}", "its corpus has no such sentence")


def _changed_runs(connection: DuckDBPyConnection) -> Iterator[Problem]:
    inputs: dict[str, list[str]] = defaultdict(list)
    for run_id, name in connection.execute(
        "SELECT run_id, input_run_id FROM run_input ORDER BY run_id, position"
    ).fetchall():
        inputs[run_id].append(name)
    for run_id, step, version, settings in connection.execute(
        "SELECT run_id, step, version, settings FROM run ORDER BY run_id"
    ).fetchall():
        if run_spec(step, version, json.loads(settings), inputs[run_id]).run_id != run_id:
            yield Problem("run", run_id, "its settings or inputs no longer have this hash")


def _changed_texts(connection: DuckDBPyConnection) -> Iterator[Problem]:
    for name, tokens, text in connection.execute("SELECT sentence_id, tokens, text FROM sentence").fetchall():
        if sentence_id(tuple(tokens)) != name or " ".join(tokens) != text:
            yield Problem("sentence", name, "its tokens or text no longer have this hash")
    for name, text in connection.execute("SELECT text_id, text FROM prompt_text").fetchall():
        if content_hash(text) != name:
            yield Problem("prompt_text", name, "its text no longer has this hash")
    for identity, name, text in connection.execute("SELECT template_id, name, text FROM template").fetchall():
        if template_id(name, text) != identity:
            yield Problem("template", identity, "its name or text no longer have this hash")


def _changed_requests(connection: DuckDBPyConnection) -> Iterator[Problem]:
    texts = dict(connection.execute("SELECT text_id, text FROM prompt_text").fetchall())
    messages: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for identity, role, text_id in connection.execute(
        "SELECT request_id, role, text_id FROM request_message ORDER BY request_id, position"
    ).fetchall():
        messages[identity].append((role, texts.get(text_id, "")))
    for identity, family, model, sampling, schema in connection.execute(
        "SELECT request_id, backend_family, model, sampling, response_schema FROM request ORDER BY request_id"
    ).fetchall():
        request = request_of_rows(messages[identity], sampling, schema)
        if request_id(family, model, request) != identity:
            yield Problem("request", identity, "its messages or sampling no longer have this hash")


def _checkpoint_problems(run_id: str, directory: Path, expected: str) -> Iterator[Problem]:
    """As the checkpoint's writer sums: the one safetensors file, or the sums of all shards in name order."""
    files = sorted(directory.glob("*.safetensors"))
    if not files:
        yield Problem("checkpoint", run_id, f"no weights in {directory}")
        return
    sums = [file_sha256(file) for file in files]
    found = sums[0] if len(sums) == 1 else hashlib.sha256("".join(sums).encode()).hexdigest()
    if found != expected:
        yield Problem("checkpoint", run_id, f"the weights in {directory} have changed")
