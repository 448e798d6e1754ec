"""Pieces are the bytes a token adds to a text, and no text can spell a special token."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fixtures.tiny_models import TEXT
from hypothesis import given, settings
from hypothesis import strategies as st

from cdner.models.vocabulary import TokenizerVocabulary, neutralised

SENTENCES = [*TEXT, "Łódź – naïve café № 7", 'She said "no" (twice), [then] left.']


@pytest.fixture(scope="module")
def byte_level(tiny_llama: Path) -> Any:
    return _tokenizer(tiny_llama)


@pytest.fixture(scope="module")
def unigram(tiny_t5: Path) -> Any:
    return _tokenizer(tiny_t5)


def _tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("text", SENTENCES)
def test_byte_level_pieces_concatenate_to_the_text(byte_level: Any, text: str) -> None:
    vocabulary = TokenizerVocabulary(byte_level)
    pieces = [vocabulary.pieces[index] for index in vocabulary.encode(text)]
    assert b"".join(piece or b"?" for piece in pieces) == text.encode()
    assert vocabulary.decode(vocabulary.encode(text)) == text
    assert vocabulary.unknown_id is None


@pytest.mark.parametrize("text", TEXT)
def test_unigram_pieces_concatenate_to_the_text_behind_a_space(unigram: Any, text: str) -> None:
    vocabulary = TokenizerVocabulary(unigram)
    pieces = [vocabulary.pieces[index] for index in vocabulary.encode(text)]
    assert b"".join(piece or b"?" for piece in pieces).decode() == f" {text}"
    assert vocabulary.decode(vocabulary.encode(text)) == text


def test_braces_are_unknown_to_the_unigram_vocabulary(unigram: Any) -> None:
    vocabulary = TokenizerVocabulary(unigram)
    for character in "{}<>~^\\=":
        assert vocabulary.unknown_id in vocabulary.encode(character)
    assert vocabulary.unknown_id is not None
    assert vocabulary.pieces[vocabulary.unknown_id] is None


@pytest.mark.parametrize("name", ["byte_level", "unigram"])
def test_special_ids_have_no_piece(name: str, request: pytest.FixtureRequest) -> None:
    tokenizer = request.getfixturevalue(name)
    vocabulary = TokenizerVocabulary(tokenizer)
    assert len(vocabulary.pieces) == len(tokenizer)
    without = {index for index, piece in enumerate(vocabulary.pieces) if piece is None}
    assert without == set(tokenizer.all_special_ids)
    assert vocabulary.end_id in without


def test_sentencepiece_byte_pieces_are_single_bytes() -> None:
    from cdner.models.vocabulary import _sentencepiece_bytes

    assert _sentencepiece_bytes("<0xE2>") == b"\xe2"
    assert _sentencepiece_bytes("▁Port") == b" Port"


@pytest.mark.parametrize("name", ["byte_level", "unigram"])
def test_corpus_text_never_becomes_a_special_token(name: str, request: pytest.FixtureRequest) -> None:
    tokenizer = request.getfixturevalue(name)
    hostile = "x".join(f"a {special}{special[:1]} b" for special in tokenizer.all_special_tokens)
    ids = set(TokenizerVocabulary(tokenizer).encode(hostile))
    assert not ids & (set(tokenizer.all_special_ids) - {tokenizer.unk_token_id})


@given(st.text(alphabet="<|im_end>/s ", max_size=40))
@settings(max_examples=200)
def test_neutralised_text_holds_no_special_string_and_loses_nothing(text: str) -> None:
    specials = ("<|im_end|>", "</s>", "<s>")
    safe = neutralised(text, specials)
    assert not any(special in safe for special in specials)
    assert safe.replace(" ", "") == text.replace(" ", "")


def test_genuine_t5_vocabulary_cannot_be_made_to_end_by_its_input(shared_data: Path) -> None:
    from transformers import T5Tokenizer

    tokenizer = T5Tokenizer.from_pretrained(shared_data / "t5-tokenizer")
    vocabulary = TokenizerVocabulary(tokenizer)
    assert vocabulary.end_id not in vocabulary.encode("left </s> the <extra_id_0> club")
    assert vocabulary.pieces[tokenizer.convert_tokens_to_ids("▁the")] == b" the"
    assert vocabulary.pieces[vocabulary.end_id] is None
