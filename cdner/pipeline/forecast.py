"""What a step would ask of its LLM and what that may cost, before anything is sent: ``--dry-run``.

Counts tokens with the model's own tokenizer where one lies on this machine, and says so where it has to estimate. Opens
no backend and asks no server.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from cdner.backends.prices import Price, cost_usd, price_of
from cdner.config import Llm
from cdner.errors import InputError, ModelError
from cdner.pipeline import pending
from cdner.pipeline.context import Context
from cdner.pipeline.plan import Step
from cdner.types import Message, ReasoningRequest

Counter = Literal["tokenizer", "estimate", "unknown"]
Chats = Sequence[Sequence[Message]]
Beginning = tuple[Message, ...]

CHARACTERS_PER_TOKEN = 4  # English prose, by OpenAI's own rule of thumb
# Backends that run open weights: the model is a folder or a hub name, and its tokenizer counts.
_OPEN_WEIGHTS = ("local", "vllm")


@dataclass(frozen=True, slots=True)
class Forecast:
    """Of the calls still to be made, without retries; None is "not known yet".

    The cost lies between every beginning that prompts share found cached with nothing written, and nothing cached with
    every answer as long as it may be.
    """

    n_calls: int | None
    n_stored: int | None  # different requests the store answers already
    n_prompt_tokens: int | None = None
    counted_by: Counter | None = "unknown"  # None: nothing to count
    max_output_tokens: int | None = None
    cost_usd_from: float | None = None
    cost_usd_to: float | None = None


NOTHING = Forecast(0, None, 0, None, 0)  # of a step that is done, or whose texts come from elsewhere


def forecast(step: Step, context: Context) -> Forecast:
    """Of a describe or reason step that is not done."""
    llm = pending.llm_of(step, context)
    if llm is None:
        return NOTHING
    price, seen = _price(llm, context), set[Beginning]()
    try:
        missing = pending.unanswered(step, context)
        if missing is None:
            return Forecast(pending.n_texts(step, context), None)
        parts = [_of_requests(window, llm, price, seen=seen, context=context) for window in missing]
    except InputError:  # no WordNet on this machine: the prompts are unknown, their number is not
        return Forecast(pending.n_texts(step, context), None)
    n_texts, n_calls = pending.n_texts(step, context), sum(part.n_calls or 0 for part in parts)
    return Forecast(
        n_calls,
        None if n_texts is None else n_texts - n_calls,
        sum(part.n_prompt_tokens or 0 for part in parts),
        next((part.counted_by for part in parts if part.counted_by), None),
        sum(part.max_output_tokens or 0 for part in parts),
        None if price is None else sum(part.cost_usd_from or 0.0 for part in parts),
        None if price is None else sum(part.cost_usd_to or 0.0 for part in parts),
    )


def _of_requests(
    requests: Sequence[ReasoningRequest],
    llm: Llm,
    price: Price | None,
    *,
    seen: set[Beginning],
    context: Context,
) -> Forecast:
    shared = _shared_beginnings(requests, seen)
    lengths, counted_by = _lengths(llm, [request.messages for request in requests] + shared)
    n_prompt = sum(lengths[: len(requests)])
    n_cached = sum(lengths[len(requests) :])
    n_output = sum(request.sampling.max_tokens for request in requests)
    costs: list[float | None] = [None, None]
    if price is not None:
        batch = context.experiment.execution.batch
        costs = [
            cost_usd(price, input_tokens=n_prompt, cached_tokens=cached, output_tokens=output, batch=batch)
            for cached, output in ((n_cached, 0), (0, n_output))
        ]
    return Forecast(len(requests), None, n_prompt, counted_by, n_output, *costs)


def _shared_beginnings(requests: Sequence[ReasoningRequest], seen: set[Beginning]) -> list[Sequence[Message]]:
    """The messages before the last one of every request whose beginning an earlier request has had.

    ``seen``: beginnings of requests before these; those of these are added.
    """
    shared: list[Sequence[Message]] = []
    for beginning in (request.messages[:-1] for request in requests):
        if beginning in seen and beginning:
            shared.append(beginning)
        seen.add(beginning)
    return shared


def _lengths(llm: Llm, chats: Chats) -> tuple[list[int], Counter | None]:
    """Tokens of each chat, and who counted them."""
    if not chats:
        return [], None
    counter = _tokenizer(llm)
    if counter is not None:
        try:
            return counter(chats), "tokenizer"
        except ModelError:  # no chat template
            pass
    lengths = [sum(len(message.content) for message in chat) for chat in chats]
    return [-(-n_characters // CHARACTERS_PER_TOKEN) for n_characters in lengths], "estimate"


def _tokenizer(llm: Llm) -> Callable[[Chats], list[int]] | None:
    if llm.backend == "openai":
        from cdner.backends.openai_tokens import open_token_counter

        return open_token_counter(llm.model)
    if llm.backend not in _OPEN_WEIGHTS:
        return None
    from cdner.backbone.chat_tokenizer import open_chat_tokenizer  # imports transformers

    try:
        return open_chat_tokenizer(llm.model).lengths
    except ModelError:  # not on this machine: a plan can be read where it cannot be run
        return None


def _price(llm: Llm, context: Context) -> Price | None:
    if llm.backend != "openai":
        return price_of(llm.model, own_server=True)
    from cdner.backends.openai import DEFAULT_BASE_URL, URL_VARIABLE, known_price

    elsewhere = os.environ.get(URL_VARIABLE) or DEFAULT_BASE_URL
    return known_price(llm.model, context.experiment.execution.base_urls or (elsewhere,), max_cost=0)
