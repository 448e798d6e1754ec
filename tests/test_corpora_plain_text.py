"""A typed sentence is cut as the corpora are: by examples, and measured on the corpora themselves."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdner.corpora.plain_text import tokenise


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("Greta Gerwig directed it.", "Greta Gerwig directed it ."),
        ('She said "no" (twice)...', 'She said " no " ( twice ) ...'),
        ("Dr. J. Smith of the U.S. left St. Paul.", "Dr. J. Smith of the U.S. left St. Paul ."),
        ("They live in the U.S.", "They live in the U.S."),
        ("Poland's O'Reilly didn't.", "Poland 's O 'Reilly didn 't ."),
        (
            "The co-founder of .NET had 1,500 shares, or 3.5%.",
            "The co-founder of .NET had 1,500 shares , or 3.5 % .",
        ),
        ("'Alema and 's stay , - too", "' Alema and 's stay , - too"),
        ("He (the actor) 'won'.", "He ( the actor ) ' won ' ."),
        ("a\u00a0b  c", "a b c"),
    ],
)
def test_punctuation_is_split_off_as_in_the_corpora(text, tokens):
    assert tokenise(text) == tuple(tokens.split())


@given(st.text())
def test_no_character_but_white_space_is_lost_and_no_token_is_empty(text):
    tokens = tokenise(text)
    assert "".join(tokens) == "".join(text.split())
    assert all(tokens)


@pytest.mark.parametrize("domain", ["politics", "science", "music", "literature", "ai"])
def test_sentences_written_as_prose_get_their_corpus_tokens_back(shared_data: Path, domain: str):
    """Prose: no space before closing and after opening marks. At least 97 of 100 come back whole."""
    sentences = [tokens for tokens in _tokens(shared_data / "crossner" / domain / "test.txt") if tokens]
    found = [tokenise(_as_prose(" ".join(tokens))) for tokens in sentences]
    n_equal = sum(one == other for one, other in zip(found, sentences, strict=True))
    assert n_equal / len(sentences) > 0.97


def _as_prose(text: str) -> str:
    text = re.sub(r" ([,.;:!?)\]}%])", r"\1", text)
    return re.sub(r"([(\[{]) ", r"\1", re.sub(r" (['’]\w)", r"\1", text))


def _tokens(path: Path) -> list[tuple[str, ...]]:
    blocks = path.read_text(encoding="utf-8").split("\n\n")
    return [tuple(line.split("\t")[0] for line in block.splitlines() if line.strip()) for block in blocks]
