"""Part of a corpus by its positions is what the whole corpus has there."""

from __future__ import annotations

from pathlib import Path

import pytest
from store_examples import CORPUS, DOMAIN, import_corpus, long_corpus

from cdner.errors import StoreError
from cdner.store import Store
from cdner.store.corpora import count_texts, load_corpus, load_head, load_sentences, save_corpus


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "s.duckdb")


def test_any_positions_come_in_the_order_asked_for_with_their_entities(store: Store) -> None:
    run_id = import_corpus(store, CORPUS)
    for positions in (range(len(CORPUS.sentences)), [1, 0], [len(CORPUS.sentences) - 1], []):
        found = load_sentences(store, run_id, positions)
        assert found == [CORPUS.sentences[position] for position in positions]


def test_a_window_of_one_corpus_is_not_disturbed_by_the_same_sentences_in_another(store: Store) -> None:
    long = long_corpus(300)
    run_id = import_corpus(store, long)
    save_corpus(store, "another", long_corpus(200), DOMAIN)
    assert load_sentences(store, run_id, range(100, 300)) == list(long.sentences[100:300])
    assert load_corpus(store, run_id) == long


def test_a_position_that_is_not_there_is_named(store: Store) -> None:
    run_id = import_corpus(store, CORPUS)
    with pytest.raises(StoreError, match=f"no sentence at position {len(CORPUS.sentences)}"):
        load_sentences(store, run_id, [0, len(CORPUS.sentences)])


def test_head_tells_size_and_labels_and_a_run_without_corpus_is_refused(store: Store) -> None:
    head = load_head(store, import_corpus(store, CORPUS))
    assert (head.domain, head.split) == (CORPUS.domain, CORPUS.split)
    assert (head.types, head.n_sentences) == (CORPUS.types, len(CORPUS.sentences))
    with pytest.raises(StoreError, match="has no corpus"):
        load_head(store, "none")


def test_equal_sentences_are_one_text(store: Store) -> None:
    repeated = long_corpus(4)
    twice = type(repeated)(repeated.domain, repeated.split, repeated.sentences * 2, 0, repeated.types)
    run_id = import_corpus(store, twice)
    assert count_texts(store, run_id) == len({sentence.text for sentence in repeated.sentences})
    assert count_texts(store, run_id, [0, len(repeated.sentences)]) == 1
