"""Samples are the same everywhere, in order, and nested."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdner.corpora.sampling import sampled_positions
from cdner.errors import UsageError
from cdner.types import Corpus, Entity, Sentence


def _corpus(n: int) -> Corpus:
    sentences = tuple(Sentence((f"w{i}",), (Entity(0, 1, f"t{i}"),)) for i in range(n))
    return Corpus("d", "train", sentences, 3, tuple(f"t{i}" for i in range(n)))


def test_a_sample_is_pinned_for_ever() -> None:
    assert sampled_positions(_corpus(20), 5, seed=0) == [4, 7, 9, 15, 18]
    assert sampled_positions(_corpus(20), 5, seed=1) == [4, 7, 8, 11, 17]


def test_zero_and_the_full_number_mean_all() -> None:
    corpus = _corpus(7)
    assert sampled_positions(corpus, 0, seed=4) == list(range(7))
    assert sampled_positions(corpus, 7, seed=4) == list(range(7))


@given(n=st.integers(1, 40), seed=st.integers(0, 10**6), size=st.integers(1, 40))
def test_a_sample_has_its_size_keeps_order_and_lies_within_the_next_larger_one(
    n: int, seed: int, size: int
) -> None:
    size = min(size, n)
    taken = sampled_positions(_corpus(n), size, seed=seed)
    assert len(taken) == size
    assert taken == sorted(set(taken))
    assert set(taken) <= set(sampled_positions(_corpus(n), min(size + 1, n), seed=seed))


def test_every_sentence_has_the_same_chance() -> None:
    n_seeds, times_taken = 3000, [0] * 10
    for seed in range(n_seeds):
        for position in sampled_positions(_corpus(10), 3, seed=seed):
            times_taken[position] += 1
    expected, deviation = n_seeds * 0.3, (n_seeds * 0.3 * 0.7) ** 0.5
    assert all(abs(times - expected) < 4 * deviation for times in times_taken)


@pytest.mark.parametrize("n", [-1, 8])
def test_an_impossible_number_is_refused(n: int) -> None:
    with pytest.raises(UsageError, match="it has 7"):
        sampled_positions(_corpus(7), n, seed=0)
