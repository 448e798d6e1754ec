"""Sentence, types and reasoning as model input."""

from __future__ import annotations

import pytest
from codec_vocabularies import unigram_vocabulary

from cdner.augment import model_input
from cdner.codec import PLAIN_WIRE, wire_for
from cdner.types import ModelInput, ReasoningChain, Sentence

SENTENCE = Sentence(("Mira", "writes", "Corvid"))
TYPES = ("person", "programlang")
PLAIN = "Find all entities of types <person, programlang> in Mira writes Corvid."


def joined(segments: ModelInput) -> str:
    return "".join(segment.text for segment in segments)


def test_without_reasoning_the_input_is_the_papers() -> None:
    assert joined(model_input(TYPES, SENTENCE, chain=None, wire=PLAIN_WIRE)) == PLAIN


def test_reasoning_follows_the_sentence_initial_part_first() -> None:
    chain = ReasoningChain(initial=" Mira is a name. ", bidirectional="Corvid is written.\n")
    text = joined(model_input(TYPES, SENTENCE, chain=chain, wire=PLAIN_WIRE))
    assert text == f"{PLAIN} Reasoning information: Mira is a name. Corvid is written."


@pytest.mark.parametrize(
    ("initial", "bidirectional", "added"),
    [
        ("", "", ""),
        (" ", "\n", ""),
        ("", "B", " Reasoning information: B"),
        ("A", "", " Reasoning information: A"),
    ],
)
def test_missing_parts_of_a_chain_leave_no_trace(initial: str, bidirectional: str, added: str) -> None:
    chain = ReasoningChain(initial=initial, bidirectional=bidirectional)
    assert joined(model_input(TYPES, SENTENCE, chain=chain, wire=PLAIN_WIRE)) == PLAIN + added


def test_initial_reasoning_is_cut_before_bidirectional_and_nothing_else_is_cut() -> None:
    chain = ReasoningChain(initial="first", bidirectional="second")
    segments = model_input(TYPES, SENTENCE, chain=chain, wire=PLAIN_WIRE)
    priorities = {segment.text.strip(): segment.priority for segment in segments}
    assert priorities["first"] > priorities["second"] > 0
    rest = [segment.priority for segment in segments if segment.text.strip() not in ("first", "second")]
    assert set(rest) == {0}


def test_the_first_segment_is_equal_for_all_sentences_and_settings() -> None:
    chain = ReasoningChain(initial="first", bidirectional="second")
    one = model_input(TYPES, SENTENCE, chain=None, wire=PLAIN_WIRE)
    other = model_input(TYPES, Sentence(("Tin",)), chain=chain, wire=PLAIN_WIRE)
    assert one[0] == other[0]
    assert "Mira" not in one[0].text


def test_angle_brackets_are_left_off_where_the_vocabulary_lacks_them() -> None:
    text = joined(model_input(TYPES, SENTENCE, chain=None, wire=wire_for(unigram_vocabulary())))
    assert text == "Find all entities of types person, programlang in Mira writes Corvid."
