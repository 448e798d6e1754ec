"""Corpora in the store: every sentence once, and for each import its order, entities and label set.

A corpus that is too large for memory is read by positions, one window at a time. Row ids are looked up first and rows
fetched by them: DuckDB passes over the parts of a table without these row ids, but looks at every row for a content
hash, and then at all of its columns.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from cdner.errors import InputError, StoreError
from cdner.files import content_hash
from cdner.store.connection import Store
from cdner.store.rows import Row, insert_rows, passing_by, replace_run
from cdner.types import Corpus, Domain, Entity, Sentence, TypeEntry

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection


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


BLOCK = 5_000  # sentences a transaction, in which nobody else has the store: 0.8 s at 200,000 sentences
_TYPE_COLUMNS = ("short", "phrase", "lemma", "synset", "definition")


@dataclass(frozen=True, slots=True)
class CorpusSummary:
    run_id: str
    domain: str
    split: str
    role: str
    n_sentences: int
    n_empty_sentences: int  # sentences without an entity
    n_entities: int
    n_types: int  # that occur
    n_repaired_tags: int


def sentence_id(tokens: tuple[str, ...]) -> str:
    """Identity of a sentence: the content hash of its tokens."""
    return content_hash(list(tokens))


def save_corpus(
    store: Store,
    run_id: str,
    corpus: Corpus,
    domain: Domain,
    *,
    sentences: Iterable[Sentence] | None = None,
) -> None:
    """Store what an import run brought in, in place of what the run may have stored before.

    ``sentences``: those of a corpus that is too large to be held, in place of its own. They are written a block a
    transaction, between which others have their turn with the store; blocks that a killed import has left are kept
    where they are the same. An InputError on their way takes everything out again.
    """
    save_head(store, run_id, corpus, domain)
    n_stored, first = load_head(store, run_id).n_sentences, 0
    remaining = iter(corpus.sentences if sentences is None else sentences)
    try:
        while block := list(islice(remaining, BLOCK)):
            beyond = first + len(block)
            if beyond > n_stored or load_sentences(store, run_id, range(first, beyond)) != block:
                with store.transaction() as connection:
                    _delete_sentences(connection, run_id, first=first)
                    _insert_block(connection, run_id, block, first=first)
                n_stored = beyond
            first = beyond
        if n_stored > first:
            with store.transaction() as connection:
                _delete_sentences(connection, run_id, first=first)
    except InputError:
        with store.transaction() as connection:
            _delete_sentences(connection, run_id, first=0)
            for table in ("corpus", "domain_type"):
                replace_run(connection, table, (), run_id, [])
            connection.execute(
                "DELETE FROM sentence WHERE sentence_id NOT IN (SELECT sentence_id FROM corpus_sentence)"
            )
        raise


def save_head(store: Store, run_id: str, corpus: Corpus, domain: Domain) -> None:
    """What a stored corpus is called and its label set, in place of the earlier ones; its sentences stay."""
    head = (run_id, corpus.domain, corpus.split, domain.role, corpus.n_repaired_tags, list(corpus.types))
    columns: tuple[str, ...] = ("run_id", "domain", "split", "role", "n_repaired_tags", "types")
    with store.transaction() as connection:
        replace_run(connection, "corpus", columns, run_id, [head])
        rows: list[Row] = [
            (run_id, domain.name, position, entry.name, *(getattr(entry, name) for name in _TYPE_COLUMNS))
            for position, entry in enumerate(domain.entries)
        ]
        columns = ("run_id", "domain", "position", "entity_type", *_TYPE_COLUMNS)
        replace_run(connection, "domain_type", columns, run_id, rows)


def load_corpus(store: Store, run_id: str) -> Corpus:
    """The corpus of an import run. StoreError when the run has none."""
    with store.reading() as connection:
        head = connection.execute(
            "SELECT domain, split, n_repaired_tags, types FROM corpus WHERE run_id = ?", [run_id]
        ).fetchone()
        if head is None:
            raise StoreError(f"Run {run_id} has no corpus in {store.path}.")
        sentences = connection.execute(
            "SELECT tokens FROM corpus_sentence JOIN sentence USING (sentence_id)"
            " WHERE run_id = ? ORDER BY position",
            [run_id],
        ).fetchall()
        entities = connection.execute(
            "SELECT position, start_token, end_token, entity_type FROM gold_entity"
            " WHERE run_id = ? ORDER BY ALL",
            [run_id],
        ).fetchall()
    by_position = defaultdict(list)
    for position, start, end, entity_type in entities:
        by_position[position].append(Entity(start, end, entity_type))
    return Corpus(
        domain=head[0],
        split=head[1],
        sentences=tuple(
            Sentence(tuple(tokens), tuple(by_position[position]))
            for position, (tokens,) in enumerate(sentences)
        ),
        n_repaired_tags=head[2],
        types=tuple(head[3]),
    )


def load_domain(store: Store, run_id: str) -> Domain:
    """The label set an import run was made with. StoreError when the run has none."""
    with store.reading() as connection:
        head = connection.execute("SELECT domain, role FROM corpus WHERE run_id = ?", [run_id]).fetchone()
        rows = connection.execute(
            f"SELECT domain, entity_type, {', '.join(_TYPE_COLUMNS)} FROM domain_type"  # noqa: S608 our own names
            " WHERE run_id = ? ORDER BY position",
            [run_id],
        ).fetchall()
    if head is None:
        raise StoreError(f"Run {run_id} has no corpus in {store.path}, so it has no label set.")
    name = rows[0][0] if rows else head[0]
    return Domain(name, head[1], tuple(TypeEntry(*row[1:]) for row in rows))


def find_corpus_run(store: Store, domain: str, split: str, *, step: str = "import") -> str | None:
    """The latest import of this split whose latest attempt is done; None without one or without a store.

    The latest is the one that was begun last by the order of the rows: a clock may have been set back. A corpus that
    came with a bundle counts only where nobody has imported one here; then the first that came is kept.
    """
    if not store.path.exists():
        return None
    with store.reading() as connection:
        row = connection.execute(
            """
            WITH latest AS (
                SELECT run_id, status, json_exists(execution, '$.bundle') AS is_loaded, rowid AS number
                FROM attempt QUALIFY row_number() OVER (PARTITION BY run_id ORDER BY attempt_n DESC) = 1
            )
            SELECT run_id FROM corpus JOIN run USING (run_id) JOIN latest USING (run_id)
            WHERE corpus.domain = $domain AND corpus.split = $split AND run.step = $step AND status = 'done'
            ORDER BY is_loaded, CASE WHEN is_loaded THEN -number ELSE number END DESC LIMIT 1
            """,
            {"domain": domain, "split": split, "step": step},
        ).fetchone()
    return str(row[0]) if row else None


def was_imported_here(store: Store, run_id: str) -> bool:
    """Whether an import in this store has finished; a corpus that came with a bundle was not read here."""
    if not store.path.exists():
        return False
    with store.reading() as connection:
        found = connection.execute(
            "SELECT count(*) FROM attempt"
            " WHERE run_id = ? AND status = 'done' AND NOT json_exists(execution, '$.bundle')",
            [run_id],
        ).fetchone()
    return bool(found and found[0])


def list_corpora(store: Store) -> list[CorpusSummary]:
    """All corpora whose import is done, by domain and split (train, dev, test)."""
    with store.reading() as connection:
        rows = connection.execute(
            """
            SELECT corpus.run_id, domain, split, role,
                   (SELECT count(*) FROM corpus_sentence AS s WHERE s.run_id = corpus.run_id),
                   (SELECT count(*) FROM corpus_sentence AS s WHERE s.run_id = corpus.run_id AND NOT EXISTS
                      (FROM gold_entity AS g WHERE g.run_id = s.run_id AND g.position = s.position)),
                   (SELECT count(*) FROM gold_entity AS g WHERE g.run_id = corpus.run_id),
                   (SELECT count(DISTINCT entity_type) FROM gold_entity AS g WHERE g.run_id = corpus.run_id),
                   n_repaired_tags
            FROM corpus JOIN latest_attempt USING (run_id)
            WHERE status = 'done'
            ORDER BY domain, list_position(['train', 'dev', 'test'], split), run_id
            """
        ).fetchall()
    return [CorpusSummary(*row) for row in rows]


def _delete_sentences(connection: DuckDBPyConnection, run_id: str, *, first: int) -> None:
    """Those of a run from a position on; their texts stay, others may have them too."""
    for table in ("gold_entity", "corpus_sentence"):
        connection.execute(f"DELETE FROM {table} WHERE run_id = ? AND position >= ?", [run_id, first])  # noqa: S608


def _insert_block(
    connection: DuckDBPyConnection, run_id: str, block: Sequence[Sentence], *, first: int
) -> None:
    """Consecutive sentences, the first of them at position ``first``."""
    ids = [sentence_id(sentence.tokens) for sentence in block]
    _insert_sentences(connection, dict(zip(ids, block, strict=True)))
    rows: list[Row] = [(run_id, position, name) for position, name in enumerate(ids, start=first)]
    insert_rows(connection, "corpus_sentence", ("run_id", "position", "sentence_id"), rows)
    rows = [
        (run_id, position, entity.start, entity.end, entity.type, _mention(sentence, entity))
        for position, sentence in enumerate(block, start=first)
        for entity in sentence.entities
    ]
    columns = ("run_id", "position", "start_token", "end_token", "entity_type", "mention")
    insert_rows(connection, "gold_entity", columns, rows)


def _insert_sentences(connection: DuckDBPyConnection, by_id: Mapping[str, Sentence]) -> None:
    """Those not yet there. DuckDB splits the texts itself, four times as fast as it takes lists of tokens."""
    texts = {name: sentence.text for name, sentence in by_id.items()}
    rows: list[Row]
    if all(texts[name].count(" ") + 1 == len(sentence.tokens) for name, sentence in by_id.items()):
        rows, columns = list(texts.items()), ("sentence_id", "text")
        split = {"tokens": "string_split(text, ' ')"}
        insert_rows(connection, "sentence", columns, rows, on_conflict="ignore", computed=split)
    else:  # no token, or one with a space in it
        rows = [(name, list(sentence.tokens), texts[name]) for name, sentence in by_id.items()]
        insert_rows(connection, "sentence", ("sentence_id", "tokens", "text"), rows, on_conflict="ignore")


def _mention(sentence: Sentence, entity: Entity) -> str:
    return " ".join(sentence.tokens[entity.start : entity.end])
