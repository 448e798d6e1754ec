"""The views against plain loops and against ``cdner.evaluate``, on random spans."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from store_examples import DOMAIN, GENERATION, import_corpus, start_run

from cdner.errors import UsageError
from cdner.evaluate import error_proportions
from cdner.store import Store
from cdner.store import scores as errors
from cdner.store.confusion import Ratios, save_confusion, save_misclassification, save_rivals
from cdner.store.predictions import save_predictions
from cdner.store.runs import finish_attempt, label_experiment
from cdner.store.scores import ErrorRow, ScoreRow, list_errors, save_scores
from cdner.types import ConfusionMatrix, Corpus, Entity, Prediction, Sentence

TYPES = DOMAIN.types


def random_entities(generator: random.Random) -> tuple[Entity, ...]:
    cuts = sorted(generator.sample(range(13), 6))
    spans = list(zip(cuts[::2], cuts[1::2], strict=True))
    return tuple(
        Entity(start, end, generator.choice(TYPES)) for start, end in spans if generator.random() < 0.8
    )


def random_prediction(generator: random.Random, gold: tuple[Entity, ...]) -> tuple[Entity, ...]:
    """Now and then unrelated to the gold entities, else some of their spans, with any type."""
    if generator.random() < 0.3:
        return random_entities(generator)
    kept = [entity for entity in gold if generator.random() < 0.8]
    return tuple(Entity(entity.start, entity.end, generator.choice(TYPES)) for entity in kept)


@pytest.fixture(scope="module")
def predicted(tmp_path_factory: pytest.TempPathFactory):
    """(store, run id, gold sentences, predictions): 60 sentences, every fourth one not predicted yet."""
    generator = random.Random(4)
    sentences = tuple(
        Sentence(tuple(f"w{position}.{n}" for n in range(12)), random_entities(generator))
        for position in range(60)
    )
    store = Store(tmp_path_factory.mktemp("views") / "cdner.duckdb")
    corpus_run = import_corpus(store, Corpus("films", "test", sentences, types=TYPES))
    import_corpus(store, Corpus("films", "dev", sentences[::-1], types=TYPES))  # must not leak into the joins
    run_id = start_run(store, "predict", corpus_run)
    predictions = {
        position: Prediction("{}", random_prediction(generator, gold.entities))
        for position, gold in enumerate(sentences)
        if position % 4
    }
    items = [(position, item, GENERATION) for position, item in predictions.items()]
    save_predictions(store, run_id, items, corpus_run_id=corpus_run)
    other = start_run(store, "predict", corpus_run, seed=1)
    save_predictions(
        store, other, [(0, Prediction("{}", (Entity(0, 12, "misc"),)), GENERATION)], corpus_run_id=corpus_run
    )
    return store, run_id, sentences, predictions


def rows(store: Store, sql: str, *values: object) -> list[tuple]:
    with store.reading() as connection:
        return connection.execute(sql, list(values)).fetchall()


def overlap(left: Entity, right: Entity) -> bool:
    return bool(set(range(left.start, left.end)) & set(range(right.start, right.end)))


def test_every_gold_entity_has_the_outcome_that_plain_loops_find(predicted):
    store, run_id, sentences, predictions = predicted
    expected = []
    for position, prediction in predictions.items():
        for gold in sentences[position].entities:
            exact = [p.type for p in prediction.entities if (p.start, p.end) == (gold.start, gold.end)]
            if exact:
                outcome = "correct" if exact[0] == gold.type else "misclassified"
            else:
                outcome = "boundary" if any(overlap(gold, p) for p in prediction.entities) else "not_found"
            tokens = sentences[position].tokens
            mention = " ".join(tokens[gold.start : gold.end])
            expected.append(
                (
                    position,
                    gold.start,
                    gold.type,
                    outcome,
                    exact[0] if exact else None,
                    mention,
                    " ".join(tokens),
                )
            )
    found = rows(
        store,
        "SELECT position, start_token, gold_type, outcome, predicted_type, mention, sentence_text"
        " FROM gold_outcome WHERE run_id = ? AND domain = 'films' AND split = 'test'",
        run_id,
    )
    assert sorted(found, key=str) == sorted(expected, key=str)
    assert {row[3] for row in found} == {"correct", "misclassified", "boundary", "not_found"}


def test_the_error_views_count_what_evaluate_counts(predicted):
    store, run_id, sentences, predictions = predicted
    report = error_proportions([sentences[p] for p in predictions], list(predictions.values()), TYPES)
    per_type = [row for row in report if row.entity_type != "*"]
    assert {row.entity_type for row in per_type} == set(TYPES)
    for row in per_type:
        counts = {
            outcome: rows(
                store,
                "SELECT count(*) FROM gold_outcome WHERE run_id = ? AND gold_type = ? AND outcome = ?",
                *(run_id, row.entity_type, outcome),
            )[0][0]
            for outcome in ("correct", "misclassified", "boundary", "not_found")
        }
        assert counts == {
            "correct": row.n_correct,
            "misclassified": row.n_misclassified,
            "boundary": row.n_boundary,
            "not_found": row.n_not_found,
        }
        missed = rows(
            store,
            "SELECT count(*), count_if(is_boundary) FROM missed_entity WHERE run_id = ? AND gold_type = ?",
            *(run_id, row.entity_type),
        )
        assert missed == [(row.n_missed, row.n_boundary)]
        assert 0 < row.n_boundary < row.n_missed
        spurious = rows(
            store,
            "SELECT count(*) FROM spurious_entity WHERE run_id = ? AND predicted_type = ?",
            run_id,
            row.entity_type,
        )
        assert spurious == [(row.n_spurious,)]


def test_boundary_errors_name_each_overlapping_prediction(predicted):
    store, run_id, sentences, predictions = predicted
    expected = Counter()
    for position, prediction in predictions.items():
        spans = {(p.start, p.end) for p in prediction.entities}
        for gold in sentences[position].entities:
            for p in prediction.entities:
                if (gold.start, gold.end) not in spans and overlap(gold, p):
                    expected[position, gold.start, gold.end, gold.type, p.start, p.end, p.type] += 1
    found = rows(
        store,
        "SELECT position, start_token, end_token, gold_type, predicted_start, predicted_end, predicted_type"
        " FROM boundary_error WHERE run_id = ?",
        run_id,
    )
    assert Counter(found) == expected
    assert found


def test_most_confused_counts_pairs_and_their_share_of_the_gold_type(predicted):
    store, run_id, sentences, predictions = predicted
    n_gold = Counter(e.type for p in predictions for e in sentences[p].entities)
    pairs = Counter(
        (gold.type, p.type)
        for position, prediction in predictions.items()
        for gold in sentences[position].entities
        for p in prediction.entities
        if (p.start, p.end) == (gold.start, gold.end) and p.type != gold.type
    )
    found = rows(
        store,
        "SELECT gold_type, predicted_type, n_confused, n_gold, share FROM most_confused WHERE run_id = ? ORDER BY rank",
        run_id,
    )
    assert {row[:2]: row[2:] for row in found} == {
        (gold, taken): (n, n_gold[gold], pytest.approx(n / n_gold[gold]))
        for (gold, taken), n in pairs.items()
    }
    assert [row[2] for row in found] == sorted((row[2] for row in found), reverse=True)


def test_errors_are_listed_by_kind_and_filtered_by_type(predicted):
    store, run_id, _, _ = predicted
    columns, everything = list_errors(store, run_id, kind="type", limit=1000)
    assert columns == (
        *("position", "gold_type", "predicted_type", "probability", "runner_up", "mention", "sentence_text"),
    )
    _, actors = list_errors(store, run_id, kind="type", gold="actor", predicted="misc", limit=1000)
    assert actors == [row for row in everything if row[1:3] == ("actor", "misc")]
    assert actors
    for kind in ("missed", "spurious", "boundary"):
        assert len(list_errors(store, run_id, kind=kind, limit=2)[1]) == 2
    with pytest.raises(UsageError, match="Did you mean 'boundary'"):
        list_errors(store, run_id, kind="boundry")
    with pytest.raises(UsageError, match="'spurious' have no gold type"):
        list_errors(store, run_id, kind="spurious", gold="actor")


def test_errors_found_a_window_at_a_time_are_those_of_all_positions(predicted, monkeypatch):
    store, run_id, _, _ = predicted
    for kind in ("type", "missed", "spurious", "boundary"):
        at_once = {n: list_errors(store, run_id, kind=kind, limit=n)[1] for n in (0, 1, 3, 1000)}
        with monkeypatch.context() as narrow:
            narrow.setattr(errors, "FIRST_WINDOW", 1)
            narrow.setattr(errors, "WIDER", 1)
            for n, expected in at_once.items():
                found = list_errors(store, run_id, kind=kind, limit=n)[1]
                assert [row[0] for row in found] == [row[0] for row in expected]
                assert n < 1000 or Counter(found) == Counter(expected)
    assert list_errors(store, "no such run")[1] == []


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cdner.duckdb")


def test_the_leaderboard_shows_labelled_averages_only(store):
    scores = [
        ScoreRow("films", "dev", "strict", name, 3, 2, 1, 0.5, 0.25, f1)
        for name, f1 in (("*", 0.5), ("macro", 0.25), ("actor", 1.0))
    ]
    save_scores(store, "e", scores)
    save_scores(store, "unlabelled", scores)
    label_experiment(store, "demo", [("e", "full")])
    found = rows(store, "SELECT experiment, label, run_id, split, average, f1 FROM leaderboard ORDER BY f1")
    assert found == [("demo", "full", "e", "dev", "macro", 0.25), ("demo", "full", "e", "dev", "micro", 0.5)]


def test_error_proportions_are_shares_of_gold_and_null_without_gold(store):
    errors = [
        ErrorRow("films", "dev", "actor", 8, 4, 1, 2, 9),
        ErrorRow("films", "dev", "misc", 0, 0, 0, 0, 1),
    ]
    save_scores(store, "e", [], errors=errors)
    found = rows(
        store,
        "SELECT missed, boundary, misclassified, total, n_spurious FROM error_proportion ORDER BY entity_type",
    )
    assert found == [(0.5, 0.125, 0.25, 0.75, 9), (None, None, None, None, 1)]


def test_confusion_wide_puts_all_dimensions_of_a_pair_side_by_side(store):
    names = ("u_hie", "u_sim", "u_iml", "v_iml", "v_exl", "v_conf")
    arrays = {
        name: np.full((3, 3), n + 1.0) + np.arange(9).reshape(3, 3) / 10 for n, name in enumerate(names)
    }
    save_confusion(store, "q", [ConfusionMatrix(name, TYPES, array) for name, array in arrays.items()])
    shares = np.arange(9).reshape(3, 3) / 100
    counts = np.zeros((3, 3), dtype=np.int64)
    save_misclassification(
        store, "q", Ratios(TYPES, TYPES, shares, np.full(3, 100), counts, 1 - shares.sum(axis=1))
    )
    save_rivals(
        store, "q", {"director": (("misc", 1.0), ("actor", 0.5)), "actor": (), "misc": (("actor", 1.0),)}
    )
    found = rows(
        store, f"SELECT gold_type, confused_type, r_m, rival_rank, {', '.join(names)} FROM confusion_wide"
    )
    rank = {("director", "misc"): 1, ("director", "actor"): 2, ("misc", "actor"): 1}
    expected = [
        (gold, taken, shares[i, j], rank.get((gold, taken)), *(arrays[name][i, j] for name in names))
        for i, gold in enumerate(TYPES)
        for j, taken in enumerate(TYPES)
        if i != j
    ]
    assert sorted(found) == sorted(expected)


def test_lineage_reaches_every_ancestor_by_its_shortest_way(store):
    source = start_run(store, "import")
    model = start_run(store, "train", source)
    tuned = start_run(store, "train", model, source, seed=1)
    found = rows(
        store,
        "SELECT ancestor_run_id, ancestor_step, depth FROM lineage WHERE run_id = ? ORDER BY depth, 2",
        tuned,
    )
    assert found == [(source, "import", 1), (model, "train", 1)]
    assert rows(store, "SELECT ancestor_run_id FROM lineage WHERE run_id = ?", model) == [(source,)]


def test_the_latest_attempt_of_each_run_is_shown(store):
    run_id = start_run(store, "train")
    finish_attempt(store, f"{run_id}.1", "failed", "no disk")
    start_run(store, "train")
    finish_attempt(store, f"{run_id}.2", "done")
    assert rows(store, "SELECT run_id, attempt_n, status, error, seconds >= 0 FROM latest_attempt") == [
        (run_id, 2, "done", "", True)
    ]
