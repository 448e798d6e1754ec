"""Counts a chat's tokens as OpenAI's models do, where tiktoken and the encoding's file lie on this machine.

Optional (``pip install cdner[tokens]``). Never downloads: a plan can be made without a network, and what it says must
not depend on whether there is one. The file is put into tiktoken's cache by anything that uses tiktoken on line
(TIKTOKEN_CACHE_DIR names the cache). Knows nothing of prices or plans.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from cdner.types import Message

if TYPE_CHECKING:
    from tiktoken import Encoding

# OpenAI's cookbook, "How to count tokens with tiktoken": of gpt-3.5-turbo-0125 and all later chat models.
TOKENS_A_MESSAGE = 3
TOKENS_BEFORE_THE_ANSWER = 3


def open_token_counter(model: str) -> Callable[[Sequence[Sequence[Message]]], list[int]] | None:
    """A function from chats to their prompt tokens; None without tiktoken, for a model it does not know, and where
    the model's encoding is not in its cache.
    """
    encoding = _encoding(model)
    if encoding is None:
        return None

    def lengths(chats: Sequence[Sequence[Message]]) -> list[int]:
        known: dict[str, int] = {}  # prompts share most of their messages

        def length(text: str) -> int:
            if text not in known:
                known[text] = len(encoding.encode_ordinary(text))
            return known[text]

        return [
            TOKENS_BEFORE_THE_ANSWER
            + sum(TOKENS_A_MESSAGE + length(message.role) + length(message.content) for message in chat)
            for chat in chats
        ]

    return lengths


def _encoding(model: str) -> Encoding | None:
    try:
        import tiktoken
    except ImportError:
        return None
    try:
        with _without_downloads():
            return tiktoken.encoding_for_model(model)
    except (
        KeyError,
        ValueError,
        OSError,
    ):  # unknown model, unknown encoding, not in the cache or broken there
        return None


@contextmanager
def _without_downloads() -> Iterator[None]:
    """tiktoken fetches what its cache lacks and has no switch for it: shut its one door to the network meanwhile."""
    import tiktoken.load

    def refuse(blobpath: str) -> bytes:
        raise FileNotFoundError(f"{blobpath} is not in tiktoken's cache")

    original = tiktoken.load.read_file
    tiktoken.load.read_file = refuse
    try:
        yield
    finally:
        tiktoken.load.read_file = original
