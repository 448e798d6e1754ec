"""Tolerant, counted decoding: never an exception, never a silent loss."""

from __future__ import annotations

import json
import time
from itertools import pairwise

import pytest
from codec_vocabularies import TYPES, byte_level_vocabulary, sentences, texts, unigram_vocabulary
from hypothesis import given
from hypothesis import strategies as st

from cdner.codec import PLAIN_WIRE, decode, encode_entities, wire_for
from cdner.codec.decode import MALFORMED_KINDS
from cdner.types import Entity, Prediction, Sentence

SENTENCE = Sentence(("Mira", "Olsen", "met", "Tomas", "and", "Mira", "Olsen", "of", "the", "Harbour", "List"))
BRACELESS = wire_for(unigram_vocabulary())


def read(generated: str) -> Prediction:
    return decode(generated, sentence=SENTENCE, types=TYPES, wire=PLAIN_WIRE)


def read_braceless(generated: str) -> Prediction:
    return decode(generated, sentence=SENTENCE, types=TYPES, wire=BRACELESS)


@pytest.mark.parametrize(
    ("generated", "mentions", "malformed"),
    [
        ("{}", [], {}),
        (' {\n"person" :["Tomas"] } ', ["Tomas"], {}),
        ('{"person": []}', [], {}),
        ("", [], {"empty_output": 1}),
        (" \n", [], {"empty_output": 1}),
        ("none", [], {"invalid_syntax": 1}),
        ("{", [], {"truncated": 1}),
        ('{"person": ["Tomas"]', ["Tomas"], {"truncated": 1}),
        ('{"person": ["Tomas", "Mira Ol', ["Tomas"], {"truncated": 1}),
        ('{"person": ["Tomas"], "pers', ["Tomas"], {"truncated": 1}),
        ('{"person"', [], {"truncated": 1}),
        ('{"person":', [], {"truncated": 1}),
        ('{"person": ["Tomas\\', [], {"truncated": 1}),
        ('{"band": ["Tomas"]}', [], {"unknown_type": 1}),
        ('{"Person": ["Tomas"]}', [], {"unknown_type": 1}),
        ('{"person": ["tomas", "Tom", "Tomas"]}', ["Tomas"], {"ungrounded_mention": 2}),
        ('{"person": [""]}', [], {"ungrounded_mention": 1}),
        ('{"person": ["Tomas", "Tomas", "Tomas"]}', ["Tomas"], {"excess_mention": 2}),
        ('{"person": ["Tomas"], "programlang": ["Tomas"]}', ["Tomas"], {"excess_mention": 1}),
        ('{"person": ["Olsen met Tomas", "Tomas"]}', ["Olsen met Tomas"], {"overlapping_mention": 1}),
        ('{"person": ["Tomas"], "person": ["Mira Olsen"]}', ["Mira Olsen", "Tomas"], {"repeated_type": 1}),
        ('{"person": ["Tomas"]} and so on', ["Tomas"], {"trailing_text": 1}),
        ('Here: {"person": ["Tomas"]}', ["Tomas"], {"leading_text": 1}),
        ('```json\n{"person": ["Tomas"]}\n```', ["Tomas"], {"leading_text": 1, "trailing_text": 1}),
        ('"person": ["Tomas"]}', ["Tomas"], {"invalid_syntax": 1, "trailing_text": 1}),
        ('{"person": ["Tomas" "Mira Olsen"]}', ["Mira Olsen", "Tomas"], {"invalid_syntax": 1}),
        ('{"person": ["Tomas",]}', ["Tomas"], {"invalid_syntax": 1}),
        ('{"person": ["Tomas"],}', ["Tomas"], {"invalid_syntax": 1}),
        ('{"person": "Tomas"}', ["Tomas"], {"invalid_syntax": 1}),
        ('{"person": null}', [], {"invalid_syntax": 1}),
        ('{"person": [null, "Tomas"]}', ["Tomas"], {"invalid_syntax": 1}),
        ('{"person" ["Tomas"]}', ["Tomas"], {"invalid_syntax": 1}),
        ('{"person": ["Tomas"}', ["Tomas"], {"invalid_syntax": 1}),
        ('{"person": ["Tomas", "programlang": ["Mira"]}', ["Mira", "Tomas"], {"invalid_syntax": 1}),
        ('{"person": ["To\\qmas"]}', [], {"invalid_syntax": 1, "ungrounded_mention": 1}),
        ('{"person": ["T\\u006fmas"]}', ["Tomas"], {}),
    ],
)
def test_each_kind_of_malformed_output_is_counted(
    generated: str, mentions: list[str], malformed: dict[str, int]
) -> None:
    prediction = read(generated)
    assert sorted(mention for _, mention in texts(SENTENCE, prediction.entities)) == mentions
    assert prediction.malformed == malformed
    assert prediction.generated == generated


@pytest.mark.parametrize(
    ("generated", "mentions", "malformed"),
    [
        ("[]", [], {}),
        ('"person": ["Tomas"]', ["Tomas"], {}),
        ("", [], {"empty_output": 1}),
        ("[", [], {"invalid_syntax": 1}),
        ('"person": ["Tomas"],', ["Tomas"], {"truncated": 1}),
        ('"person": ["Tomas", "Mira', ["Tomas"], {"truncated": 1}),
        ('"person": ["Tomas"] and so on', ["Tomas"], {"trailing_text": 1}),
        ("[] and so on", [], {"trailing_text": 1}),
        ('well "person": ["Tomas"]', ["Tomas"], {"leading_text": 1}),
        ('{"person": ["Tomas"]}', ["Tomas"], {}),
        ('"person": ["Tomas"]}', ["Tomas"], {"trailing_text": 1}),
        ('"person": ["Tomas\\"]', ["Tomas"], {"ungrounded_mention": 1}),
    ],
)
def test_the_braceless_form_is_read_as_carefully(
    generated: str, mentions: list[str], malformed: dict[str, int]
) -> None:
    prediction = read_braceless(generated)
    if "\\" in generated:  # no escapes on this wire: the backslash belongs to the mention
        mentions = []
    assert [mention for _, mention in texts(SENTENCE, prediction.entities)] == mentions
    assert prediction.malformed == malformed


def test_white_space_inside_mentions_and_types_is_folded() -> None:
    prediction = read('{"political  party": ["Harbour\\n List "]}')
    assert prediction.entities == (Entity(9, 11, "political party"),)


@given(st.text(), st.booleans())
def test_any_text_is_decoded(generated: str, braces: bool) -> None:
    prediction = (read if braces else read_braceless)(generated)
    assert set(prediction.malformed) <= set(MALFORMED_KINDS)
    assert all(count > 0 for count in prediction.malformed.values())


_SYNTAX = st.sampled_from(
    [*'{}[]",:\\ ', '"person"', '"political party"', '"Tomas"', '"Mira Olsen"', ": [", '", "', "null", "x"]
)


@st.composite
def nearly_valid(draw: st.DrawFn) -> str:
    """A valid output with a few pieces inserted or deleted, or a run of pieces of syntax."""
    if draw(st.booleans()):
        return "".join(draw(st.lists(_SYNTAX, max_size=15)))
    text = '{"person": ["Tomas", "Mira Olsen"], "political party": ["Harbour List"]}'
    for _ in range(draw(st.integers(0, 3))):
        at, skipped = draw(st.integers(0, len(text))), draw(st.integers(0, 3))
        text = text[:at] + draw(st.one_of(st.just(""), _SYNTAX)) + text[at + skipped :]
    return text


@given(nearly_valid())
def test_what_is_not_counted_is_valid_json_with_nothing_lost(generated: str) -> None:
    """The oracle is the standard library's parser."""
    prediction = read(generated)
    if prediction.malformed:
        return
    value = json.loads(generated, strict=False)
    written = sorted((name, " ".join(m.split())) for name, mentions in value.items() for m in mentions)
    assert texts(SENTENCE, prediction.entities) == written


@given(nearly_valid())
def test_what_the_standard_parser_refuses_is_counted(generated: str) -> None:
    try:
        json.loads(generated, strict=False)
    except json.JSONDecodeError:
        assert read(generated).malformed


@given(sentences(plain=True))
def test_predicted_entities_are_sorted_disjoint_and_declared(sentence: Sentence) -> None:
    generated = '{"person": ["a", "a b", "b", "a"], "programlang": ["c", "ab c", "b a b"]}'
    entities = decode(generated, sentence=sentence, types=TYPES, wire=PLAIN_WIRE).entities
    assert all(left.end <= right.start for left, right in pairwise(entities))
    assert all(entity.type in TYPES and entity.end <= len(sentence.tokens) for entity in entities)


@given(sentences(plain=True))
def test_ambiguous_mentions_all_find_a_place(sentence: Sentence) -> None:
    prediction = decode(encode_entities(sentence, TYPES), sentence=sentence, types=TYPES, wire=PLAIN_WIRE)
    assert texts(sentence, prediction.entities) == texts(sentence, sentence.entities)
    assert prediction.malformed == {}


_NOISE = {
    "letters": "x",
    "quotes": '"',
    "opened lists": '["',
    "braces": "{",
    "backslashes": '{"a": ["\\',
    "types": '"a":',
    "pairs": '"person": ["Tomas", "nobody"], ',
    "mentions": '{"person": ["Tomas", "Mira", ',
    "spaces": " ",
}


@pytest.mark.parametrize("unit", _NOISE.values(), ids=_NOISE.keys())
@pytest.mark.parametrize("start", ["", '{"person": ['])
def test_a_megabyte_of_noise_is_read_in_linear_time(unit: str, start: str) -> None:
    def seconds(size: int) -> float:
        text = start + unit * (size // len(unit))
        begun = time.process_time()
        decode(text, sentence=SENTENCE, types=TYPES, wire=wire)
        return time.process_time() - begun

    wire = wire_for(byte_level_vocabulary())
    assert seconds(1_000_000) < 2.0 + 30 * seconds(100_000)  # quadratic time would be 100 times as much
