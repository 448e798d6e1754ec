"""A file of one's own is read twice and never held: checked to its end first, then written in blocks of one
transaction.
"""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest
from pipeline_experiments import sql

from cdner.corpora.conll import ConllReader
from cdner.errors import InputError
from cdner.experiment import own_corpora
from cdner.store import Store
from cdner.store import corpora as stored_corpora
from cdner.store.corpora import load_corpus, load_domain
from cdner.types import Corpus, Entity, Sentence

SMALL, LARGE, BLOCK = 500, 2500, 250


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored_corpora, "BLOCK", BLOCK)


class Silent:
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def start(self, label: str, total: int | None = None) -> None: ...

    def advance(self, n: int = 1, note: str = "") -> None: ...

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def corpus_of(n: int) -> Corpus:
    """Every third sentence with an entity, every fiftieth like one before."""
    sentences = [
        Sentence(
            (f"name{number % 49}-{number // 50}", "plays", "."), (Entity(0, 1, "actor"),) * (number % 3 == 0)
        )
        for number in range(n)
    ]
    return Corpus("films", "test", tuple(sentences), types=("actor",))


def write_conll(path: Path, corpus: Corpus, *, last_line: str = "") -> Path:
    with path.open("w", encoding="utf-8") as file:
        for sentence in corpus.sentences:
            tags = ["B-actor", *["O"] * len(sentence.tokens)] if sentence.entities else ["O"] * 99
            file.writelines(f"{token}\t{tag}\n" for token, tag in zip(sentence.tokens, tags, strict=False))
            file.write("\n")
        file.write(last_line)
    return path


def imported(store: Path, file: Path, *, labels: tuple[str, ...] = ()) -> str:
    options: dict[str, Any] = {"role": "target", "labels": labels, "strict": False, "progress": Silent()}
    (row,) = own_corpora.import_files(store, {"test": [file]}, domain="films", **options)
    return row.run_id


def test_no_more_sentences_are_alive_than_two_blocks_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    insert, alive = stored_corpora._insert_block, []

    def counted(*arguments: Any, **options: Any) -> None:
        alive.append(sum(type(found) is Sentence for found in gc.get_objects()))
        insert(*arguments, **options)

    file = write_conll(tmp_path / "a.txt", corpus_of(LARGE))
    gc.collect()
    before = sum(type(found) is Sentence for found in gc.get_objects())
    monkeypatch.setattr(stored_corpora, "_insert_block", counted)
    imported(tmp_path / "s.duckdb", file)
    assert len(alive) == LARGE // BLOCK
    assert BLOCK <= max(alive) - before <= 2 * BLOCK


def test_an_import_that_streams_stores_what_reading_at_once_gives(tmp_path: Path) -> None:
    file = write_conll(tmp_path / "a.txt", corpus_of(LARGE))
    run_id = imported(tmp_path / "s.duckdb", file)
    stored = load_corpus(Store(tmp_path / "s.duckdb"), run_id)
    assert stored == ConllReader().read(file, domain="films", split="test")
    assert len(stored.sentences) == LARGE


def test_the_same_file_again_brings_its_labels_and_leaves_its_sentences(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, file = tmp_path / "s.duckdb", write_conll(tmp_path / "a.txt", corpus_of(SMALL))
    run_id = imported(store, file)
    before = load_corpus(Store(store), run_id)
    monkeypatch.setattr(stored_corpora, "save_corpus", None)
    assert imported(store, file, labels=("director", "actor")) == run_id
    assert load_corpus(Store(store), run_id) == before
    assert load_domain(Store(store), run_id).types == ("director", "actor")
    assert sql(store, "SELECT status FROM attempt ORDER BY attempt_n") == [("done",), ("done",)]


def test_an_import_that_was_killed_goes_on(tmp_path: Path) -> None:
    store, file = tmp_path / "s.duckdb", write_conll(tmp_path / "a.txt", corpus_of(LARGE))
    run_id = imported(store, file)
    with Store(store).transaction() as connection:
        connection.execute("UPDATE attempt SET status = 'interrupted'")
        connection.execute("DELETE FROM corpus_sentence WHERE position >= ?", [BLOCK])
    assert imported(store, file) == run_id
    assert len(load_corpus(Store(store), run_id).sentences) == LARGE


@pytest.mark.parametrize("again", [False, True])
def test_a_file_broken_at_its_end_leaves_the_store_as_it_was(tmp_path: Path, *, again: bool) -> None:
    store, file = tmp_path / "s.duckdb", tmp_path / "a.txt"
    if again:
        imported(store, write_conll(file, corpus_of(SMALL)))
    write_conll(file, corpus_of(LARGE), last_line="no tag\n")
    with pytest.raises(InputError, match=r"a\.txt, line \d+: unknown tag 'tag'"):
        imported(store, file)
    assert store.exists() == again
    if again:
        counts = "SELECT count(*), (SELECT count(*) FROM run) FROM corpus_sentence"
        assert sql(store, counts) == [(SMALL, 1)]


def test_a_file_that_changes_while_it_is_imported_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, file = tmp_path / "s.duckdb", write_conll(tmp_path / "a.txt", corpus_of(SMALL))
    survey = own_corpora._survey

    def surveyed(*arguments: Any, **options: Any) -> Any:
        found = survey(*arguments, **options)
        write_conll(file, corpus_of(SMALL + 1))
        return found

    monkeypatch.setattr(own_corpora, "_survey", surveyed)
    with pytest.raises(InputError, match="changed while it was being imported"):
        imported(store, file)
    for table in ("corpus", "corpus_sentence", "gold_entity", "sentence"):
        assert sql(store, f"SELECT count(*) FROM {table}") == [(0,)]
