"""Every noun comes out of the store as it went in: corpora, models, predictions, confusion, reasoning, scores."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from store_examples import CORPUS, DOMAIN, GENERATION, import_corpus, prediction, start_run

from cdner.errors import StoreError
from cdner.store import Store
from cdner.store.confusion import load_confusion, load_rivals, save_confusion, save_rivals
from cdner.store.corpora import (
    CorpusSummary,
    find_corpus_run,
    list_corpora,
    load_corpus,
    load_domain,
    save_corpus,
)
from cdner.store.descriptions import (
    TypeDescription,
    load_descriptions,
    load_embeddings,
    save_descriptions,
    save_embeddings,
)
from cdner.store.models import (
    checkpoint_directory,
    load_checkpoint,
    load_epochs,
    save_checkpoint,
    save_epoch,
)
from cdner.store.predictions import load_predictions, predicted_corpus, predicted_positions, save_predictions
from cdner.store.ratios import (
    Hierarchy,
    Ratios,
    load_hierarchy,
    load_misclassification,
    save_hierarchy,
    save_misclassification,
)
from cdner.store.reasoning import (
    load_completions,
    load_gaps,
    load_reasoning,
    load_request,
    request_id,
    save_completions,
    save_reasoning,
    save_requests,
    save_template,
)
from cdner.store.runs import begin_attempt, finish_attempt, run_spec
from cdner.store.scores import ErrorRow, ScoreRow, load_errors, load_scores, save_scores
from cdner.types import (
    Completion,
    ConfusionMatrix,
    Corpus,
    Domain,
    Entity,
    EpochLog,
    FitResult,
    Gap,
    Message,
    Prediction,
    ReasoningChain,
    ReasoningRequest,
    Sampling,
    Sentence,
)

TYPES = ("director", "actor", "misc")
REQUEST = ReasoningRequest(
    (Message("system", "fixed"), Message("user", "Łódź 🎬 {}")),
    Sampling(64, stop=("\n\n", "END")),
    '{"type":"object"}',
)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cdner.duckdb")


# --- corpora


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
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
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


# --- models


def test_a_checkpoint_is_relative_to_the_store_and_moves_with_it(store, tmp_path):
    logs = (EpochLog(1, 10, 2.5, None, None, 1.5, 0), EpochLog(2, 20, 1.25, 1.5, 0.75, 1.25, 7))
    save_checkpoint(store, "m", FitResult(tmp_path / "checkpoints" / "m", logs, 2, "abc"))
    assert load_checkpoint(store, "m") == ("checkpoints/m", "abc", 2)
    assert checkpoint_directory(store, load_checkpoint(store, "m")) == tmp_path / "checkpoints" / "m"
    assert load_epochs(store, "m") == logs
    save_checkpoint(store, "m", FitResult(Path("/elsewhere/m"), (), 0, "def"))
    assert load_checkpoint(store, "m") == ("/elsewhere/m", "def", 0)
    with pytest.raises(StoreError, match="has no checkpoint"):
        load_checkpoint(store, "other")


def test_an_epoch_saved_twice_is_there_once(store):
    log = EpochLog(1, 10, 2.5, None, None, 1.5, 0)
    save_epoch(store, "m", log)
    save_epoch(store, "m", replace(log, train_loss=2.0))
    save_epoch(store, "m", replace(log, epoch=2))
    assert load_epochs(store, "m") == (replace(log, train_loss=2.0), replace(log, epoch=2))
    assert load_epochs(store, "other") == ()


# --- predictions


def test_predictions_come_back_and_a_position_again_replaces_what_it_had(store):
    corpus_run = import_corpus(store)
    run_id = start_run(store, "predict", corpus_run)
    first = Prediction(
        '"director": ["Łódź"', (Entity(0, 2, "director"), Entity(3, 4, "actor")), {"truncated": 1}
    )
    save_predictions(
        store, run_id, [(2, prediction(), GENERATION), (0, first, GENERATION)], corpus_run_id=corpus_run
    )
    save_predictions(store, run_id, [], corpus_run_id=corpus_run)
    assert load_predictions(store, run_id) == {0: first, 2: prediction()}
    again = prediction(Entity(1, 2, "misc"))
    save_predictions(store, run_id, [(0, again, GENERATION)], corpus_run_id=corpus_run)
    assert list(load_predictions(store, run_id).items()) == [(0, again), (2, prediction())]
    assert predicted_positions(store, run_id) == {0, 2}
    assert predicted_corpus(store, run_id) == corpus_run
    assert load_predictions(store, "other") == {}


def test_predictions_for_a_sentence_or_corpus_that_is_not_there_are_refused(store):
    corpus_run = import_corpus(store)
    other = import_corpus(store, replace(CORPUS, split="dev"))
    run_id = start_run(store, "predict", corpus_run)
    with pytest.raises(StoreError, match="no sentence at position 4"):
        save_predictions(store, run_id, [(4, prediction(), GENERATION)], corpus_run_id=corpus_run)
    save_predictions(store, run_id, [(0, prediction(), GENERATION)], corpus_run_id=corpus_run)
    with pytest.raises(StoreError, match=f"predicts corpus {corpus_run}, not {other}"):
        save_predictions(store, run_id, [(0, prediction(), GENERATION)], corpus_run_id=other)


# --- confusion


def test_descriptions_and_embeddings_come_back_in_declared_order(store):
    descriptions = (
        TypeDescription("director", "gloss", "director.n.01", "“long” text", "r1", "llm"),
        TypeDescription("actor", "", "", "text", None, "imported"),
    )
    save_descriptions(store, "d", "films", descriptions)
    assert load_descriptions(store, "d") == descriptions
    vectors = np.random.default_rng(0).normal(size=(3, 5))
    save_embeddings(store, "e", TYPES, vectors)
    types, loaded = load_embeddings(store, "e")
    assert types == TYPES
    np.testing.assert_array_equal(loaded, vectors)
    with pytest.raises(StoreError, match="no type embeddings"):
        load_embeddings(store, "other")


def ratios(gold: tuple[str, ...], predicted: tuple[str, ...]) -> Ratios:
    counts = np.random.default_rng(1).integers(0, 5, size=(len(gold), len(predicted)))
    counts[-1] = 0
    n_gold = counts.sum(axis=1) + np.arange(len(gold))[::-1]
    shares = counts / np.maximum(n_gold, 1)[:, None]
    return Ratios(gold, predicted, shares, n_gold, counts, np.where(n_gold > 0, 1 - shares.sum(axis=1), 0.0))


def assert_same_ratios(left: Ratios, right: Ratios) -> None:
    assert (left.gold_types, left.predicted_types) == (right.gold_types, right.predicted_types)
    for name in ("ratios", "n_gold", "n_predicted_as", "unrecognised"):
        np.testing.assert_array_equal(getattr(left, name), getattr(right, name))


@pytest.mark.parametrize("types", [TYPES, ("one",)])
def test_ratios_prefixes_and_flags_come_back(store, types):
    source = ("misc", "person")  # shares a name with the target: two label sets
    hierarchy = Hierarchy(
        ratios(types, source), ("person", "misc", "misc")[: len(types)], (False, False, True)[: len(types)]
    )
    save_hierarchy(store, "q", hierarchy)
    loaded = load_hierarchy(store, "q")
    assert_same_ratios(loaded.ratios, hierarchy.ratios)
    assert (loaded.prefixes, loaded.flagged) == (hierarchy.prefixes, hierarchy.flagged)
    confused = ratios(types, types)
    save_misclassification(store, "q", confused)
    assert_same_ratios(load_misclassification(store, "q"), confused)
    for load in (load_hierarchy, load_misclassification):
        with pytest.raises(StoreError, match="Run other has no"):
            load(store, "other")


def test_confusion_matrices_come_back_bit_for_bit_for_any_number_of_types(store):
    scores = np.random.default_rng(2).random((3, 3))
    np.fill_diagonal(scores, 0)
    matrices = [
        ConfusionMatrix("u_hie", TYPES, scores),
        ConfusionMatrix("v_conf", TYPES, scores * 2),
        ConfusionMatrix("u_sim", ("only",), np.zeros((1, 1))),
    ]
    save_confusion(store, "q", matrices)
    loaded = load_confusion(store, "q")
    assert loaded.keys() == {"u_hie", "v_conf", "u_sim"}
    for matrix in matrices:
        assert loaded[matrix.dimension].types == matrix.types
        np.testing.assert_array_equal(loaded[matrix.dimension].scores, matrix.scores)
    with store.reading() as connection:
        diagonal = connection.execute(
            "SELECT DISTINCT score FROM confusion WHERE gold_type = confused_type"
        ).fetchall()
    assert diagonal == [(None,)]
    assert load_confusion(store, "other") == {}


def test_rivals_come_back_in_order_with_types_that_have_none(store):
    rivals = {"director": (("actor", 0.75), ("misc", 0.25)), "actor": (), "misc": (("actor", 0.5),)}
    save_rivals(store, "q", rivals)
    assert list(load_rivals(store, "q").items()) == list(rivals.items())
    save_rivals(store, "q", {"misc": ()})
    assert load_rivals(store, "q") == {"misc": ()}


# --- reasoning


def test_a_request_comes_back_and_its_texts_are_stored_once(store):
    other = replace(REQUEST, messages=(REQUEST.messages[0], Message("user", "else")), schema=None)
    ids = save_requests(store, "openai", "m@1", [REQUEST, other, REQUEST])
    assert ids == [request_id("openai", "m@1", request) for request in (REQUEST, other, REQUEST)]
    assert save_requests(store, "openai", "m@1", [REQUEST]) == ids[:1]
    assert load_request(store, ids[0]) == ("openai", "m@1", REQUEST)
    assert load_request(store, ids[1]) == ("openai", "m@1", other)
    with store.reading() as connection:
        assert connection.execute("SELECT count(*) FROM prompt_text").fetchone() == (3,)
    with pytest.raises(StoreError, match="No request absent"):
        load_request(store, "absent")


def test_everything_in_a_request_changes_its_id_and_equal_numbers_do_not():
    base = request_id("openai", "m", REQUEST)
    sampling = REQUEST.sampling
    changed = [
        request_id("local", "m", REQUEST),
        request_id("openai", "m@2", REQUEST),
        request_id("openai", "m", replace(REQUEST, schema=None)),
        request_id("openai", "m", replace(REQUEST, messages=REQUEST.messages[::-1])),
        request_id("openai", "m", replace(REQUEST, messages=(Message("user", "fixed"), REQUEST.messages[1]))),
        *(
            request_id("openai", "m", replace(REQUEST, sampling=replace(sampling, **{name: value})))
            for name, value in {
                "max_tokens": 65,
                "temperature": 0.5,
                "top_p": 0.5,
                "seed": 1,
                "stop": (),
            }.items()
        ),
    ]
    assert len({base, *changed}) == 11
    assert base == request_id(
        "openai", "m", replace(REQUEST, sampling=replace(sampling, temperature=0, top_p=1))
    )


def test_the_latest_completion_counts_and_earlier_ones_stay(store):
    ids = save_requests(store, "openai", "m", [REQUEST, replace(REQUEST, schema=None)])
    save_completions(store, [(ids[0], Completion("first", "length", 100, 64, 64))])
    save_completions(
        store,
        [
            (ids[0], Completion("second", "stop", 100, 96, 10)),
            (ids[0], Completion("third 🎬", "stop", 1, 2, 3)),
        ],
    )
    assert load_completions(store, [*ids, "unknown"]) == {ids[0]: Completion("third 🎬", "stop", 1, 2, 3)}
    with store.reading() as connection:
        rows = connection.execute("SELECT attempt_n, text FROM completion ORDER BY attempt_n").fetchall()
    assert rows == [(1, "first"), (2, "second"), (3, "third 🎬")]
    assert load_completions(store, []) == {}
    assert load_completions(Store(store.directory / "none.duckdb"), ids) == {}


def test_half_a_surrogate_pair_in_an_answer_becomes_a_replacement_character(store):
    ids = save_requests(store, "openai", "m", [REQUEST])
    save_completions(store, [(ids[0], Completion("a\ud83d b \ud83c\udfac", "stop", 1, 0, 1))])
    assert load_completions(store, ids)[ids[0]].text == "a\ufffd b 🎬"


def test_reasoning_comes_back_and_a_gap_is_filled_on_resume(store):
    chain = ReasoningChain("the ‘initial’ part", "why not actor", {"no_heading": 2})
    save_reasoning(store, "r", [(1, "q1", chain), (0, "q0", Gap("timed out"))])
    assert load_reasoning(store, "r") == {1: chain}
    assert load_gaps(store, "r") == {0: "timed out"}
    save_reasoning(store, "r", [(0, "q0", ReasoningChain("", ""))])
    assert list(load_reasoning(store, "r").items()) == [(0, ReasoningChain("", "")), (1, chain)]
    assert load_gaps(store, "r") == {}


def test_a_template_changed_under_the_same_name_is_kept_beside_the_old_one(store):
    first, again, second = (save_template(store, "pbrc.v1", text) for text in ("a", "a", "b"))
    assert first == again != second
    with store.reading() as connection:
        assert connection.execute("SELECT text FROM template ORDER BY text").fetchall() == [("a",), ("b",)]


# --- scores


def test_scores_and_errors_come_back_and_saving_again_replaces_them(store):
    scores = (
        ScoreRow("films", "dev", "strict", "*", 3, 2, 1, 0.5, 1 / 3, 0.4),
        ScoreRow("films", "dev", "strict", "actor", 0, 0, 0, 0.0, 0.0, 0.0),
    )
    errors = (ErrorRow("films", "dev", "*", 3, 1, 1, 1, 0),)
    save_scores(store, "e", scores, errors=errors)
    assert load_scores(store, "e") == scores
    assert load_errors(store, "e") == errors
    save_scores(store, "e", scores[:1])
    assert load_scores(store, "e") == scores[:1]
    assert load_errors(store, "e") == ()
