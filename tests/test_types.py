"""The nouns: frozen, slotted, numpy only; the one that checks itself does so."""

from __future__ import annotations

import ast
import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest

from cdner import types
from cdner.types import (
    ConfusionMatrix,
    Corpus,
    Domain,
    Entity,
    Prediction,
    ReasoningChain,
    Sentence,
    TypeEntry,
)

NOUNS = [
    kind
    for kind in vars(types).values()
    if isinstance(kind, type) and dataclasses.is_dataclass(kind) and kind.__module__ == types.__name__
]


@pytest.mark.parametrize("noun", NOUNS, ids=lambda noun: noun.__name__)
def test_every_noun_is_frozen_and_slotted(noun: type) -> None:
    assert noun.__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert "__slots__" in vars(noun)


def test_the_nouns_are_found() -> None:
    assert {Entity, Sentence, Corpus, ConfusionMatrix} <= set(NOUNS)
    assert len(NOUNS) >= 18


def test_module_depends_on_numpy_and_the_standard_library_only() -> None:
    tree = ast.parse(Path(types.__file__).read_text(encoding="utf-8"))
    imported = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    imported |= {
        alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
    }
    foreign = {name.partition(".")[0] for name in imported} - sys.stdlib_module_names
    assert foreign == {"numpy"}


# --- ConfusionMatrix --------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_types", [0, 1, 3])
def test_square_matrix_of_its_types_is_accepted(n_types: int) -> None:
    names = tuple(f"type {i}" for i in range(n_types))
    assert ConfusionMatrix("u_sim", names, np.zeros((n_types, n_types))).types == names


@pytest.mark.parametrize("shape", [(2,), (2, 3), (3, 2), (3, 3), (1, 2, 2), ()])
def test_matrix_of_another_shape_is_refused_by_name(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"u_hie: scores have shape .*expected \(2, 2\)"):
        ConfusionMatrix("u_hie", ("a", "b"), np.zeros(shape))


@pytest.mark.parametrize("score", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("cell", [(0, 0), (0, 1), (1, 1)])
def test_matrix_with_a_score_that_is_no_number_is_refused(score: float, cell: tuple[int, int]) -> None:
    scores = np.zeros((2, 2))
    scores[cell] = score
    with pytest.raises(ValueError, match="v_conf: scores must be finite"):
        ConfusionMatrix("v_conf", ("a", "b"), scores)


def test_matrix_takes_no_other_scores_later() -> None:
    matrix = ConfusionMatrix("R_M", ("a",), np.zeros((1, 1)))
    with pytest.raises(dataclasses.FrozenInstanceError):
        matrix.scores = np.ones((1, 1))  # type: ignore[misc]


# --- the others -------------------------------------------------------------------------------------------


def test_text_of_a_sentence_is_its_tokens_joined_by_single_spaces() -> None:
    assert Sentence(("New", "York\u00a0City", ".")).text == "New York\u00a0City ."
    assert Sentence(()).text == ""


def test_types_of_a_domain_keep_the_declared_order() -> None:
    entries = tuple(TypeEntry(name, name, name, "", "", "") for name in ("writer", "award", "book"))
    assert Domain("literature", "target", entries).types == ("writer", "award", "book")


def test_entities_sort_by_place_before_type() -> None:
    entities = [Entity(2, 3, "a"), Entity(0, 2, "b"), Entity(0, 1, "c"), Entity(0, 2, "a")]
    assert sorted(entities) == [Entity(0, 1, "c"), Entity(0, 2, "a"), Entity(0, 2, "b"), Entity(2, 3, "a")]


def test_equal_sentences_are_one_key() -> None:
    one, other = (Sentence(("a",), (Entity(0, 1, "x"),)) for _ in range(2))
    assert one is not other
    assert len({one, other}) == 1


def test_counts_of_malformed_output_are_not_shared_between_objects() -> None:
    assert Prediction("", ()).malformed is not Prediction("", ()).malformed
    assert ReasoningChain("", "").malformed == {}
