"""Tags to spans and back: seqeval as oracle, the lenient rules by hand."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from seqeval.metrics.sequence_labeling import get_entities
from seqeval.scheme import IOB2, IOBES, Entities

from cdner.spans import bio_to_entities, entities_to_bio, index_by_span
from cdner.types import Entity

TYPES = ("person", "award-winner", "I")  # a hyphen inside, and a name that is itself a prefix


@st.composite
def sentences(draw: st.DrawFn) -> tuple[int, list[Entity]]:
    """A number of tokens and sorted, disjoint entities in them, also adjacent ones of one type."""
    entities: list[Entity] = []
    position = 0
    for _ in range(draw(st.integers(0, 5))):
        start = position + draw(st.integers(0, 2))
        position = start + draw(st.integers(1, 4))
        entities.append(Entity(start, position, draw(st.sampled_from(TYPES))))
    return position + draw(st.integers(0, 2)), entities


TAGS = st.lists(
    st.sampled_from(["O", *(f"{prefix}-{name}" for prefix in "BIES" for name in ("x", "y"))]), max_size=12
)


def _bioes(n_tokens: int, entities: list[Entity]) -> list[str]:
    """Written here from the scheme's definition; cdner itself never writes BIOES."""
    tags = ["O"] * n_tokens
    for entity in entities:
        length = entity.end - entity.start
        prefixes = "S" if length == 1 else "B" + "I" * (length - 2) + "E"
        tags[entity.start : entity.end] = [f"{prefix}-{entity.type}" for prefix in prefixes]
    return tags


def _iob1(n_tokens: int, entities: list[Entity]) -> list[str]:
    """I- everywhere, but B- for an entity directly behind one of its own type."""
    tags = ["O"] * n_tokens
    for before, entity in zip([None, *entities], entities, strict=False):
        tags[entity.start : entity.end] = [f"I-{entity.type}"] * (entity.end - entity.start)
        if before and before.end == entity.start and before.type == entity.type:
            tags[entity.start] = f"B-{entity.type}"
    return tags


def _seqeval(tags: list[str]) -> tuple[Entity, ...]:
    return tuple(Entity(start, last + 1, name) for name, start, last in get_entities(tags))


# --- the schemes ------------------------------------------------------------------------------------------


@settings(max_examples=80)
@given(sentences())
def test_entities_survive_bio_and_back(sentence: tuple[int, list[Entity]]) -> None:
    n_tokens, entities = sentence
    tags = entities_to_bio(n_tokens, entities)
    assert len(tags) == n_tokens
    assert bio_to_entities(tags) == (tuple(entities), 0)


@settings(max_examples=80)
@given(sentences())
def test_written_bio_means_the_same_to_seqeval(sentence: tuple[int, list[Entity]]) -> None:
    n_tokens, entities = sentence
    tags = entities_to_bio(n_tokens, entities)
    assert _seqeval(tags) == tuple(entities)
    strict = Entities([tags], scheme=IOB2).entities[0]
    assert [Entity(found.start, found.end, found.tag) for found in strict] == entities


@settings(max_examples=80)
@given(sentences())
def test_bioes_is_read_as_seqeval_reads_it(sentence: tuple[int, list[Entity]]) -> None:
    n_tokens, entities = sentence
    tags = _bioes(n_tokens, entities)
    strict = Entities([tags], scheme=IOBES).entities[0]
    assert [Entity(found.start, found.end, found.tag) for found in strict] == entities
    assert bio_to_entities(tags) == (_seqeval(tags), 0) == (tuple(entities), 0)


@settings(max_examples=80)
@given(sentences())
def test_iob1_gives_the_same_entities_and_counts_its_starts(sentence: tuple[int, list[Entity]]) -> None:
    n_tokens, entities = sentence
    tags = _iob1(n_tokens, entities)
    n_starts = len(entities) - sum(tag[0] == "B" for tag in tags)
    assert bio_to_entities(tags) == (tuple(entities), n_starts)


@settings(max_examples=200)
@given(TAGS)
def test_any_mixture_of_tags_is_read_as_seqeval_reads_it(tags: list[str]) -> None:
    assert bio_to_entities(tags)[0] == _seqeval(tags)


@settings(max_examples=200)
@given(TAGS)
def test_entities_are_sorted_disjoint_and_cover_exactly_the_tagged_tokens(tags: list[str]) -> None:
    entities, _ = bio_to_entities(tags)
    covered = [position for entity in entities for position in range(entity.start, entity.end)]
    assert covered == [position for position, tag in enumerate(tags) if tag != "O"]
    assert all(
        tags[position][2:] == entity.type
        for entity in entities
        for position in range(entity.start, entity.end)
    )


@settings(max_examples=200)
@given(TAGS)
def test_orphans_are_the_continuations_that_follow_nothing_open(tags: list[str]) -> None:
    n_orphans = 0
    for position, tag in enumerate(tags):
        before = tags[position - 1] if position else "O"
        open_before = before[0] in "BI" and before[1:] == tag[1:]
        if tag[0] in "IE" and not open_before:
            n_orphans += 1
    assert bio_to_entities(tags)[1] == n_orphans


# --- by hand ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tags", "entities", "n_orphans"),
    [
        ("", [], 0),
        ("O O", [], 0),
        ("B-x B-x", [(0, 1, "x"), (1, 2, "x")], 0),
        ("B-x I-y", [(0, 1, "x"), (1, 2, "y")], 1),  # I- of another type right behind an entity
        ("B-x I-y I-y I-x", [(0, 1, "x"), (1, 3, "y"), (3, 4, "x")], 2),
        ("O I-x I-x", [(1, 3, "x")], 1),
        ("O E-x", [(1, 2, "x")], 1),  # E- alone is a whole entity
        ("B-x E-y", [(0, 1, "x"), (1, 2, "y")], 1),
        ("B-x E-x E-x", [(0, 2, "x"), (2, 3, "x")], 1),  # nothing is open behind E-
        ("B-x E-x I-x", [(0, 2, "x"), (2, 3, "x")], 1),
        ("S-x I-x", [(0, 1, "x"), (1, 2, "x")], 1),  # nor behind S-
        ("B-x S-x", [(0, 1, "x"), (1, 2, "x")], 0),  # S- closes what is open
        ("B-x I-x S-y O", [(0, 2, "x"), (2, 3, "y")], 0),
        ("I-x O I-x", [(0, 1, "x"), (2, 3, "x")], 2),
        ("B-x I-x", [(0, 2, "x")], 0),  # open at the end of the sentence
    ],
)
def test_tags_by_hand(tags: str, entities: list[tuple[int, int, str]], n_orphans: int) -> None:
    assert bio_to_entities(tags.split()) == (tuple(Entity(*entity) for entity in entities), n_orphans)


def test_type_may_hold_hyphens() -> None:
    assert bio_to_entities(["B-award-winner", "I-award-winner"]) == ((Entity(0, 2, "award-winner"),), 0)


@pytest.mark.parametrize(
    "tag", ["", "-", "-x", "B", "B-", "x", "b-x", "L-x", "U-x", "BI-x", "O-x", "IE-x", "B_x"]
)
def test_any_other_tag_is_refused_with_its_position(tag: str) -> None:
    with pytest.raises(ValueError, match="at position 1 is neither O nor"):
        bio_to_entities(["O", tag])


@pytest.mark.parametrize("span", [(-1, 1), (0, 0), (2, 1), (1, 4), (3, 4)])
def test_entity_outside_the_sentence_or_empty_is_refused(span: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="does not fit 3 tokens"):
        entities_to_bio(3, [Entity(*span, "x")])


@pytest.mark.parametrize("second", [(0, 2), (1, 3), (0, 1), (1, 2)])
def test_overlapping_entities_are_refused(second: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="overlaps another entity"):
        entities_to_bio(3, [Entity(0, 2, "x"), Entity(*second, "y")])


def test_order_of_entities_does_not_change_their_tags() -> None:
    entities = [Entity(2, 3, "y"), Entity(0, 2, "x")]
    assert entities_to_bio(3, entities) == entities_to_bio(3, entities[::-1]) == ["B-x", "I-x", "B-y"]


def test_index_finds_the_type_by_exact_span_only() -> None:
    index = index_by_span([Entity(0, 2, "x"), Entity(2, 3, "y")])
    assert index == {(0, 2): "x", (2, 3): "y"}
    assert (0, 1) not in index
