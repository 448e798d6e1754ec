"""Prompt tokens by tiktoken: counted where its file is in the cache, never fetched. The encoding here is our own."""

from __future__ import annotations

import base64
import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiktoken
import tiktoken.load
import tiktoken.model
import tiktoken.registry

from cdner.config import Llm
from cdner.experiment import forecast
from cdner.llm.openai import open_token_counter
from cdner.types import Message

ADDRESS = "https://encodings.invalid/tiny.tiktoken"
MODEL = "gpt-of-the-tests"
RANKS = [*(bytes([value]) for value in range(256)), b"ac", b"actor"]
CHAT = (Message("user", "actor"), Message("assistant", "ac<|end|>"))


def _tiny() -> dict[str, object]:
    """As tiktoken_ext.openai_public builds its own: the ranks by an address, which the cache stands in for."""
    ranks = tiktoken.load.load_tiktoken_bpe(ADDRESS)
    return {
        "name": "tiny",
        "pat_str": r"\w+|\W",
        "mergeable_ranks": ranks,
        "special_tokens": {"<|end|>": 300},
    }


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file that is to lie in the cache; the network is never asked."""
    asked: list[str] = []
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(tiktoken.load, "read_file", asked.append)
    tiktoken.list_encoding_names()  # finds those of tiktoken, beside which ours stands
    monkeypatch.setitem(tiktoken.registry.ENCODING_CONSTRUCTORS, "tiny", _tiny)
    monkeypatch.setitem(tiktoken.model.MODEL_TO_ENCODING, MODEL, "tiny")
    monkeypatch.setattr(tiktoken.registry, "ENCODINGS", {})
    yield tmp_path / hashlib.sha1(ADDRESS.encode(), usedforsecurity=False).hexdigest()
    assert asked == []


def fill(cache: Path) -> None:
    lines = [f"{base64.b64encode(piece).decode()} {rank}" for rank, piece in enumerate(RANKS)]
    cache.write_text("\n".join(lines) + "\n")


def test_tokens_are_those_of_the_model_and_of_a_chats_form(cache):
    fill(cache)
    counter = open_token_counter(MODEL)
    assert counter is not None
    # 3 before the answer and 3 a message; user 4, actor 1, assistant 9, ac<|end|> 8: in a prompt that is text.
    assert counter([CHAT, CHAT[:1]]) == [3 + (3 + 4 + 1) + (3 + 9 + 8), 3 + (3 + 4 + 1)]


def test_what_is_not_in_the_cache_is_not_fetched(cache):
    assert open_token_counter(MODEL) is None
    assert open_token_counter("gpt-4o-mini") is None


def test_the_door_to_the_network_is_open_again_for_others(cache):
    before = tiktoken.load.read_file
    open_token_counter(MODEL)
    assert tiktoken.load.read_file is before


def test_a_model_that_tiktoken_does_not_know_is_not_counted(cache):
    assert open_token_counter("qwen3") is None


def test_without_tiktoken_there_is_no_counter(cache, monkeypatch):
    fill(cache)
    monkeypatch.setitem(sys.modules, "tiktoken", None)
    assert open_token_counter(MODEL) is None


def test_a_plan_says_who_counted(cache):
    llm = Llm(backend="openai", model=MODEL)
    assert forecast._lengths(llm, [CHAT])[1] == "estimate"
    fill(cache)
    lengths, counted_by = forecast._lengths(llm, [CHAT])
    counter = open_token_counter(MODEL)
    assert counter is not None
    assert (lengths, counted_by) == (counter([CHAT]), "tokenizer")
