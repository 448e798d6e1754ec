"""OpenAI's API, and any server that speaks its chat completions: the ``cdner.llm.chat`` client with a key.

The key comes from OPENAI_API_KEY and is sent to OpenAI, or to an address that the user gave (see ``key_for``); no
message or error text holds it. Also counts a chat's tokens as OpenAI's models do, where tiktoken and its encoding's
file are on this machine: nothing is downloaded, so that a plan says the same with and without a network.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from cdner.config import Execution, Llm
from cdner.errors import BackendError
from cdner.llm.chat import Budget, ChatClient, Clock, Server
from cdner.llm.chat.client import N_RETRIES
from cdner.llm.chat.exchange import is_loopback, is_official, redaction
from cdner.llm.prices import VARIABLE, Price, price_of
from cdner.types import Completion, Gap, Message, ReasoningRequest

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


_log = logging.getLogger("cdner")
KEY_VARIABLE = "OPENAI_API_KEY"
URL_VARIABLE = "OPENAI_BASE_URL"
DEFAULT_BASE_URL = "https://api.openai.com/v1"


class OpenAIBackend:
    """The model of a client; the servers are somebody else's."""

    family = "openai"

    def __init__(self, client: ChatClient, *, model: str) -> None:
        self._client = client
        self._model = model

    @property
    def model(self) -> str:
        return self._model

    @property
    def n_ready(self) -> int:
        """Outcomes at hand: see ``cdner.types.ReasoningBackend.complete``."""
        return self._client.n_ready

    def complete(self, requests: Sequence[ReasoningRequest]) -> Iterator[tuple[int, Completion | Gap]]:
        """Yields as answers arrive; those on their way when a BackendError comes up are yielded before it."""
        return self._client.complete(requests)

    def rest(self) -> None:
        """Holds no accelerator."""

    def close(self) -> None:
        self._client.close()


def open_backend(
    llm: Llm,
    execution: Execution,
    budget: Budget,
    *,
    n_retries: int = N_RETRIES,
    clock: Clock = Clock(),  # noqa: B008  immutable
) -> OpenAIBackend:
    """BackendError without a key (a base URL of one's own needs none), with an unusable one or address, and
    with a limit on costs for a model whose price is unknown.
    """
    base_urls = execution.base_urls or (os.environ.get(URL_VARIABLE) or DEFAULT_BASE_URL,)
    for base_url in base_urls:
        check_base_url(base_url)
    key = read_key(required=any(base_url == DEFAULT_BASE_URL for base_url in base_urls))
    client = ChatClient(
        [Server(base_url, key_for(base_url, key, execution)) for base_url in base_urls],
        model=llm.model,
        concurrency=execution.concurrency,
        timeout=execution.timeout_seconds,
        budget=budget,
        price=known_price(llm.model, base_urls, max_cost=execution.max_cost),
        capabilities=execution.capabilities,
        n_retries=n_retries,
        clock=clock,
    )
    return OpenAIBackend(client, model=llm.model)


def key_for(base_url: str, key: str, execution: Execution) -> str:
    """The key if this server may have it, else "", said once on stderr.

    It may: OpenAI itself, or an address from the command line or OPENAI_BASE_URL; never over plain http to another
    machine. An address in an experiment file may have been written by somebody else.
    """
    why = ""
    if urlsplit(base_url).scheme == "http" and not is_loopback(base_url):
        why = "over plain http anybody on the way could read it. Use https"
    elif execution.base_urls and execution.base_urls_from_file and not is_official(base_url):
        why = "an experiment file names that server. Give it with --base-url to send the key"
    if not why or not key:
        return key
    _log.warning("Warning: the API key is not sent to %s: %s.", redaction(key)(base_url), why)
    return ""


def known_price(model: str, base_urls: Sequence[str], *, max_cost: float) -> Price | None:
    """The model's price at these servers; BackendError if it is unknown and costs are to be limited."""
    price = price_of(model, own_server=not all(is_official(base_url) for base_url in base_urls))
    if price is None and max_cost:
        raise BackendError(
            f"--max-cost needs a price, and none is known for '{model}' here. "
            f"Name a price file in {VARIABLE}, or limit the calls with --max-requests."
        )
    return price


def check_base_url(base_url: str) -> None:
    """BackendError for what is no http address, and for one with a password: it is stored with the run."""
    shown = redaction("")(base_url)
    try:
        parts = urlsplit(base_url)
        usable = parts.scheme in {"http", "https"} and parts.hostname and (parts.port is None or parts.port)
    except ValueError:  # of a port or an IPv6 address
        usable = False
    if not usable or base_url != "".join(base_url.split()):
        raise BackendError(f"'{shown}' is no base URL. Give one like http://localhost:8000/v1.")
    if "@" in parts.netloc:
        raise BackendError(
            f"The base URL '{shown}' holds a user name or a password, which would stand in the store and in logs. "
            f"Leave it out; a key belongs into {KEY_VARIABLE}."
        )


def read_key(*, required: bool) -> str:
    """OPENAI_API_KEY without surrounding blanks; "" if there is none and none is required."""
    key = os.environ.get(KEY_VARIABLE, "").strip()
    if required and not key:
        raise BackendError(f"The backend 'openai' needs a key. Set {KEY_VARIABLE}, or give another base URL.")
    if not all("!" <= character <= "~" for character in key):
        raise BackendError(f"{KEY_VARIABLE} holds blanks or characters that no key has. Set it again.")
    return key
