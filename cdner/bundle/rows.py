"""Rows out of a store and into another, table by table, as JSON values: the contents of a bundle.

What is there already stays and must be equal. Knows neither files nor which rows belong together
(``cdner.store.selection``), and trusts no row: types are checked here, identities in ``bundle_checks``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from cdner.errors import StoreError
from cdner.files import Json, canonical_json
from cdner.store.migrations import schema, utc_now
from cdner.store.rows import insert_rows

if TYPE_CHECKING:
    from cdner.store.connection import Connection

JsonRow = dict[str, Any]  # column -> JSON value
Rows = Mapping[str, Sequence[JsonRow]]  # table -> rows
_INT32, _INT64 = 2**31, 2**63
_MOST_TOKENS, _MOST_SECONDS, _MOST_USD = 100_000_000, 10_000_000, 10_000  # of one answer
# Column -> (lowest, highest). Whole numbers are never below 0.
_BOUNDS: Mapping[str, tuple[int | None, int | None]] = {
    "attempt_n": (1, 10_000),
    "n_input_tokens": (0, _MOST_TOKENS),
    "n_cached_tokens": (0, _MOST_TOKENS),
    "n_output_tokens": (0, _MOST_TOKENS),
    "seconds": (0, _MOST_SECONDS),
    "cost_usd": (0, _MOST_USD),
}


@dataclass(frozen=True, slots=True)
class Part:
    """One table's share of a bundle."""

    table: str
    key: tuple[str, ...]
    circumstances: frozenset[str] = frozenset()  # packed, but two stores may differ in them
    left_out: frozenset[str] = (
        frozenset()
    )  # times, which loading sets anew: the same content has the same bytes
    derived: Mapping[str, tuple[str, str]] = field(default_factory=dict)  # name -> (SQL, type): compared only


_N_SENTENCES = "(SELECT count(*) FROM corpus_sentence AS s WHERE s.run_id = corpus.run_id)"
_FILE = "(SELECT settings ->> 'sha256' FROM run WHERE run.run_id = corpus.run_id)"
PARTS: tuple[Part, ...] = (
    Part("run", ("run_id",), left_out=frozenset({"created_utc"})),
    Part("run_input", ("run_id", "position")),
    Part("experiment_run", ("experiment", "label", "run_id"), left_out=frozenset({"labelled_utc"})),
    Part(
        "corpus",
        ("run_id",),
        derived={"n_sentences": (_N_SENTENCES, "BIGINT"), "sha256": (_FILE, "VARCHAR")},
    ),
    Part("domain_type", ("run_id", "position")),
    Part("template", ("template_id",)),
    Part("prompt_text", ("text_id",)),
    Part("request", ("request_id",)),
    Part("request_message", ("request_id", "position")),
    Part(
        "completion",
        ("request_id", "attempt_n"),
        frozenset({"n_cached_tokens", "created_utc", "asked_by", "seconds", "cost_usd"}),
    ),
    Part("type_description", ("run_id", "position")),
    Part("reasoning", ("run_id", "position")),
    # Without the corpora's text the questions are left out: they quote many sentences. The verdicts are packed.
    Part("judged_mention", ("run_id", "position", "start_token", "end_token"), frozenset({"request_id"})),
)
NEWER_PARTS = {
    "judged_mention": 8
}  # table -> the schema version it came with; older bundles have no such part
CORPUS_PARTS: tuple[Part, ...] = (  # only with the corpus's text
    Part("sentence", ("sentence_id",)),
    Part("corpus_sentence", ("run_id", "position")),
    Part("gold_entity", ("run_id", "position", "start_token")),
)
IDENTITY_ONLY = frozenset({"corpus", "domain_type"})  # without that text: compared, never inserted


def part_of(table: str) -> Part:
    return next(part for part in (*PARTS, *CORPUS_PARTS) if part.table == table)


def columns_of(part: Part) -> dict[str, tuple[str, bool]]:
    """Column -> (type, may be absent), as a bundle has them."""
    stored = {name: kind for name, kind in schema()[part.table].items() if name not in part.left_out}
    return stored | {name: (kind, True) for name, (_, kind) in part.derived.items()}


# --- out ---------------------------------------------------------------------------------------------------


def read_rows(connection: Connection, part: Part, condition: str, values: Sequence[object]) -> list[JsonRow]:
    """The rows of a table that meet a condition (SQL of ours), by key, as JSON values."""
    columns = columns_of(part)
    rows = connection.execute(
        f"SELECT {_selected(part)} FROM {part.table} WHERE {condition} ORDER BY {', '.join(part.key)}",  # noqa: S608
        list(values),
    ).fetchall()
    return [
        {name: _to_json(value, kind) for value, (name, (kind, _)) in zip(row, columns.items(), strict=True)}
        for row in rows
    ]


def _selected(part: Part) -> str:
    names = columns_of(part)
    return ", ".join(part.derived[name][0] if name in part.derived else name for name in names)


def _to_json(value: Any, kind: str) -> Json:
    if kind == "JSON" and value is not None:
        parsed: Json = json.loads(value)
        return parsed
    return value.isoformat() if isinstance(value, datetime) else value


# --- in ----------------------------------------------------------------------------------------------------


def check_row(part: Part, row: JsonRow) -> None:
    """ValueError for a column too many or too few, or a value that its column cannot hold."""
    columns = columns_of(part)
    for name in row:
        if name not in columns:
            raise ValueError(f"{part.table} has no column '{name[:40]}'")
    for name, (kind, nullable) in columns.items():
        value = row.get(name)
        if value is None and not nullable:
            raise ValueError(f"'{name}' is missing")
        if value is not None and not _FITS[kind](value):
            raise ValueError(f"'{name}' is no {kind}")
        low, high = _BOUNDS.get(name, (0, None) if kind in ("INTEGER", "BIGINT") else (None, None))
        if value is not None and ((low is not None and value < low) or (high is not None and value > high)):
            raise ValueError(f"'{name}' is out of bounds")


@dataclass(frozen=True, slots=True)
class Merged:
    n_added: dict[str, int]  # table -> rows that were new
    n_answers_kept_out: int  # of requests that the store has its own answers to


def merge(connection: Connection, rows: Rows, *, with_corpus: bool) -> Merged:
    """Add checked rows. StoreError where the store has another row of that key.

    The labels of an experiment that the store has given to other runs stay as they are, and so does the answer to a
    request that the store has one to: the latest answer counts, so a further one would displace it. Without the
    corpora's text their rows are only compared with those of the store.
    """
    added: dict[str, list[JsonRow]] = {}
    n_kept_out = 0
    for table, wanted in rows.items():
        new = _unknown(connection, part_of(table), wanted)
        if table in IDENTITY_ONLY and not with_corpus:
            new = []
        if table == "experiment_run":
            new = _without_taken_labels(connection, new)
        if table == "completion":
            n_new, new = len(new), _of_unanswered_requests(connection, new)
            n_kept_out = n_new - len(new)
        added[table] = new
    refuse_additions(connection, added)
    for table, new in added.items():
        _insert(connection, part_of(table), new)
    return Merged({table: len(new) for table, new in added.items()}, n_kept_out)


# Tables of which a corpus has all its rows or none.
_OF_A_CORPUS = ("domain_type", "corpus_sentence", "gold_entity")


def refuse_additions(connection: Connection, new: Mapping[str, Sequence[JsonRow]]) -> None:
    """StoreError where new rows would change a corpus that the store has."""
    stored = {run_id for (run_id,) in connection.execute("SELECT run_id FROM corpus").fetchall()}
    for table in _OF_A_CORPUS:
        for row in new.get(table, ()):
            if row["run_id"] in stored:
                raise StoreError(
                    f"The store has another corpus {row['run_id']}: the bundle would add to its {table}. "
                    "Nothing was loaded; load it into a store of its own (--store NEW.duckdb)."
                )


def _unknown(connection: Connection, part: Part, wanted: Sequence[JsonRow]) -> list[JsonRow]:
    first = part.key[0]
    names = [row[first] for row in wanted]
    present = {
        _key(part, row): row
        for row in read_rows(connection, part, f"{first} IN (SELECT unnest(?::VARCHAR[]))", [names])
    }
    new = []
    for row in wanted:
        known = present.get(_key(part, row))
        if known is None:
            new.append(row)
            continue
        for name in columns_of(part):
            if name not in part.circumstances and known[name] != row.get(name):
                key = ", ".join(map(str, _key(part, row)))
                raise StoreError(
                    f"The store has another {part.table} {key}: its {name} differs from the bundle's. "
                    "Nothing was loaded; load it into a store of its own (--store NEW.duckdb)."
                )
    return new


def _key(part: Part, row: JsonRow) -> tuple[Any, ...]:
    return tuple(row[name] for name in part.key)


def _without_taken_labels(connection: Connection, rows: Sequence[JsonRow]) -> list[JsonRow]:
    taken = set(connection.execute("SELECT experiment, label FROM experiment_run").fetchall())
    return [row for row in rows if (row["experiment"], row["label"]) not in taken]


def _of_unanswered_requests(connection: Connection, rows: Sequence[JsonRow]) -> list[JsonRow]:
    names = [row["request_id"] for row in rows]
    answered = connection.execute(
        "SELECT DISTINCT request_id FROM completion WHERE request_id IN (SELECT unnest(?::VARCHAR[]))",
        [names],
    ).fetchall()
    known = set(answered)
    return [row for row in rows if (row["request_id"],) not in known]


def _insert(connection: Connection, part: Part, rows: Sequence[JsonRow]) -> None:
    kinds, now = schema()[part.table], utc_now()
    values = [
        tuple(
            now if name in part.left_out else _to_store(row.get(name), kind)
            for name, (kind, _) in kinds.items()
        )
        for row in rows
    ]
    insert_rows(connection, part.table, tuple(kinds), values)


def _to_store(value: Any, kind: str) -> object:
    if value is None:
        return None
    if kind == "JSON":
        return canonical_json(value)
    return datetime.fromisoformat(value) if kind == "TIMESTAMP" else value


def _is_text(value: object) -> bool:
    """A string that UTF-8 can hold: JSON may spell out half a surrogate pair."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_whole(value: object, bound: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and -bound <= value < bound


def _is_number_or_none(value: object) -> bool:
    return value is None or _is_whole(value, _INT64) or (isinstance(value, float) and math.isfinite(value))


def _is_time(value: object) -> bool:
    if not isinstance(value, str):
        return False
    try:
        return datetime.fromisoformat(value).tzinfo is None
    except ValueError:
        return False


_FITS: Mapping[str, Callable[[Any], bool]] = {
    "VARCHAR": _is_text,
    "DOUBLE[]": lambda value: isinstance(value, list) and all(map(_is_number_or_none, value)),
    "VARCHAR[]": lambda value: isinstance(value, list) and all(map(_is_text, value)),
    "JSON": lambda value: _is_text(canonical_json(value)),
    "INTEGER": lambda value: _is_whole(value, _INT32),
    "BIGINT": lambda value: _is_whole(value, _INT64),
    "DOUBLE": lambda value: value is not None and _is_number_or_none(value),
    "BOOLEAN": lambda value: isinstance(value, bool),
    "TIMESTAMP": _is_time,
}
