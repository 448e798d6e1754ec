"""Descriptions, ratios, confusion, rivals and scores come out of the store as they went in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cdner.errors import StoreError
from cdner.store import Store
from cdner.store.confusion import (
    Hierarchy,
    Ratios,
    TypeDescription,
    load_confusion,
    load_descriptions,
    load_embeddings,
    load_hierarchy,
    load_misclassification,
    load_rivals,
    save_confusion,
    save_descriptions,
    save_embeddings,
    save_hierarchy,
    save_misclassification,
    save_rivals,
)
from cdner.store.scores import ErrorRow, ScoreRow, load_errors, load_scores, save_scores
from cdner.types import ConfusionMatrix

TYPES = ("director", "actor", "misc")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cdner.duckdb")


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
