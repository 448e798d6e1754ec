"""Grounded decoding: everything allowed decodes cleanly, everything gold is allowed."""

from __future__ import annotations

import random
import time
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from codec_vocabularies import (
    AWKWARD_TOKENS,
    TYPES,
    OneCharacterVocabulary,
    byte_level_vocabulary,
    declared_types,
    genuine_t5_vocabulary,
    read_sentences,
    sentences,
    texts,
    unigram_vocabulary,
)
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cdner.codec import Grammar, Wire, decode, encode_entities, wire_for
from cdner.errors import UsageError
from cdner.spans import bio_to_entities
from cdner.types import Sentence, TokenConstraint, Vocabulary


def walk(constraint: TokenConstraint, vocabulary: Vocabulary, choose: random.Random) -> list[int]:
    """Any allowed token again and again; the end only half of the times it is offered beside others."""
    ids: list[int] = []
    while True:
        allowed = constraint.allowed().tolist()
        assert allowed == sorted(set(allowed))
        others = [token_id for token_id in allowed if token_id != vocabulary.end_id]
        if not others or (len(others) < len(allowed) and choose.random() < 0.5):
            return ids
        ids.append(choose.choice(others))
        constraint.advance(ids[-1])


def accepts(constraint: TokenConstraint, ids: list[int]) -> bool:
    for token_id in ids:
        if token_id not in constraint.allowed():
            return False
        constraint.advance(token_id)
    return True


def gold_ids(sentence: Sentence, vocabulary: Vocabulary, *, wire: Wire, types: tuple[str, ...]) -> list[int]:
    return [*vocabulary.encode(wire.to_wire(encode_entities(sentence, types))), vocabulary.end_id]


UNIGRAM, BYTES = unigram_vocabulary(), byte_level_vocabulary()
GRAMMARS = {
    "unigram": (UNIGRAM, wire_for(UNIGRAM), Grammar(UNIGRAM, wire_for(UNIGRAM), TYPES)),
    "bytes": (BYTES, wire_for(BYTES), Grammar(BYTES, wire_for(BYTES), TYPES)),
}


@pytest.mark.parametrize("name", GRAMMARS)
@settings(max_examples=200)
@given(sentence=sentences(), seed=st.integers(0, 2**32))
def test_whatever_is_allowed_decodes_without_a_malformed_count(
    name: str, sentence: Sentence, seed: int
) -> None:
    vocabulary, wire, grammar = GRAMMARS[name]
    ids = walk(grammar.constraint(sentence), vocabulary, random.Random(seed))
    prediction = decode(vocabulary.decode(ids), sentence=sentence, types=TYPES, wire=wire)
    assert prediction.malformed == {}


@pytest.mark.parametrize("name", GRAMMARS)
@settings(max_examples=200)
@given(sentence=sentences())
def test_the_tokenizers_own_spelling_of_gold_is_allowed(name: str, sentence: Sentence) -> None:
    vocabulary, wire, grammar = GRAMMARS[name]
    spelled = [set(map(vocabulary.pieces.__getitem__, vocabulary.encode(token))) for token in sentence.tokens]
    assume(all(pieces - {b" "} for pieces in spelled))  # a token of nothing but space cannot be a mention
    assert accepts(grammar.constraint(sentence), gold_ids(sentence, vocabulary, wire=wire, types=TYPES))


@pytest.mark.parametrize("braces", [True, False])
@pytest.mark.parametrize(
    "tokens", [("a",), ("a", "a"), ("a", "b", "a"), ("a", "a", "b"), ("a", "a", "a", "b")]
)
def test_the_language_is_every_labelling_and_nothing_else(braces: bool, tokens: tuple[str, ...]) -> None:
    """Slow twin: the targets of all labellings of the sentence with two types."""
    vocabulary = OneCharacterVocabulary()
    wire = wire_for(vocabulary, form="json" if braces else "braceless")
    types = ("x", "xy")
    tags = ("O", "B-x", "I-x", "B-xy", "I-xy")
    every = {
        wire.to_wire(encode_entities(Sentence(tokens, bio_to_entities(chosen)[0]), types))
        for chosen in product(tags, repeat=len(tokens))
    }
    assert _language(Grammar(vocabulary, wire, types), Sentence(tokens), vocabulary) == every


def _language(grammar: Grammar, sentence: Sentence, vocabulary: OneCharacterVocabulary) -> set[str]:
    found = set()
    open_prefixes: list[list[int]] = [[]]
    while open_prefixes:
        prefix = open_prefixes.pop()
        constraint = grammar.constraint(sentence)
        for token_id in prefix:
            constraint.advance(token_id)
        for token_id in constraint.allowed().tolist():
            if token_id == vocabulary.end_id:
                found.add(vocabulary.decode(prefix))
            else:
                open_prefixes.append([*prefix, token_id])
    return found


@pytest.mark.parametrize("domain", ["ai", "politics", "science", "music", "literature"])
def test_t5_gold_is_allowed_and_random_walks_decode_cleanly(domain: str, shared_data: Path) -> None:
    vocabulary = genuine_t5_vocabulary(shared_data)
    wire = wire_for(vocabulary)
    found = read_sentences(shared_data / "crossner" / domain / "dev.txt")
    types = declared_types(found)
    grammar = Grammar(vocabulary, wire, types)
    refused = [
        sentence.text
        for sentence in (found if domain == "ai" else found[:100])
        if not accepts(grammar.constraint(sentence), gold_ids(sentence, vocabulary, wire=wire, types=types))
    ]
    assert refused == []
    for seed, sentence in enumerate(found[:60]):
        ids = walk(grammar.constraint(sentence), vocabulary, random.Random(seed))
        prediction = decode(vocabulary.decode(ids), sentence=sentence, types=types, wire=wire)
        assert prediction.malformed == {}


@pytest.mark.parametrize("name", GRAMMARS)
def test_gold_of_a_real_dev_split_is_allowed(name: str, shared_data: Path) -> None:
    vocabulary, wire, _ = GRAMMARS[name]
    found = read_sentences(shared_data / "crossner" / "ai" / "dev.txt")
    types = declared_types(found)
    grammar = Grammar(vocabulary, wire, types)
    refused = [
        sentence.text
        for sentence in found
        if not accepts(grammar.constraint(sentence), gold_ids(sentence, vocabulary, wire=wire, types=types))
    ]
    assert refused == []


def test_t5_walks_over_awkward_tokens_decode_cleanly(shared_data: Path) -> None:
    vocabulary = genuine_t5_vocabulary(shared_data)
    wire = wire_for(vocabulary)
    grammar = Grammar(vocabulary, wire, TYPES)
    choose = random.Random(7)
    for _ in range(300):
        sentence = Sentence(tuple(choose.choices(AWKWARD_TOKENS, k=choose.randint(1, 8))))
        ids = walk(grammar.constraint(sentence), vocabulary, choose)
        prediction = decode(vocabulary.decode(ids), sentence=sentence, types=TYPES, wire=wire)
        assert not prediction.malformed, (sentence.tokens, prediction)


@pytest.mark.parametrize("name", GRAMMARS)
def test_non_ascii_mentions_can_be_written(name: str) -> None:
    """One character may take several pieces, or only the unknown token."""
    vocabulary, wire, grammar = GRAMMARS[name]
    tags = ["O", "B-person", "I-person", "I-person", "B-programlang"]
    sentence = Sentence(("In", "Łódź", "漢", "é", "x🙂"), bio_to_entities(tags)[0])
    ids = gold_ids(sentence, vocabulary, wire=wire, types=TYPES)
    assert accepts(grammar.constraint(sentence), ids)
    prediction = decode(vocabulary.decode(ids[:-1]), sentence=sentence, types=TYPES, wire=wire)
    assert texts(sentence, prediction.entities) == texts(sentence, sentence.entities)


@pytest.mark.parametrize("name", GRAMMARS)
@pytest.mark.parametrize(
    "text",
    [
        '{"band": ["Mira"]}',
        '{"person": ["mira"]}',
        '{"person": ["Mir"]}',
        '{"person": []}',
        '{"person": ["Mira", "Mira"]}',
        '{"person": ["Olsen", "Mira"]}',
        '{"person": ["Mira"], "person": ["Olsen"]}',
        '{"programlang": ["Mira"], "person": ["Olsen"]}',
        '{"person": ["Mira Olsen"], "programlang": ["Olsen"]}',
        '{"person": ["Mira"]} ',
        '{"person": ["Mira"',
    ],
)
def test_ungrounded_repeated_disordered_and_unfinished_outputs_are_refused(name: str, text: str) -> None:
    vocabulary, wire, grammar = GRAMMARS[name]
    wired = text if wire.braces else text.removeprefix("{").replace("}", "")
    constraint = grammar.constraint(Sentence(("Mira", "Olsen")))
    assert not accepts(constraint, [*vocabulary.encode(wired), vocabulary.end_id])


@pytest.mark.parametrize("name", GRAMMARS)
def test_a_token_that_is_not_allowed_cannot_be_taken(name: str) -> None:
    vocabulary, _, grammar = GRAMMARS[name]
    constraint = grammar.constraint(Sentence(("Mira",)))
    with pytest.raises(ValueError, match="not allowed"):
        constraint.advance(vocabulary.end_id)
    with pytest.raises(ValueError, match="not allowed"):
        constraint.advance(vocabulary.encode("Q")[-1])


@pytest.mark.parametrize("name", GRAMMARS)
def test_after_the_end_only_the_end_follows(name: str) -> None:
    vocabulary, wire, grammar = GRAMMARS[name]
    constraint = grammar.constraint(Sentence(()))
    for token_id in vocabulary.encode(wire.no_entity):
        constraint.advance(token_id)
    for _ in range(2):
        allowed = constraint.allowed()
        assert (allowed.dtype, allowed.tolist()) == (np.int64, [vocabulary.end_id])
        constraint.advance(vocabulary.end_id)


def test_a_vocabulary_that_could_get_stuck_is_refused() -> None:
    class WithoutB(OneCharacterVocabulary):
        def __init__(self) -> None:
            super().__init__()
            kept = [None if piece == b"b" else piece for piece in self.pieces]
            self.pieces = (*kept, b"ab")

    vocabulary = WithoutB()
    wire = Wire(braces=True, escapes=True, angle_brackets=True, vocabulary=vocabulary)
    with pytest.raises(UsageError, match="could get stuck"):
        Grammar(vocabulary, wire, TYPES)


def test_a_step_over_the_t5_vocabulary_is_fast(shared_data: Path) -> None:
    vocabulary = genuine_t5_vocabulary(shared_data)
    wire = wire_for(vocabulary)
    found = [s for s in read_sentences(shared_data / "crossner" / "ai" / "dev.txt") if len(s.tokens) >= 30][
        :30
    ]
    types = declared_types(found)
    grammar = Grammar(vocabulary, wire, types)
    constraints = [grammar.constraint(sentence) for sentence in found]
    all_ids = [gold_ids(sentence, vocabulary, wire=wire, types=types) for sentence in found]
    begun = time.process_time()
    assert all(accepts(constraint, ids) for constraint, ids in zip(constraints, all_ids, strict=True))
    assert time.process_time() - begun < 0.002 * sum(map(len, all_ids))
