"""R_M (eq. 11) against plain loops; a type without support is zeros and says so."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from random_corpora import domain, paired_corpora

from cdner.confusion.empirical import misclassification_ratio
from cdner.errors import InputError
from cdner.types import Corpus, Entity, Prediction, Sentence

TARGET = domain("random", ("poet", "city", "river"))
DEV = Corpus(
    "random",
    "dev",
    (
        Sentence(("a", "b", "c", "d"), (Entity(0, 1, "poet"), Entity(1, 3, "poet"), Entity(3, 4, "city"))),
        Sentence(("a", "b"), (Entity(0, 1, "poet"), Entity(1, 2, "poet"))),
    ),
)
PREDICTIONS = (
    Prediction("", (Entity(0, 1, "poet"), Entity(1, 3, "city"), Entity(3, 4, "river"))),
    Prediction("", (Entity(0, 1, "city"),)),
)


def test_ratio_by_hand() -> None:
    found = misclassification_ratio(DEV, PREDICTIONS, TARGET)
    assert found.ratio.tolist() == [[0.0, 0.5, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]]
    assert found.counts.tolist() == [[1, 2, 0], [0, 0, 1], [0, 0, 0]]
    assert found.unrecognised.tolist() == [0.25, 0.0, 0.0]


def test_a_type_without_support_is_zeros_and_flagged() -> None:
    found = misclassification_ratio(DEV, PREDICTIONS, TARGET)
    assert found.n_gold.tolist() == [4, 1, 0]
    assert found.unsupported == (False, False, True)
    assert np.isfinite(found.ratio).all()


@given(paired_corpora(TARGET.types, TARGET.types, "dev"))
def test_ratio_equals_the_paper_in_plain_loops(pair: tuple[Corpus, tuple[Prediction, ...]]) -> None:
    corpus, predictions = pair
    found = misclassification_ratio(corpus, predictions, TARGET)
    for i, true in enumerate(TARGET.types):
        golds = [
            (s, e) for s, sentence in enumerate(corpus.sentences) for e in sentence.entities if e.type == true
        ]
        for j, taken in enumerate(TARGET.types):
            hits = [e for s, e in golds if Entity(e.start, e.end, taken) in predictions[s].entities]
            expected = len(hits) / len(golds) if golds and i != j else 0.0
            assert found.ratio[i, j] == expected


def test_the_matrix_is_named_after_the_paper() -> None:
    found = misclassification_ratio(DEV, PREDICTIONS, TARGET).as_matrix()
    assert (found.dimension, found.types) == ("R_M", TARGET.types)
    assert found.scores[1, 2] == 1.0


def test_a_test_split_is_refused() -> None:
    with pytest.raises(InputError, match="test split"):
        misclassification_ratio(Corpus("random", "test", DEV.sentences), PREDICTIONS, TARGET)
