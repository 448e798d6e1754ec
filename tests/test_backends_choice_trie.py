"""The trie of choices against a twin that follows the rule word by word."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdner.llm.choice_trie import LEAST_LEFT, ChoiceTrie, n_common

N_TOKENS = 4
Path = tuple[int, ...]
# Few tokens, so that beginnings are shared and some choices are the beginning of others.
sequences = st.lists(
    st.lists(st.integers(0, N_TOKENS - 1), min_size=1, max_size=5).map(tuple),
    min_size=1,
    max_size=8,
    unique=True,
)


def model(path: Path, seed: int) -> list[float]:
    """Some language model: a distribution over the tokens and one more, by the path alone."""
    chance = random.Random(f"{seed}:{path}")
    weights = [chance.random() ** 4 + 1e-9 for _ in range(N_TOKENS + 1)]
    return [weight / sum(weights) for weight in weights]


def slow_twin(choices: Sequence[Path], seed: int) -> list[float]:
    """Walk each choice token by token until no other choice has the same beginning."""
    found = []
    for choice in choices:
        others = [other for other in choices if other != choice]
        probability, n = 1.0, 0
        while n < len(choice) and any(other[:n] == choice[:n] for other in others):
            probability *= model(choice[:n], seed)[choice[n]]
            n += 1
        longer = {other[n] for other in others if n == len(choice) and other[:n] == choice}
        left = 1.0 - sum(model(choice, seed)[token] for token in longer)
        found.append(math.log(probability * left))
    return found


def read(trie: ChoiceTrie, seed: int) -> Mapping[Path, Mapping[int, float]]:
    return {
        path: {token: math.log(model(path, seed)[token]) for token in tokens}
        for path, tokens in trie.asked.items()
    }


@given(sequences, st.integers(0, 999))
def test_it_equals_the_walk_token_by_token(choices: list[Path], seed: int) -> None:
    trie = ChoiceTrie(choices)
    assert trie.log_probs(read(trie, seed)) == pytest.approx(slow_twin(choices, seed), abs=1e-9)


@given(sequences, st.integers(0, 999))
def test_choices_are_exclusive(choices: list[Path], seed: int) -> None:
    trie = ChoiceTrie(choices)
    assert sum(math.exp(value) for value in trie.log_probs(read(trie, seed))) <= 1 + 1e-9


@given(sequences)
def test_no_distribution_is_asked_behind_the_last_difference(choices: list[Path]) -> None:
    for path in ChoiceTrie(choices).asked:
        assert sum(choice[: len(path)] == path for choice in choices) > 1


def test_what_follows_a_unique_token_is_not_read() -> None:
    trie = ChoiceTrie([(1, 2, 3), (4, 5)])
    assert trie.asked == {(): (1, 4)}
    assert trie.log_probs({(): {1: -0.5, 4: -1.5}}) == (-0.5, -1.5)


def test_a_beginning_of_others_keeps_what_they_leave() -> None:
    trie = ChoiceTrie([(1,), (1, 2), (1, 3, 4), (5,)])
    assert trie.asked == {(): (1, 5), (1,): (2, 3)}
    known = {(): {1: math.log(0.5), 5: math.log(0.25)}, (1,): {2: math.log(0.5), 3: math.log(0.125)}}
    expected = [0.5 * 0.375, 0.5 * 0.5, 0.5 * 0.125, 0.25]
    assert [math.exp(value) for value in trie.log_probs(known)] == pytest.approx(expected)


def test_rounding_never_leaves_less_than_nothing() -> None:
    trie = ChoiceTrie([(1,), (1, 2)])
    assert trie.log_probs({(): {1: 0.0}, (1,): {2: 1e-9}})[0] == math.log(LEAST_LEFT)


def test_a_single_choice_needs_no_distribution() -> None:
    trie = ChoiceTrie([(7, 8)])
    assert trie.asked == {} and trie.log_probs({}) == (0.0,)


def test_two_choices_of_the_same_tokens_cannot_be_told_apart() -> None:
    with pytest.raises(ValueError, match="same tokens"):
        ChoiceTrie([(1, 2), (3,), (1, 2)])


def test_common_beginnings_are_counted() -> None:
    assert [n_common(*pair) for pair in (((1, 2), (1, 2, 3)), ((1, 2), (2, 2)), ((), (1,)))] == [2, 0, 0]
