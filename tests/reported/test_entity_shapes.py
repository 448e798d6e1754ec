"""Kinds of entity lists that LLMs write, each with the entities that are meant; most were read as no entities once."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdner.codec import PLAIN_WIRE, decode
from cdner.reasoning import entities_text
from cdner.reasoning.entity_shapes import by_type
from cdner.types import Sentence

SENTENCE = Sentence(("Ann", "left", "AT&T", "in", "Oslo"))
TYPES = ("PER", "ORG", "LOC")

# kind -> (what stands under "entities", entities found)
KINDS: dict[str, tuple[object, list[str]]] = {
    "the paper's": ({"ORG": ["AT&T"], "PER": ["Ann"]}, ["PER Ann", "ORG AT&T"]),
    "objects in the place of mentions": ({"ORG": [{"text": "AT&T", "start": 9, "end": 13}]}, ["ORG AT&T"]),
    "objects and texts": ({"PER": ["Ann"], "ORG": [{"mention": "AT&T"}, None]}, ["PER Ann", "ORG AT&T"]),
    "one object": ({"ORG": {"name": "AT&T"}, "LOC": "Oslo"}, ["ORG AT&T", "LOC Oslo"]),
    "pairs of entity and type": ([{"entity": "AT&T", "type": "ORG"}], ["ORG AT&T"]),
    "text and label": ([{"text": "Ann", "label": "PER"}, {"text": "Oslo", "label": "LOC"}], ["PER Ann", "LOC Oslo"]),
    "word and entity group": ([{"word": "AT&T", "entity_group": "ORG", "score": 0.9}], ["ORG AT&T"]),
    "word and entity, which is the type": ([{"word": "AT&T", "entity": "ORG"}], ["ORG AT&T"]),
    "capital keys": ([{"Entity": "AT&T", "Type": "ORG"}], ["ORG AT&T"]),
    "an object without a text": ([{"type": "ORG"}, {"text": "Ann", "type": "PER"}], ["PER Ann"]),
    "an empty list": ([], []),
}  # fmt: skip


def found(text: str) -> list[str]:
    entities = decode(entities_text(text), sentence=SENTENCE, types=TYPES, wire=PLAIN_WIRE).entities
    return [f"{one.type} {' '.join(SENTENCE.tokens[one.start : one.end])}" for one in entities]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "frame", ['{{"bidirectional_reasoning": "B.", "entities": {}}}', "Entities:\n```json\n{}\n```", "{}"]
)
def test_entities_are_found_whatever_their_shape(kind: str, frame: str) -> None:
    written, expected = KINDS[kind]
    assert found(frame.format(json.dumps(written))) == expected


def test_an_empty_list_is_the_answer_that_there_are_none() -> None:
    assert entities_text('{"entities": []}') == "{}"


def test_one_value_is_not_both_text_and_type() -> None:
    assert by_type('[{"entity": "ORG"}]') is None


@pytest.mark.parametrize(
    "text", ['{"PER": ["Ann"], "PER": [{"text": "Oslo"}]}', '{"PER": ["Ann"], "ORG": [{"text": "AT']
)
def test_what_is_broken_or_repeated_goes_to_the_tolerant_reader(text: str) -> None:
    assert "PER Ann" in found(text)


@given(st.dictionaries(st.sampled_from(TYPES), st.lists(st.text(min_size=1), max_size=3)))
def test_the_papers_own_form_is_left_as_it_is(entities: dict[str, list[str]]) -> None:
    text = json.dumps(entities, ensure_ascii=False)
    assert "```" in text or entities_text(text) == text.strip()
