"""Mentions back to token spans."""

from __future__ import annotations

from itertools import product

import pytest
from codec_vocabularies import TYPES, sentences, unigram_vocabulary
from hypothesis import given
from hypothesis import strategies as st

from cdner.codec import PLAIN_WIRE, wire_for
from cdner.codec.align import Mention, SentenceIndex, Span, align
from cdner.types import Entity, Sentence


def aligned(text: str, *mentions: tuple[str, str]) -> list[tuple[int, int, str]]:
    index = SentenceIndex(Sentence(tuple(text.split())), PLAIN_WIRE)
    found = align([Mention(*mention) for mention in mentions], index).entities
    return [(entity.start, entity.end, entity.type) for entity in found]


def test_a_mention_inside_a_longer_one_takes_the_free_occurrence() -> None:
    """The bare name comes first in the output, and first in the sentence inside the longer mention."""
    found = aligned("the Corvid Society likes Corvid", ("lang", "Corvid"), ("club", "Corvid Society"))
    assert found == [(1, 3, "club"), (4, 5, "lang")]


def test_text_order_inside_a_type_decides_between_occurrences() -> None:
    assert aligned("Tin and Ada and Tin", ("a", "Ada"), ("a", "Tin")) == [(2, 3, "a"), (4, 5, "a")]


def test_one_surface_under_two_types_is_given_to_two_places() -> None:
    assert aligned("Tin is Tin", ("a", "Tin"), ("b", "Tin")) == [(0, 1, "a"), (2, 3, "b")]


def test_longer_mentions_are_further_left_where_all_else_is_equal() -> None:
    found = aligned("New Vanter List in New Vanter List", ("a", "New Vanter"), ("b", "New Vanter List"))
    assert found == [(0, 3, "b"), (4, 6, "a")]


def test_only_whole_tokens_are_covered() -> None:
    assert aligned("Corvidae Corvi d", ("a", "Corvid"), ("a", "Corvi"), ("a", "i d")) == [(1, 2, "a")]


def test_out_of_order_mentions_are_still_placed() -> None:
    assert aligned("Tin and Ada", ("a", "Ada"), ("a", "Tin")) == [(0, 1, "a"), (2, 3, "a")]


def test_where_not_all_fit_the_longest_is_kept() -> None:
    index = SentenceIndex(Sentence(("Corvid", "Society")), PLAIN_WIRE)
    alignment = align([Mention("a", "Corvid"), Mention("b", "Corvid Society")], index)
    assert alignment.entities == (Entity(0, 2, "b"),)
    assert (alignment.n_ungrounded, alignment.n_excess, alignment.n_overlapping) == (0, 0, 1)


def test_mentions_of_missing_characters_come_back() -> None:
    wire = wire_for(unigram_vocabulary())
    index = SentenceIndex(Sentence(("x", "{", "Łódź", "漢字", "y\\z", "}")), wire)
    assert index.occurrences(wire.surface("Łódź")) == ((2, 3),)
    assert index.occurrences(wire.surface("y\\z")) == ((4, 5),)
    assert index.occurrences(wire.surface("Łódź 漢字 y\\z")) == ((2, 5),)
    assert index.occurrences(wire.surface("漢字")) == (
        (1, 2),
        (3, 4),
        (5, 6),
    )  # nothing is left of any of these


@given(sentences(plain=True), st.data())
def test_occurrences_equal_a_comparison_with_every_token_run(sentence: Sentence, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(sentence.tokens) - 1))
    end = data.draw(st.integers(start + 1, len(sentence.tokens)))
    wanted = sentence.tokens[start:end]
    slow = [
        (i, i + len(wanted))
        for i in range(len(sentence.tokens))
        if sentence.tokens[i : i + len(wanted)] == wanted
    ]
    assert SentenceIndex(sentence, PLAIN_WIRE).occurrences(" ".join(wanted)) == tuple(slow)


def _cheapest(mentions: list[Mention], options: list[tuple[Span, ...]]) -> int | None:
    """Slow twin: every choice of occurrences; disjoint, in order inside a type; smallest covered sum."""
    costs = []
    for spans in product(*options):
        covered = [token for start, end in spans for token in range(start, end)]
        disjoint = len(covered) == len(set(covered))
        pairs = list(zip(mentions, spans, strict=True))
        ordered = all(
            left[1] <= right[0]
            for i, (a, left) in enumerate(pairs)
            for b, right in pairs[i + 1 :]
            if a.type == b.type
        )
        if disjoint and ordered:
            costs.append(sum(covered))
    return min(costs, default=None)


@given(
    st.lists(st.sampled_from("ab"), min_size=1, max_size=7),
    st.lists(st.sampled_from(["a", "b", "a b", "b a", "a a"]), min_size=1, max_size=4),
    st.integers(0, 4),
)
def test_the_search_finds_the_cheapest_of_all_placements(
    tokens: list[str], words: list[str], cut: int
) -> None:
    mentions = [Mention(TYPES[0] if i < cut else TYPES[1], word) for i, word in enumerate(words)]
    index = SentenceIndex(Sentence(tuple(tokens)), PLAIN_WIRE)
    options = [index.occurrences(word) for word in words]
    alignment = align(mentions, index)
    cheapest = _cheapest(mentions, options)
    if cheapest is not None:
        covered = [t for entity in alignment.entities for t in range(entity.start, entity.end)]
        assert (sum(covered), len(alignment.entities)) == (cheapest, len(mentions))
    lost = alignment.n_ungrounded + alignment.n_excess + alignment.n_overlapping
    assert len(alignment.entities) + lost == len(mentions)


@pytest.mark.parametrize("n_tokens", [80, 400])
def test_a_sentence_of_one_repeated_word_is_no_trouble(n_tokens: int) -> None:
    index = SentenceIndex(Sentence(("a",) * n_tokens), PLAIN_WIRE)
    mentions = [Mention("x", "a")] * (n_tokens // 2) + [Mention("y", "a")] * (n_tokens // 2)
    assert len(align(mentions, index).entities) == n_tokens
