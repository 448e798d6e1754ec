"""Sentences of a stored corpus by their positions: a corpus too large for memory is read a window at a time.

Row ids are looked up first and rows fetched by them: DuckDB passes over the parts of a table that hold none of the
row ids it wants, but looks at every row for a content hash, and then at all of its columns.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from cdner.errors import StoreError
from cdner.store.connection import Store
from cdner.store.rows import passing_by
from cdner.types import Entity, Sentence


@dataclass(frozen=True, slots=True)
class CorpusHead:
    """What is known of a corpus without reading its sentences."""

    domain: str
    split: str
    types: tuple[str, ...]  # that occur, in order of first appearance
    n_sentences: int


def load_head(store: Store, run_id: str) -> CorpusHead:
    """StoreError when the import run has no corpus."""
    with store.reading() as connection:
        head = connection.execute(
            "SELECT domain, split, types FROM corpus WHERE run_id = ?", [run_id]
        ).fetchone()
        counted = connection.execute(
            "SELECT count(*) FROM corpus_sentence WHERE run_id = ?", [run_id]
        ).fetchone()
    if head is None or counted is None:
        raise StoreError(f"Run {run_id} has no corpus in {store.path}.")
    return CorpusHead(head[0], head[1], tuple(head[2]), counted[0])


def load_sentences(store: Store, run_id: str, positions: Sequence[int]) -> list[Sentence]:
    """The sentences at these positions of an import run's corpus, in this order, with their entities.

    StoreError for a position that the corpus does not have.
    """
    wanted = list(positions)
    with store.reading() as connection:
        with passing_by(connection, len(wanted)):
            rows_at = dict(
                connection.execute(
                    "SELECT position, sentence.rowid FROM corpus_sentence JOIN sentence USING (sentence_id)"
                    " WHERE run_id = ? AND position IN (SELECT unnest(?))",
                    [run_id, wanted],
                ).fetchall()
            )
        tokens = dict(
            connection.execute(
                "SELECT rowid, tokens FROM sentence WHERE rowid IN (SELECT unnest(?))",
                [list(set(rows_at.values()))],
            ).fetchall()
        )
        entities = connection.execute(
            "SELECT position, start_token, end_token, entity_type FROM gold_entity"
            " WHERE run_id = ? AND position IN (SELECT unnest(?)) ORDER BY ALL",
            [run_id, wanted],
        ).fetchall()
    by_position: dict[int, list[Entity]] = defaultdict(list)
    for position, start, end, entity_type in entities:
        by_position[position].append(Entity(start, end, entity_type))
    absent = [position for position in wanted if position not in rows_at]
    if absent:
        raise StoreError(f"Corpus run {run_id} has no sentence at position {absent[0]}.")
    return [
        Sentence(tuple(tokens[rows_at[position]]), tuple(by_position.get(position, ())))
        for position in wanted
    ]


def count_texts(store: Store, run_id: str, positions: Sequence[int] | None = None) -> int:
    """Different sentences of an import run's corpus, at these positions (None: at all)."""
    statement, values = "SELECT count(DISTINCT sentence_id) FROM corpus_sentence WHERE run_id = ?", [run_id]
    with store.reading() as connection:
        if positions is None:
            found = connection.execute(statement, values).fetchone()
        else:
            statement += " AND position IN (SELECT unnest(?))"
            found = connection.execute(statement, [*values, list(positions)]).fetchone()
    return int(found[0]) if found else 0
