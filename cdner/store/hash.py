"""One hash for what a store holds, so that two machines can say whether they came to the same.

Covered: every result and every text, number by number. Not covered: when, how long, where and by whom something was
executed (attempts, times, seconds, a checkpoint's path; its weights' checksum is), and published scores.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cdner.files import canonical_json, content_hash
from cdner.store.connection import Store
from cdner.store.runs import OUTPUT_TABLES
from cdner.store.selection import Selection, select

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

_SHARED_TABLES = (
    *("run", "run_input", "experiment_run", "sentence"),
    *("request", "request_message", "prompt_text", "completion"),
)
_NOT_COVERED = {("checkpoint", "path"), ("completion", "seconds"), ("train_log", "seconds")}
_ROWS_AT_ONCE = 10_000


@dataclass(frozen=True, slots=True)
class TableHash:
    table: str
    n_rows: int
    sha256: str


def hash_tables(store: Store, experiments: Sequence[str] = ()) -> list[TableHash]:
    """Every table's rows, sorted, as canonical JSON. UsageError for an unknown experiment.

    With experiments: the runs they label and all these were made from; requests, completions and sentences as far as
    those runs use them. Templates are covered through the texts rendered from them, and by their own rows in a whole
    store.
    """
    with store.reading() as connection:
        selected = select(connection, experiments)
        tables = sorted((*OUTPUT_TABLES, *_SHARED_TABLES, *(() if experiments else ("template",))))
        return [_hash_table(connection, table, selected) for table in tables]


def store_hash(tables: Sequence[TableHash]) -> str:
    """The one hash over those of all tables."""
    return content_hash({table.table: table.sha256 for table in tables})


def _hash_table(connection: DuckDBPyConnection, table: str, selected: Selection) -> TableHash:
    columns = [
        name
        for name, *_ in connection.execute(f"DESCRIBE {table}").fetchall()
        if not name.endswith("_utc") and (table, name) not in _NOT_COVERED
    ]
    digest, n_rows = hashlib.sha256(), 0
    for row in _sorted_rows(connection, table, columns, selected):
        digest.update(canonical_json(list(row)).encode() + b"\n")
        n_rows += 1
    return TableHash(table, n_rows, digest.hexdigest())


def _sorted_rows(
    connection: DuckDBPyConnection, table: str, columns: Sequence[str], selected: Selection
) -> Iterator[tuple[Any, ...]]:
    condition, values = _condition(table, selected)
    cursor = connection.execute(
        f"SELECT {', '.join(columns)} FROM {table} WHERE {condition} ORDER BY ALL",  # noqa: S608 our own names
        values,
    )
    while rows := cursor.fetchmany(_ROWS_AT_ONCE):
        yield from rows


def _condition(table: str, selected: Selection) -> tuple[str, list[object]]:
    if not selected.experiments:
        return "true", []
    runs = "(SELECT unnest(?))"
    if table == "experiment_run":
        return "experiment IN (SELECT unnest(?))", [list(selected.experiments)]
    if table in ("request", "request_message", "completion"):
        return f"request_id IN {runs}", [selected.request_ids]
    if table == "prompt_text":
        asked = f"SELECT text_id FROM request_message WHERE request_id IN {runs}"  # noqa: S608 our own names
        return f"text_id IN ({asked})", [selected.request_ids]
    if table == "sentence":
        used = f"SELECT sentence_id FROM corpus_sentence WHERE run_id IN {runs}"  # noqa: S608 our own names
        return f"sentence_id IN ({used})", [selected.run_ids]
    return f"run_id IN {runs}", [selected.run_ids]
