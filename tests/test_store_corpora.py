"""Corpora and label sets come out of the store as they went in."""

from __future__ import annotations

from dataclasses import replace
from math import ceil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from store_examples import CORPUS, DOMAIN, counted_openings, import_corpus, long_corpus

from cdner.errors import InputError
from cdner.store import Store, corpora
from cdner.store.corpora import (
    CorpusSummary,
    find_corpus_run,
    list_corpora,
    load_corpus,
    load_domain,
    save_corpus,
    save_head,
)
from cdner.store.runs import begin_attempt, finish_attempt, run_spec
from cdner.types import Corpus, Domain, Entity, Sentence


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cdner.duckdb")


def test_a_corpus_and_its_label_set_come_back(store):
    run_id = import_corpus(store)
    assert load_corpus(store, run_id) == CORPUS
    assert load_domain(store, run_id) == DOMAIN


def test_an_empty_corpus_an_empty_sentence_and_an_empty_label_set_come_back(store):
    empty = Corpus("nothing", "dev", ())
    run_id = import_corpus(store, empty, Domain("nothing", "source", ()))
    assert load_corpus(store, run_id) == empty
    assert load_domain(store, run_id) == Domain("nothing", "source", ())
    blank = Corpus("nothing", "test", (Sentence(()), Sentence(("",))))
    assert load_corpus(store, import_corpus(store, blank)) == blank


def test_saving_a_corpus_again_replaces_it(store):
    run_id = import_corpus(store)
    shorter = replace(CORPUS, sentences=CORPUS.sentences[:1], n_repaired_tags=0)
    save_corpus(store, run_id, shorter, DOMAIN)
    assert load_corpus(store, run_id) == shorter


@pytest.mark.parametrize("n_sentences", [0, 1, 3, 4, 6, 7])
def test_a_corpus_is_stored_a_block_a_transaction(store, monkeypatch, n_sentences):
    monkeypatch.setattr(corpora, "BLOCK", 3)
    corpus = long_corpus(n_sentences)
    other = import_corpus(store)
    openings = counted_openings(monkeypatch)
    save_corpus(store, "any", corpus, DOMAIN)
    assert openings == ["writing", "reading", *["writing"] * ceil(n_sentences / 3)]
    assert load_corpus(store, "any") == corpus
    assert load_corpus(store, other) == CORPUS


def test_blocks_that_a_killed_import_has_left_are_kept_where_they_are_the_same(store, monkeypatch):
    monkeypatch.setattr(corpora, "BLOCK", 3)
    corpus = long_corpus(11)

    def killed():
        yield from corpus.sentences[:7]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save_corpus(store, "any", corpus, DOMAIN, sentences=killed())
    assert load_corpus(store, "any").sentences == corpus.sentences[:6]
    insert, written = corpora._insert_block, []

    def counted(connection, run_id, block, *, first):
        written.append(first)
        insert(connection, run_id, block, first=first)

    monkeypatch.setattr(corpora, "_insert_block", counted)
    save_corpus(store, "any", corpus, DOMAIN)
    assert (written, load_corpus(store, "any")) == ([6, 9], corpus)
    changed = list(corpus.sentences)
    changed[4] = replace(changed[4], entities=())
    other = replace(corpus, sentences=tuple(changed))
    written.clear()
    save_corpus(store, "any", other, DOMAIN)
    assert (written, load_corpus(store, "any")) == ([3, 6, 9], other)
    save_corpus(store, "any", replace(other, sentences=other.sentences[:6]), DOMAIN)
    assert written == [3, 6, 9]
    assert load_corpus(store, "any").sentences == other.sentences[:6]


def test_what_turns_out_to_be_broken_is_taken_out_again(store, monkeypatch):
    monkeypatch.setattr(corpora, "BLOCK", 3)
    run_id = import_corpus(store)
    before = dump_of(store)

    def broken():
        yield from long_corpus(7).sentences
        yield CORPUS.sentences[0]
        raise InputError("broken")

    with pytest.raises(InputError, match="broken"):
        save_corpus(store, "any", long_corpus(0), DOMAIN, sentences=broken())
    assert dump_of(store) == before
    assert load_corpus(store, run_id) == CORPUS


def dump_of(store):
    with store.reading() as connection:
        return [
            connection.execute(f"SELECT * FROM {table} ORDER BY ALL").fetchall()
            for table in ("corpus", "corpus_sentence", "gold_entity", "sentence", "domain_type")
        ]


def test_the_head_of_a_corpus_is_replaced_without_its_sentences(store):
    run_id = import_corpus(store)
    save_head(store, run_id, replace(CORPUS, sentences=(), types=("director",)), replace(DOMAIN, entries=()))
    assert load_corpus(store, run_id) == replace(CORPUS, types=("director",))
    assert load_domain(store, run_id).types == ()


def test_a_corpus_whose_import_has_not_ended_is_not_listed(store):
    spec = run_spec("import", 1, {}, ())
    begin_attempt(store, spec, {})
    save_corpus(store, spec.run_id, CORPUS, DOMAIN)
    assert list_corpora(store) == []


def test_equal_sentences_of_two_corpora_are_stored_once(store):
    import_corpus(store)
    import_corpus(store, replace(CORPUS, split="test"))
    with store.reading() as connection:
        assert connection.execute("SELECT count(*) FROM sentence").fetchone() == (3,)
        assert connection.execute("SELECT count(*) FROM corpus_sentence").fetchone() == (8,)


@given(
    st.lists(st.lists(st.text(), max_size=4).map(tuple), max_size=5),
    st.text(min_size=1),
)
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_comes_back(store, token_lists, entity_type):
    sentences = tuple(
        Sentence(tokens, (Entity(0, len(tokens), entity_type),) if tokens else ()) for tokens in token_lists
    )
    corpus = Corpus("any", "train", sentences, types=(entity_type,))
    save_corpus(store, "any", corpus, DOMAIN)
    assert load_corpus(store, "any") == corpus


def test_the_latest_finished_import_is_found(store):
    assert find_corpus_run(store, "films", "train") is None
    specs = [run_spec("import", 1, {"n": n}, ()) for n in range(3)]
    attempts = []
    for spec in specs:
        attempts.append(begin_attempt(store, spec, {}))
        save_corpus(store, spec.run_id, CORPUS, DOMAIN)
    assert find_corpus_run(store, "films", "train") is None
    finish_attempt(store, attempts[1], "done")
    finish_attempt(store, attempts[0], "done")
    finish_attempt(store, attempts[2], "failed")
    assert find_corpus_run(store, "films", "train") == specs[0].run_id
    assert find_corpus_run(store, "films", "test") is None
    assert find_corpus_run(store, "films", "train", step="other") is None


def test_corpora_are_listed_with_their_counts_train_before_test(store):
    other = import_corpus(store, replace(CORPUS, split="test", sentences=CORPUS.sentences[1:2]))
    run_id = import_corpus(store)
    assert list_corpora(store) == [
        CorpusSummary(run_id, "films", "train", "target", 4, 2, 3, 3, 3),
        CorpusSummary(other, "films", "test", "target", 1, 1, 0, 0, 3),
    ]


def test_tokens_that_a_space_does_not_tell_apart_come_back_too(store):
    odd = ((), ("a b",), ("", "c"), ("d", ""), (" ",), ("e ", " f"), ("\u00a0", "\t"))
    for seed, tokens in enumerate(odd):
        corpus = replace(CORPUS, sentences=(*CORPUS.sentences, Sentence(tokens)))
        run_id = run_spec("import", 1, {"seed": seed}, ()).run_id
        save_corpus(store, run_id, corpus, DOMAIN)
        assert load_corpus(store, run_id) == corpus
