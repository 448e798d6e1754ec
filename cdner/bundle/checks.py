"""Whether a bundle's rows are what their ids say and refer to nothing that is missing. Trusts nothing it reads.

Raises at the first bad row, by part and row number. Reads no store: the sentences that prompts quote are handed in.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from cdner.bundle.rows import JsonRow, Rows, check_row, part_of
from cdner.bundle.texts import is_quoting, rebuilt
from cdner.errors import InputError
from cdner.files import Json, canonical_json, content_hash
from cdner.store.corpora import sentence_id
from cdner.store.llm_log import request_id, request_of_rows, template_id
from cdner.store.runs import run_spec

_LONGEST_SHOWN = 60  # characters
ROLES = ("system", "user", "assistant")
# (table, its column, the table referred to, its column)
_REFERENCES = (
    ("run_input", "run_id", "run", "run_id"),
    ("run_input", "input_run_id", "run", "run_id"),
    ("experiment_run", "run_id", "run", "run_id"),
    ("corpus", "run_id", "run", "run_id"),
    ("domain_type", "run_id", "corpus", "run_id"),
    ("request_message", "request_id", "request", "request_id"),
    ("request_message", "text_id", "prompt_text", "text_id"),
    ("completion", "request_id", "request", "request_id"),
    ("completion", "asked_by", "run", "run_id"),
    ("type_description", "run_id", "run", "run_id"),
    ("type_description", "request_id", "request", "request_id"),
    ("reasoning", "run_id", "run", "run_id"),
    ("reasoning", "request_id", "request", "request_id"),
    ("judged_mention", "run_id", "run", "run_id"),
    ("judged_mention", "request_id", "request", "request_id"),
    ("corpus_sentence", "run_id", "corpus", "run_id"),
    ("corpus_sentence", "sentence_id", "sentence", "sentence_id"),
    ("gold_entity", "run_id", "corpus", "run_id"),
)


class BadRowError(InputError):
    """A row that is not what it says; ``check`` makes the user's error of it."""

    def __init__(self, table: str, index: int, message: str) -> None:
        super().__init__(f"{table}.jsonl, row {index + 1}: {message}")


@dataclass(frozen=True, slots=True)
class Checked:
    rows: dict[
        str, list[JsonRow]
    ]  # with prompts whole where their sentence is known, left out where it is not
    n_requests_unhashed: int  # whose sentence is not known


def check(rows: Rows, sentences: Mapping[str, str], *, where: str) -> Checked:
    """Types, unique keys, references, then every id by its hash. InputError names the first bad part and row."""
    try:
        _check_types(rows)
        _check_keys(rows)
        _check_references(rows)
        _check_attempts(rows)
        whole = _checked_texts(rows, sentences)
        _check_hashes(rows)
        _check_runs(rows)
        n_unhashed = _check_requests(rows, whole)
    except BadRowError as error:
        raise InputError(f"{where}: {error}.") from error
    texts = [{"text_id": name, "text": text} for name, text in whole.items()]
    return Checked({**{name: list(found) for name, found in rows.items()}, "prompt_text": texts}, n_unhashed)


def _name(table: str, row: JsonRow) -> str:
    return ", ".join(_short(row[column]) for column in part_of(table).key)


def _short(value: object) -> str:
    """Of what anyone may have written, only so much goes into an error."""
    return str(value)[:_LONGEST_SHOWN]


def _check_types(rows: Rows) -> None:
    for table, found in rows.items():
        for index, row in enumerate(found):
            check_type(table, index, row)


def check_type(table: str, index: int, row: JsonRow) -> None:
    """BadRowError for a row that its table cannot hold."""
    try:
        if table == "prompt_text" and is_quoting(row):
            _check_pieces(row)
        else:
            check_row(part_of(table), row)
    except (ValueError, RecursionError) as error:
        raise BadRowError(table, index, str(error)) from error


class WhileReading:
    """Checks rows as they are read, so that a file of bad or repeated rows is refused at the first of them."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._seen: set[tuple[str, bytes]] = set()

    def __call__(self, table: str, index: int, row: JsonRow) -> None:
        """InputError for a row of other columns or types, and for a second row of the same key."""
        try:
            check_type(table, index, row)
            self._demand_new(table, index, row)
        except BadRowError as error:
            raise InputError(f"{self._where}: {error}.") from error

    def _demand_new(self, table: str, index: int, row: JsonRow) -> None:
        key = canonical_json([row[column] for column in part_of(table).key])
        digest = (table, hashlib.blake2b(key.encode(), digest_size=16).digest())
        if digest in self._seen:
            raise BadRowError(table, index, f"a second row of {_name(table, row)}")
        self._seen.add(digest)


def _check_pieces(row: JsonRow) -> None:
    check_row(part_of("prompt_text"), {"text_id": row["text_id"], "text": row["sentence_id"]})
    pieces = row["pieces"]
    if not isinstance(pieces, list) or len(pieces) < 2:
        raise ValueError("'pieces' are not what stands around a sentence")
    for piece in pieces:
        check_row(part_of("prompt_text"), {"text_id": row["text_id"], "text": piece})


def _check_keys(rows: Rows) -> None:
    for table, found in rows.items():
        seen: set[tuple[Any, ...]] = set()
        for index, row in enumerate(found):
            key = tuple(row[column] for column in part_of(table).key)
            if key in seen:
                raise BadRowError(table, index, f"a second row of {_name(table, row)}")
            seen.add(key)


def _check_references(rows: Rows) -> None:
    for table, column, parent, parent_column in _REFERENCES:
        known = {row[parent_column] for row in rows.get(parent, ())}
        for index, row in enumerate(rows.get(table, ())):
            name = row.get(column)
            if name is not None and name not in known:
                raise BadRowError(table, index, f"{column} {_short(name)} is not in {parent}.jsonl")


def _check_attempts(rows: Rows) -> None:
    """The answers to a request are numbered from 1 without a gap: the next answer of a store is one more."""
    numbers: dict[str, set[int]] = defaultdict(set)
    for row in rows.get("completion", ()):
        numbers[row["request_id"]].add(row["attempt_n"])
    for index, row in enumerate(rows.get("completion", ())):
        if row["attempt_n"] > len(numbers[row["request_id"]]):
            raise BadRowError(
                "completion", index, f"its attempt_n {row['attempt_n']} leaves out earlier ones"
            )


def _checked_texts(rows: Rows, sentences: Mapping[str, str]) -> dict[str, str]:
    """Text id -> text of every prompt text that is whole or can be made so; each has its hash."""
    whole = {}
    for index, row in enumerate(rows.get("prompt_text", ())):
        found = rebuilt(row, sentences)
        if found is None:
            continue
        if content_hash(found["text"]) != row["text_id"]:
            raise BadRowError(
                "prompt_text", index, f"its content does not have the id {_name('prompt_text', row)}"
            )
        whole[row["text_id"]] = found["text"]
    return whole


def _check_hashes(rows: Rows) -> None:
    for table, has_its_id in _HASHED.items():
        for index, row in enumerate(rows.get(table, ())):
            if not has_its_id(row):
                raise BadRowError(table, index, f"its content does not have the id {_name(table, row)}")


def _check_runs(rows: Rows) -> None:
    inputs: dict[str, list[str]] = defaultdict(list)
    for row in sorted(rows.get("run_input", ()), key=lambda row: (row["run_id"], row["position"])):
        inputs[row["run_id"]].append(row["input_run_id"])
    for index, row in enumerate(rows.get("run", ())):
        spec = run_spec(row["step"], row["version"], row["settings"], inputs[row["run_id"]])
        if spec.run_id != row["run_id"]:
            raise BadRowError("run", index, f"its settings or inputs do not have the id {_name('run', row)}")


def _check_requests(rows: Rows, whole: Mapping[str, str]) -> int:
    """How many could not be hashed for want of a sentence."""
    messages: dict[str, list[tuple[str, str | None]]] = defaultdict(list)
    numbered = enumerate(rows.get("request_message", ()))
    for index, row in sorted(numbered, key=lambda item: (item[1]["request_id"], item[1]["position"])):
        if row["role"] not in ROLES or row["position"] != len(messages[row["request_id"]]):
            raise BadRowError("request_message", index, "its role or position is none that a request has")
        messages[row["request_id"]].append((row["role"], whole.get(row["text_id"])))
    n_unhashed = 0
    for index, row in enumerate(rows.get("request", ())):
        known = [(role, text) for role, text in messages[row["request_id"]] if text is not None]
        if len(known) < len(messages[row["request_id"]]):
            n_unhashed += 1
        elif not _has_its_id(row, known):
            raise BadRowError("request", index, f"its content does not have the id {_name('request', row)}")
    return n_unhashed


def _has_its_id(row: JsonRow, messages: list[tuple[str, str]]) -> bool:
    asked: list[Json] = [{"role": role, "content": text} for role, text in messages]
    if row["prompt_hash"] != content_hash(asked):
        return False
    try:
        request = request_of_rows(messages, canonical_json(row["sampling"]), row.get("response_schema"))
        return bool(request_id(row["backend_family"], row["model"], request) == row["request_id"])
    except (TypeError, ValueError, KeyError):  # a sampling that has other fields, or not their types
        return False


_HASHED: Mapping[str, Callable[[JsonRow], bool]] = {
    "template": lambda row: template_id(row["name"], row["text"]) == row["template_id"],
    "sentence": lambda row: (
        sentence_id(tuple(row["tokens"])) == row["sentence_id"] and " ".join(row["tokens"]) == row["text"]
    ),
}
