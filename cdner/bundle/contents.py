"""What belongs into a bundle, and how one gets into a store: all an LLM wrote, so that no LLM is needed again.

In: runs with their settings and inputs, labels, templates, requests, completions, descriptions, reasoning texts,
verdicts, and of each corpus its label set, size and checksum. Not in: predictions, scores and weights (another machine
makes them again), attempts and batches (they say who ran what where), sentences, annotations and questions about
mentions unless asked for. Completions, descriptions and reasoning texts are an LLM's own words and may quote words of
the sentence they are about. A prompt's fixed part is packed as it is, in-context examples included.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cdner.bundle.archive import Manifest, part_name, read_archive, write_archive
from cdner.bundle.checks import Checked, WhileReading, check
from cdner.bundle.corpora import vouched_corpora
from cdner.bundle.rows import CORPUS_PARTS, NEWER_PARTS, PARTS, JsonRow, merge, part_of, read_rows
from cdner.bundle.texts import demand_sentences, stored_sentences, without_questions, without_sentences
from cdner.errors import InputError
from cdner.files import canonical_json, check_output
from cdner.store import Store, runs
from cdner.store.selection import select, with_ancestors

_TABLES = [part.table for part in (*PARTS, *CORPUS_PARTS)]
_KEY_VARIABLES = re.compile(r"(^|_)(KEY|TOKEN|SECRET|PASSWORD)$")
_SHORTEST_KEY = 8  # characters; servers without keys are given placeholders such as "EMPTY"
_KEYS = re.compile(r"\b(?:sk-(?=[\w-]*\d)[\w-]{20,}|hf_[A-Za-z]{30,})")  # OpenAI and alike; Hugging Face


@dataclass(frozen=True, slots=True)
class Verified:
    manifest: Manifest
    n_requests_unhashed: int  # because the store lacks the sentences they quote


def pack_bundle(
    store: Store, file: Path, *, experiments: Sequence[str] = (), with_corpus: bool, force: bool
) -> Manifest:
    """Write the bundle of some experiments, or of the whole store.

    InputError when a row holds what looks like a key: nothing is written then.
    """
    check_output(file, force=force)
    rows = _packed_rows(store, experiments, with_corpus=with_corpus)
    check(rows, {}, where=str(store.path))  # an unsound store makes no bundle
    for table, index, name in _rows_with_keys(rows):
        raise InputError(
            f"{part_name(table)}, row {index + 1} ({name}) holds what looks like a key. Nothing was written."
        )
    return write_archive(file, rows, experiments=experiments, with_corpus=with_corpus, force=force)


def _packed_rows(store: Store, experiments: Sequence[str], *, with_corpus: bool) -> dict[str, list[JsonRow]]:
    with store.reading() as connection:
        selected = select(connection, experiments)
        asking = connection.execute(
            "SELECT DISTINCT asked_by FROM completion WHERE request_id IN (SELECT unnest(?))",
            [selected.request_ids],
        ).fetchall()
        named = with_ancestors(connection, [*selected.run_ids, *(name for (name,) in asking if name)])
        labelled = (
            "run_id IN (SELECT unnest(?)) AND (len(?::VARCHAR[]) = 0 OR experiment IN (SELECT unnest(?)))"
        )
        chosen = list(selected.experiments)
        asked = selected.request_ids if with_corpus else without_questions(connection, selected.request_ids)
        conditions: dict[str, tuple[str, list[object]]] = {
            "run": (_IS_RUN, [named]),
            "run_input": (_IS_RUN, [named]),
            "experiment_run": (labelled, [selected.run_ids, chosen, chosen]),
            "template": ("true", []),
            "prompt_text": (_IS_ASKED, [asked]),
            "sentence": (_IS_IN_CORPUS, [selected.run_ids]),
            **dict.fromkeys(("request", "request_message", "completion"), (_IS_REQUEST, [asked])),
        }
        rows = {}
        for part in (*PARTS, *CORPUS_PARTS) if with_corpus else PARTS:
            condition, values = conditions.get(part.table, (_IS_RUN, [selected.run_ids]))
            rows[part.table] = read_rows(connection, part, condition, values)
        if not with_corpus:
            rows["prompt_text"] = without_sentences(connection, rows["prompt_text"], asked)
            rows["judged_mention"] = [{**row, "request_id": None} for row in rows["judged_mention"]]
    return rows


_IS_RUN = "run_id IN (SELECT unnest(?))"
_IS_REQUEST = "request_id IN (SELECT unnest(?))"
_IS_ASKED = "text_id IN (SELECT text_id FROM request_message WHERE request_id IN (SELECT unnest(?)))"
_IS_IN_CORPUS = "sentence_id IN (SELECT sentence_id FROM corpus_sentence WHERE run_id IN (SELECT unnest(?)))"


def _rows_with_keys(rows: dict[str, list[JsonRow]]) -> Iterator[tuple[str, int, str]]:
    """(table, index, name of the row): the values of this environment's keys, and what has the form of one."""
    values = [
        value.strip()
        for name, value in os.environ.items()
        if _KEY_VARIABLES.search(name) and len(value.strip()) >= _SHORTEST_KEY
    ]
    own = [json.dumps(value, ensure_ascii=False)[1:-1] for value in values]  # as JSON spells them
    for table, found in rows.items():
        for index, row in enumerate(found):
            line = canonical_json(row)
            if _KEYS.search(line) or any(value in line for value in own):
                yield table, index, ", ".join(f"{name} {row[name]}" for name in part_of(table).key)


def verify_bundle(store: Store, file: Path) -> Verified:
    """Sums, types, ids and references. InputError names the first bad part and row.

    A request whose sentence is left out is re-hashed where the store has the sentence; else it is counted.
    """
    manifest, checked = _checked(store, file)
    if manifest.with_corpus:
        vouched_corpora(checked.rows, where=file)
    return Verified(manifest, checked.n_requests_unhashed)


def load_bundle(
    store: Store, file: Path, *, tell: Callable[[str], None] = lambda _: None
) -> tuple[Manifest, dict[str, int]]:
    """Verify, then add everything in one transaction: all or nothing. Table -> how many rows were new.

    InputError when the store lacks a corpus whose sentences are left out, or the bundle holds another corpus under a
    known name; StoreError when the store holds another row. ``tell`` takes what was left out, a line each.
    """
    manifest, checked = _checked(store, file, complete=True)
    rows = checked.rows
    vouched, unread = vouched_corpora(rows, where=file) if manifest.with_corpus else ([], [])
    with store.transaction() as connection:
        merged = merge(connection, rows, with_corpus=manifest.with_corpus)
        runs.record_done(connection, vouched, {"bundle": file.name})
    if merged.n_answers_kept_out:
        tell(
            f"{merged.n_answers_kept_out} answers were left out: the store has its own answers to their requests."
        )
    if unread:
        tell(
            f"To be read from their files before they are used (cdner import crossner): {', '.join(unread)}."
        )
    return manifest, merged.n_added


def _checked(store: Store, file: Path, *, complete: bool = False) -> tuple[Manifest, Checked]:
    manifest, rows = read_archive(file, _TABLES, WhileReading(str(file)))
    for table, version in NEWER_PARTS.items():
        if manifest.schema_version < version:
            rows.setdefault(table, [])
    expected = {part.table for part in ((*PARTS, *CORPUS_PARTS) if manifest.with_corpus else PARTS)}
    if rows.keys() != expected:
        odd = sorted(rows.keys() ^ expected)[0]
        raise InputError(f"{file}: {part_name(odd)} does not go with the manifest's with_corpus.")
    typed = check(rows, {}, where=str(file))  # types, before an id of it goes into a query
    sentences = stored_sentences(store, rows)
    if complete:
        demand_sentences(store, rows, sentences)
    return manifest, check(rows, sentences, where=str(file)) if sentences else typed
