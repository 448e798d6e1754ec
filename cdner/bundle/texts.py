"""Prompts without the sentences they quote, and whole again where the store has those sentences.

A prompt's fixed part is ours to pass on; the corpus in its last message is not. Such a text is packed as the pieces
around the sentence and the sentence's id; whoever has the corpus puts it together and checks its hash.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cdner.bundle.rows import JsonRow, Rows
from cdner.errors import InputError
from cdner.store.connection import Store

if TYPE_CHECKING:
    from cdner.store.connection import Connection

QUOTING = {"text_id", "sentence_id", "pieces"}  # the keys of a row without its sentence


def is_quoting(row: JsonRow) -> bool:
    return row.keys() == QUOTING


def without_sentences(
    connection: Connection, texts: Sequence[JsonRow], request_ids: Sequence[str]
) -> list[JsonRow]:
    """``prompt_text`` rows with the sentence cut out wherever a request quotes one in its last message.

    A description's request quotes none. InputError for another whose sentence the store does not have: it could be
    packed only as it is.
    """
    quoting = dict(connection.execute(_QUOTING_TEXTS, {"requests": list(request_ids)}).fetchall())
    quoted = _linked_sentences(connection, list(quoting))
    unlinked = [text_id for text_id in quoting if text_id not in quoted]
    quoted |= _contained_sentences(connection, unlinked)
    for text_id, request_id in quoting.items():
        if text_id not in quoted:
            raise InputError(
                f"Request {request_id} quotes a text that is no sentence of the store, so it cannot be left out. "
                "Pack with --with-corpus, or import the corpus it is from."
            )
    return [_cut(row, quoted.get(row["text_id"])) for row in texts]


def without_questions(connection: Connection, request_ids: Sequence[str]) -> list[str]:
    """These requests but those about mentions, whose prompts quote many sentences; sorted."""
    rows = connection.execute(_OTHERS_THAN_QUESTIONS, {"requests": list(request_ids)}).fetchall()
    return [name for (name,) in rows]


def _cut(row: JsonRow, sentence: tuple[str, str] | None) -> JsonRow:
    if sentence is None:
        return row
    name, text = sentence
    return {"text_id": row["text_id"], "sentence_id": name, "pieces": row["text"].split(text)}


def _linked_sentences(connection: Connection, text_ids: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Text id -> (sentence id, sentence), by the reasoning that was made from it."""
    rows = connection.execute(_LINKED_SENTENCES, {"texts": list(text_ids)}).fetchall()
    return {text_id: (name, text) for text_id, name, text in rows}


def _contained_sentences(connection: Connection, text_ids: Sequence[str]) -> dict[str, tuple[str, str]]:
    """The same by looking: the longest sentence in the text. Of runs that were cut short, the store knows no more."""
    if not text_ids:
        return {}
    rows = connection.execute(_CONTAINED_SENTENCES, {"texts": list(text_ids)}).fetchall()
    return {text_id: (name, text) for text_id, name, text in rows}


_QUOTING_TEXTS = """
    WITH describing AS (
        SELECT request_id FROM type_description
        UNION
        SELECT request_id FROM completion JOIN run ON run.run_id = asked_by WHERE step = 'describe'
    )
    SELECT arg_max(text_id, position) AS text_id, request_id
    FROM request_message
    WHERE request_id IN (SELECT unnest($requests))
      AND request_id NOT IN (SELECT request_id FROM describing WHERE request_id IS NOT NULL)
    GROUP BY request_id
    ORDER BY request_id
"""
_OTHERS_THAN_QUESTIONS = """
    SELECT request_id FROM request
    WHERE request_id IN (SELECT unnest($requests)) AND NOT json_exists(sampling, '$.choices')
    ORDER BY request_id
"""
_LINKED_SENTENCES = """
    SELECT text_id, sentence_id, sentence.text
    FROM request_message
    JOIN prompt_text USING (text_id)
    JOIN reasoning USING (request_id)
    JOIN run_input ON run_input.run_id = reasoning.run_id
    JOIN corpus_sentence
      ON corpus_sentence.run_id = input_run_id AND corpus_sentence.position = reasoning.position
    JOIN sentence USING (sentence_id)
    WHERE text_id IN (SELECT unnest($texts)) AND sentence.text <> '' AND contains(prompt_text.text, sentence.text)
    QUALIFY row_number() OVER (PARTITION BY text_id ORDER BY length(sentence.text) DESC, sentence_id) = 1
"""
_CONTAINED_SENTENCES = """
    SELECT text_id, sentence_id, sentence.text
    FROM prompt_text JOIN sentence ON contains(prompt_text.text, sentence.text)
    WHERE text_id IN (SELECT unnest($texts)) AND sentence.text <> ''
    QUALIFY row_number() OVER (PARTITION BY text_id ORDER BY length(sentence.text) DESC, sentence_id) = 1
"""


# --- whole again -------------------------------------------------------------------------------------------


def stored_sentences(store: Store, rows: Rows) -> dict[str, str]:
    """Sentence id -> text, of those that the bundle's prompts quote and the store has; empty without a store."""
    wanted = _quoted_ids(rows)
    if not wanted or not store.path.exists():
        return {}
    with store.reading() as connection:
        found = connection.execute(
            "SELECT sentence_id, text FROM sentence WHERE sentence_id IN (SELECT unnest(?))", [sorted(wanted)]
        ).fetchall()
    return dict(found)


def demand_sentences(store: Store, rows: Rows, present: Collection[str]) -> None:
    """InputError that names the corpora to import, where a prompt quotes a sentence the store does not have."""
    n_absent = len(_quoted_ids(rows) - set(present))
    if not n_absent:
        return
    known: set[str] = set()
    if store.path.exists():
        with store.reading() as connection:
            known = {name for (name,) in connection.execute("SELECT run_id FROM corpus").fetchall()}
    reasoning = {row["run_id"] for row in rows["run"] if row["step"] in ("reason", "tell")}
    read = {row["input_run_id"] for row in rows["run_input"] if row["run_id"] in reasoning}
    absent = [row for row in rows["corpus"] if row["run_id"] in read - known]
    named = [f"{row['domain']}/{row['split']} (SHA-256 {str(row.get('sha256'))[:12]}...)" for row in absent]
    raise InputError(
        f"{n_absent} sentences that the bundle's prompts quote are not in {store.path}. "
        f"Import their corpora first (cdner import): {', '.join(named) or 'all that the bundle was made with'}."
    )


def _quoted_ids(rows: Rows) -> set[str]:
    return {row["sentence_id"] for row in rows.get("prompt_text", ()) if is_quoting(row)}


def rebuilt(row: JsonRow, sentences: Mapping[str, str]) -> JsonRow | None:
    """The row with its whole text; None where its sentence is not there."""
    if not is_quoting(row):
        return row
    text: Any = sentences.get(row["sentence_id"])
    return None if text is None else {"text_id": row["text_id"], "text": text.join(row["pieces"])}
