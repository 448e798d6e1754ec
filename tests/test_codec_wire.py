"""The paper's JSON and its wire forms."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from codec_vocabularies import (
    AWKWARD_TOKENS,
    TYPES,
    byte_level_vocabulary,
    genuine_t5_vocabulary,
    sentences,
    texts,
    unigram_vocabulary,
)
from hypothesis import assume, given

from cdner.codec import PLAIN_WIRE, decode, encode_entities, wire_for
from cdner.errors import InputError, UsageError
from cdner.types import Entity, Sentence, Vocabulary

SENTENCE = Sentence(
    ("Mira", "met", "Mira", "of", "the", 'Harbour"', "List"),
    (Entity(0, 1, "person"), Entity(2, 3, "person"), Entity(5, 7, "political party")),
)
SENTENCE_JSON = r'{"person": ["Mira", "Mira"], "political party": ["Harbour\" List"]}'


def through(vocabulary: Vocabulary, text: str) -> str:
    return vocabulary.decode(vocabulary.encode(text))


def test_encoding_keeps_declared_type_order_and_repeated_mentions() -> None:
    assert encode_entities(SENTENCE, TYPES) == SENTENCE_JSON
    reordered = encode_entities(SENTENCE, ("political party", "programlang", "person"))
    assert reordered == r'{"political party": ["Harbour\" List"], "person": ["Mira", "Mira"]}'


def test_mentions_stand_in_text_order_whatever_the_order_of_entities() -> None:
    sentence = Sentence(("b", "a"), (Entity(1, 2, "person"), Entity(0, 1, "person")))
    assert encode_entities(sentence, TYPES) == '{"person": ["b", "a"]}'


def test_an_undeclared_type_is_named() -> None:
    with pytest.raises(InputError, match="'person' is not one of: band"):
        encode_entities(SENTENCE, ("band",))


def test_a_vocabulary_with_braces_writes_the_papers_json() -> None:
    wire = wire_for(byte_level_vocabulary())
    assert (wire.braces, wire.escapes, wire.angle_brackets) == (True, True, True)
    assert wire.to_wire(SENTENCE_JSON) == SENTENCE_JSON
    assert wire.to_wire("{}") == "{}"


def test_a_vocabulary_without_braces_leaves_them_off_and_softens_quotes() -> None:
    wire = wire_for(unigram_vocabulary())
    assert (wire.braces, wire.escapes, wire.angle_brackets) == (False, False, False)
    assert wire.to_wire(SENTENCE_JSON) == '"person": ["Mira", "Mira"], "political party": ["Harbour\' List"]'
    assert wire.to_wire("{}") == "[]"


def test_the_genuine_t5_vocabulary_gets_the_braceless_form(shared_data: Path) -> None:
    vocabulary = genuine_t5_vocabulary(shared_data)
    wire = wire_for(vocabulary)
    assert (wire.braces, wire.escapes, wire.angle_brackets) == (False, False, False)
    assert [character for character in "{}<>~^\\=" if wire.survives(character)] == [">", "="]
    assert through(vocabulary, wire.to_wire("{}")) == "[]"


def test_the_form_can_be_chosen_but_not_against_the_vocabulary() -> None:
    assert wire_for(byte_level_vocabulary(), form="braceless").to_wire('{"a": ["b"]}') == '"a": ["b"]'
    assert wire_for(byte_level_vocabulary(), form="json").braces
    with pytest.raises(UsageError, match="no braces"):
        wire_for(unigram_vocabulary(), form="json")


def test_a_vocabulary_that_cannot_write_lists_is_refused() -> None:
    class LowerCaseOnly:
        pieces = (None, b"a")
        unknown_id = None
        end_id = 0

        def encode(self, text: str) -> list[int]:
            return [1] * text.count("a")

        def decode(self, ids: list[int]) -> str:
            return "a" * len(ids)

    with pytest.raises(UsageError, match="cannot write"):
        wire_for(LowerCaseOnly())


def test_survival_is_told_by_the_round_trip() -> None:
    wire = wire_for(unigram_vocabulary())
    assert wire.survives("Mira Olsen")
    assert not wire.survives("Łódź")
    assert wire.round_trip("x  \\ y") == "x y"
    assert wire.surface('say "x"') == "say 'x'"


def test_types_that_read_the_same_are_refused() -> None:
    wire = wire_for(unigram_vocabulary())
    assert wire.types_by_surface(["a{b", "c"]) == {"ab": "a{b", "c": "c"}
    with pytest.raises(UsageError, match=r"cannot tell type 'a\}b' from 'a\{b'"):
        wire.types_by_surface(["a{b", "a}b"])


@pytest.mark.parametrize("text", ["", "nothing", "[]", '{"a": "b"}', '{"a": [1]}'])
def test_what_is_not_entities_has_no_wire_form(text: str) -> None:
    with pytest.raises(InputError):
        PLAIN_WIRE.to_wire(text)


@given(sentences(unique=True))
def test_plain_json_gives_back_every_span_of_distinct_tokens(sentence: Sentence) -> None:
    text = encode_entities(sentence, TYPES)
    assert json.loads(text) == json.loads(PLAIN_WIRE.to_wire(text))
    prediction = decode(text, sentence=sentence, types=TYPES, wire=PLAIN_WIRE)
    assert (prediction.entities, prediction.malformed) == (tuple(sorted(sentence.entities)), {})


@pytest.mark.parametrize("form", ["auto", "braceless"])
@given(sentence=sentences(unique=True))
def test_a_byte_level_vocabulary_gives_back_every_span(form: str, sentence: Sentence) -> None:
    vocabulary = byte_level_vocabulary()
    wire = wire_for(vocabulary, form=form)  # type: ignore[arg-type]
    assume(len({wire.surface(token) for token in sentence.tokens}) == len(sentence.tokens))
    generated = through(vocabulary, wire.to_wire(encode_entities(sentence, TYPES)))
    prediction = decode(generated, sentence=sentence, types=TYPES, wire=wire)
    assert (prediction.entities, prediction.malformed) == (tuple(sorted(sentence.entities)), {})


@given(sentences(unique=True))
def test_missing_characters_cost_no_span_where_tokens_stay_distinct(sentence: Sentence) -> None:
    vocabulary = unigram_vocabulary()
    wire = wire_for(vocabulary)
    surfaces = [wire.surface(token) for token in sentence.tokens]
    assume(all(surfaces) and len(set(surfaces)) == len(surfaces))
    generated = through(vocabulary, wire.to_wire(encode_entities(sentence, TYPES)))
    prediction = decode(generated, sentence=sentence, types=TYPES, wire=wire)
    assert (prediction.entities, prediction.malformed) == (tuple(sorted(sentence.entities)), {})


@pytest.mark.parametrize("token", AWKWARD_TOKENS)
def test_one_awkward_token_comes_back_through_t5(token: str, shared_data: Path) -> None:
    vocabulary = genuine_t5_vocabulary(shared_data)
    wire = wire_for(vocabulary)
    sentence = Sentence(("Mira", token, "List"), (Entity(1, 2, "person"), Entity(2, 3, "programlang")))
    generated = through(vocabulary, wire.to_wire(encode_entities(sentence, TYPES)))
    prediction = decode(generated, sentence=sentence, types=TYPES, wire=wire)
    assert texts(sentence, prediction.entities) == texts(sentence, sentence.entities)
    assert prediction.malformed == {}


@given(sentences())
def test_a_runs_surface_is_made_of_its_tokens_surfaces(sentence: Sentence) -> None:
    """What the aligner relies on."""
    for vocabulary in (unigram_vocabulary(), byte_level_vocabulary()):
        wire = wire_for(vocabulary)
        joined = " ".join(filter(None, map(wire.surface, sentence.tokens)))
        assert wire.surface(sentence.text) == joined
