"""Fusion (eq. 9-14) and rivals, against the paper in plain loops and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cdner import config
from cdner.confusion.mcqm import ConfusionScores, fuse, rivals
from cdner.errors import InputError, UsageError
from cdner.types import ConfusionMatrix

PAPER = config.Confusion()
ADAPTIVE = config.Confusion(rivals="adaptive")
SCORES = st.integers(1, 6).flatmap(
    lambda k: st.tuples(*(arrays(np.float64, (k, k), elements=st.floats(low, 1)) for low in (0, -1, 0)))
)


def _types(k: int) -> tuple[str, ...]:
    return tuple(f"t{i}" for i in range(k))


def _matrix(name: str, scores: np.ndarray) -> ConfusionMatrix:
    return ConfusionMatrix(name, _types(len(scores)), scores)


def _fused(
    hierarchical: np.ndarray, semantic: np.ndarray, observed: np.ndarray, settings: config.Confusion = PAPER
) -> ConfusionScores:
    return fuse(
        _matrix("u_hie", hierarchical), _matrix("u_sim", semantic), _matrix("R_M", observed), settings
    )


@given(SCORES)
def test_fusion_equals_the_paper_in_plain_loops(inputs: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    hierarchical, semantic, observed = inputs
    settings = config.Confusion(alpha=0.7, beta=0.2, w0=3.0)
    found = _fused(*inputs, settings)
    k = len(hierarchical)
    for i in range(k):
        for j in range(k):
            if i == j:
                assert all(
                    matrix.scores[i, i] == 0
                    for matrix in (found.u_iml, found.v_iml, found.v_exl, found.v_conf)
                )
                continue
            mixed = {m: 0.7 * hierarchical[i, m] + 0.2 * semantic[i, m] for m in range(k) if m != i}
            implicit = math.exp(3.0 * mixed[j]) / sum(math.exp(3.0 * u) for u in mixed.values())
            explicit = math.exp(3.0 * observed[i, j]) / sum(math.exp(3.0 * observed[i, m]) for m in mixed)
            assert found.u_iml.scores[i, j] == pytest.approx(mixed[j])
            assert found.v_iml.scores[i, j] == pytest.approx(implicit)
            assert found.v_exl.scores[i, j] == pytest.approx(explicit)
            assert found.v_conf.scores[i, j] == pytest.approx(implicit + explicit)


@given(SCORES)
def test_rows_sum_to_one_one_and_two(inputs: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    found = _fused(*inputs)
    alone = len(found.v_conf.types) == 1
    for matrix, total in ((found.v_iml, 1), (found.v_exl, 1), (found.v_conf, 2)):
        assert matrix.scores.sum(axis=1) == pytest.approx(np.full(len(matrix.types), 0 if alone else total))


@given(SCORES)
def test_most_confused_is_the_first_largest_other_type(
    inputs: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    found = _fused(*inputs)
    types = found.v_conf.types
    for i, name in enumerate(found.most_confused):
        others = [j for j in range(len(types)) if j != i]
        if not others:
            assert name is None
            continue
        row = found.v_conf.scores[i]
        chosen = types.index(name)
        assert chosen in others
        assert row[chosen] >= max(row[j] for j in others) - 1e-11
        assert all(row[j] < row[chosen] for j in others if j < chosen)


def test_numbers_by_hand() -> None:
    hierarchical = np.array([[0.0, 0.8, 0.2], [0.5, 0.0, 0.5], [0.0, 0.0, 0.0]])
    semantic = np.array([[0.0, 0.4, 0.8], [0.4, 0.0, 0.6], [0.8, 0.6, 0.0]])
    observed = np.array([[0.0, 0.0, 0.2], [0.1, 0.0, 0.0], [0.0, 0.0, 0.0]])
    found = _fused(hierarchical, semantic, observed)
    # row 0: exp(1.5) / (exp(1.5) + exp(1.25)) = 0.56218; exp(0) / (exp(0) + exp(0.5)) = 0.37754
    assert found.u_iml.scores[0] == pytest.approx([0, 0.6, 0.5])
    assert found.v_iml.scores[0] == pytest.approx([0, 0.56218, 0.43782], abs=1e-5)
    assert found.v_exl.scores[0] == pytest.approx([0, 0.37754, 0.62246], abs=1e-5)
    assert found.v_conf.scores[0] == pytest.approx([0, 0.93972, 1.06028], abs=1e-5)
    assert found.most_confused == ("t2", "t0", "t0")


def test_a_tie_goes_to_the_earlier_type() -> None:
    flat = np.zeros((4, 4))
    assert _fused(flat, flat, flat).most_confused == ("t1", "t0", "t0", "t0")


def test_a_difference_in_the_last_digit_is_a_tie() -> None:
    semantic = np.full((3, 3), 0.3)
    semantic[0, 2] += 1e-13
    flat = np.zeros((3, 3))
    found = _fused(flat, semantic, flat)
    assert found.v_conf.scores[0, 2] > found.v_conf.scores[0, 1]
    assert found.most_confused[0] == "t1"


def test_diagonals_of_the_inputs_change_nothing() -> None:
    rng = np.random.default_rng(1)
    inputs = [rng.random((4, 4)) for _ in range(3)]
    other = [matrix + 50 * np.eye(4) for matrix in inputs]
    assert np.array_equal(_fused(*inputs).v_conf.scores, _fused(*other).v_conf.scores)


def test_one_type_has_no_rival() -> None:
    one = np.array([[0.7]])
    found = _fused(one, one, one)
    assert found.v_conf.scores.tolist() == [[0.0]]
    assert found.most_confused == (None,)
    assert rivals(found.v_conf, PAPER) == ((),)
    assert rivals(found.v_conf, ADAPTIVE) == ((),)


def test_of_two_types_the_other_gets_everything() -> None:
    found = _fused(*(np.random.default_rng(2).random((2, 2)) for _ in range(3)))
    assert found.v_conf.scores.tolist() == [[0.0, 2.0], [2.0, 0.0]]
    assert found.most_confused == ("t1", "t0")


@pytest.mark.parametrize("w0", [1e-300, 1e4, 1e300])
@pytest.mark.filterwarnings("error")
def test_softmax_stays_finite_for_any_temperature(w0: float) -> None:
    rng = np.random.default_rng(3)
    found = _fused(*(rng.random((5, 5)) for _ in range(3)), config.Confusion(w0=w0))
    assert found.v_conf.scores.sum(axis=1) == pytest.approx(np.full(5, 2.0))


def test_weights_that_overflow_are_a_usage_error() -> None:
    ones = np.ones((3, 3))
    with pytest.raises(UsageError, match="alpha = 1e\\+308"):
        _fused(ones, ones, ones, config.Confusion(alpha=1e308, beta=1e308))


def test_dimensions_over_different_types_are_refused() -> None:
    two, three = _matrix("u_hie", np.zeros((2, 2))), _matrix("u_sim", np.zeros((3, 3)))
    with pytest.raises(InputError, match="different types"):
        fuse(two, three, two, PAPER)


# --- rivals -----------------------------------------------------------------------------------------------


def _v_conf(*rows: list[float]) -> ConfusionMatrix:
    return _matrix("v_conf", np.array(rows))


PEAKED = _v_conf([0, 1.0, 0.2, 0.8], [0.5, 0, 0.5, 1.0], [2 / 3, 2 / 3, 0, 2 / 3], [0.6, 0.7, 0.7, 0])


def test_top1_names_one_rival_per_type_with_its_score() -> None:
    assert rivals(PEAKED, PAPER) == ((("t1", 1.0),), (("t3", 1.0),), (("t0", 2 / 3),), (("t1", 0.7),))


def test_adaptive_keeps_all_above_the_margin_and_none_of_a_flat_row() -> None:
    # level 2/3, threshold 0.8333 at margin 0.25 and 0.7333 at 0.1
    assert rivals(PEAKED, ADAPTIVE) == ((("t1", 1.0),), (("t3", 1.0),), (), ())
    wide = config.Confusion(rivals="adaptive", margin=0.1)
    assert rivals(PEAKED, wide) == ((("t1", 1.0), ("t3", 0.8)), (("t3", 1.0),), (), ())


def test_adaptive_without_margin_still_drops_a_flat_row() -> None:
    assert rivals(PEAKED, config.Confusion(rivals="adaptive", margin=0.0))[2] == ()


def test_rounding_errors_do_not_make_a_flat_row_adaptive() -> None:
    noisy = _v_conf([0, 1.0, 1.0 + 1e-15], [1.0, 0, 1.0], [1.0, 1.0, 0])
    assert rivals(noisy, config.Confusion(rivals="adaptive", margin=0.0)) == ((), (), ())


def test_adaptive_says_nothing_of_two_types() -> None:
    assert rivals(_v_conf([0, 2.0], [2.0, 0]), ADAPTIVE) == ((), ())
