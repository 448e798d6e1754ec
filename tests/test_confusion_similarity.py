"""u_sim (eq. 8) against the formula in plain loops; zero vectors and extreme lengths have defined results."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cdner.confusion.similarity import u_sim
from cdner.errors import InputError

TYPES = ("poet", "city", "river")
VECTORS = arrays(np.float64, (3, 4), elements=st.floats(-100, 100).map(lambda x: round(x, 3)))


def _cosine(a: list[float], b: list[float]) -> float:
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    lengths = math.sqrt(sum(x * x for x in a)) * math.sqrt(sum(y * y for y in b))
    return dot / lengths if lengths else 0.0


@given(VECTORS)
def test_scores_equal_the_paper_in_plain_loops(vectors: np.ndarray) -> None:
    found = u_sim(vectors, types=TYPES).scores
    for i in range(3):
        for j in range(3):
            expected = _cosine(vectors[i].tolist(), vectors[j].tolist()) if i != j else 0.0
            assert found[i, j] == pytest.approx(expected, abs=1e-9)


@given(VECTORS)
def test_scores_are_symmetric_and_between_minus_one_and_one(vectors: np.ndarray) -> None:
    found = u_sim(vectors, types=TYPES).scores
    assert (found == found.T).all()
    assert np.abs(found).max() <= 1.0


def test_a_zero_vector_is_similar_to_nothing() -> None:
    found = u_sim(np.array([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]]), types=TYPES).scores
    assert found[0].tolist() == [0.0, 0.0, 0.0]
    assert found[1, 2] == pytest.approx(1.0)


@pytest.mark.parametrize("length", [1e-200, 1e200])
def test_vectors_whose_squares_leave_the_range_of_floats_keep_their_angle(length: float) -> None:
    found = u_sim(np.array([[length, 0.0], [1.0, 1.0], [0.0, length]]), types=TYPES).scores
    assert found[0, 1] == pytest.approx(math.sqrt(0.5))
    assert found[0, 2] == 0.0


def test_float32_embeddings_are_measured_in_float64() -> None:
    vectors = np.random.default_rng(0).normal(size=(3, 16)).astype(np.float32)
    found = u_sim(vectors, types=TYPES).scores
    assert found.dtype == np.float64
    assert found[0, 1] == pytest.approx(_cosine(vectors[0].tolist(), vectors[1].tolist()), abs=1e-12)


def test_a_missing_embedding_is_refused() -> None:
    with pytest.raises(InputError, match=r"shape \(2, 4\), expected \(3, d\)"):
        u_sim(np.ones((2, 4)), types=TYPES)


def test_nan_is_refused() -> None:
    with pytest.raises(InputError, match="NaN"):
        u_sim(np.array([[np.nan], [1.0], [1.0]]), types=TYPES)


def test_dimension_measures_the_description_embeddings() -> None:
    vectors = np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    found = u_sim(vectors, types=TYPES)
    assert found.dimension == "u_sim"
    assert found.scores[0] == pytest.approx([0.0, math.sqrt(0.5), 0.0])
