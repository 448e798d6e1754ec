"""Samples are the same everywhere, in order, and nested."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdner.corpora.crossner import read_folder
from cdner.corpora.sampling import chosen_positions, sampled_positions, shot_positions
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


def _mentions(corpus: Corpus, positions: Iterable[int]) -> Counter[str]:
    return Counter(entity.type for p in positions for entity in corpus.sentences[p].entities)


@pytest.mark.parametrize(("shots", "fewest", "most"), [(20, 45, 54), (50, 88, 90)])
def test_shots_of_the_ai_corpus_take_as_many_sentences_as_published(
    shared_data: Path, shots: int, fewest: int, most: int
) -> None:
    corpus = read_folder(shared_data / "crossner", domain="ai", split="train")
    everything = _mentions(corpus, range(len(corpus.sentences)))
    sizes = []
    for seed in range(10):
        positions = shot_positions(corpus, shots, seed=seed)
        taken = _mentions(corpus, positions)
        assert all(taken[name] >= min(shots, n) for name, n in everything.items())
        assert positions == sorted(set(positions))
        sizes.append(len(positions))
    assert fewest <= sum(sizes) / len(sizes) <= most  # of other seeds; greedy alone takes 55 and 92
    assert len(set(map(tuple, (shot_positions(corpus, shots, seed=seed) for seed in range(10))))) > 1


def test_a_sentence_that_no_type_needs_is_not_taken() -> None:
    def said(*types: str) -> Sentence:
        return Sentence(("w",) * max(1, len(types)), tuple(Entity(i, i + 1, t) for i, t in enumerate(types)))

    corpus = Corpus("d", "train", (said("a"), said("a", "b"), said(), said("a"), said("c")))
    for seed in range(20):
        assert shot_positions(corpus, 1, seed=seed) == [
            1,
            4,
        ]  # b is rarest with c; its sentence serves a as well


def test_a_sample_is_what_the_run_settings_name() -> None:
    corpus = _corpus(20)
    assert chosen_positions(corpus, 5) == sampled_positions(corpus, 5, seed=0)
    assert chosen_positions(corpus, {"n": 5, "seed": 1}) == sampled_positions(corpus, 5, seed=1)
    by_sentence = {"shots": 5, "unit": "sentence", "seed": 1}
    assert chosen_positions(corpus, by_sentence) == sampled_positions(corpus, 5, seed=1)
    assert chosen_positions(corpus, {"shots": 1, "unit": "mention", "seed": 1}) == list(range(20))
    with pytest.raises(UsageError, match="at least 1"):
        shot_positions(corpus, 0, seed=0)
