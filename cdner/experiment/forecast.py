"""What the steps of a plan are going to cost: calls of an LLM, tokens, US dollars and seconds (``--dry-run``).

Counts tokens with the model's own tokenizer where it is on this machine, and says so where it estimates. Durations are
those that were measured in this store: there is no forecast for work that was never done here. Opens no backend and
asks no server.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from cdner.config import Label, Llm
from cdner.errors import InputError, ModelError
from cdner.experiment.plan import Plan
from cdner.llm.prices import Price, cost_usd, price_of
from cdner.steps.asking import unanswered
from cdner.steps.context import Context
from cdner.steps.kinds import KINDS
from cdner.steps.protocol import Questions
from cdner.steps.step import Step
from cdner.store.runs import WorkKind
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
    """Of a step that is not done and asks an LLM."""
    kind = KINDS[step.kind]
    asks = cast(Questions, kind.asks)
    llm = asks.llm(step, context)
    if llm is None:
        return NOTHING
    price, seen = _price(llm, context), set[Beginning]()
    try:
        missing = unanswered(kind, step, context)
        if missing is None:
            return Forecast(asks.n_texts(step, context), None)
        parts = [_of_requests(window, llm, price, seen=seen, context=context) for window in missing]
    except InputError:  # no WordNet on this machine: the prompts are unknown, their number is not
        return Forecast(asks.n_texts(step, context), None)
    n_all, n_calls = asks.n_texts(step, context), sum(part.n_calls or 0 for part in parts)
    return Forecast(
        n_calls,
        None if n_all is None else n_all - n_calls,
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
        from cdner.llm.openai import open_token_counter

        return open_token_counter(llm.model)
    if llm.backend not in _OPEN_WEIGHTS:
        return None
    from cdner.models.chat_tokenizer import open_chat_tokenizer  # imports transformers

    try:
        return open_chat_tokenizer(llm.model).lengths
    except ModelError:  # not on this machine: a plan can be read where it cannot be run
        return None


def _price(llm: Llm, context: Context) -> Price | None:
    if llm.backend != "openai":
        return price_of(llm.model, own_server=True)
    from cdner.llm.openai import DEFAULT_BASE_URL, URL_VARIABLE, known_price

    elsewhere = os.environ.get(URL_VARIABLE) or DEFAULT_BASE_URL
    return known_price(llm.model, context.experiment.execution.base_urls or (elsewhere,), max_cost=0)


def expected_seconds(
    step: Step, plan: Plan, context: Context, *, rates: Mapping[WorkKind, float], asked: Forecast | None
) -> float | None:
    """Seconds of a step that is not done; None where none of its kind was, or its amount is not known yet.

    ``rates``: ``store.durations.seconds_per_unit``; ``asked``: the forecast of a step that asks an LLM.
    """
    n_units = KINDS[step.kind].n_units(step, context) if asked is None else asked.n_calls
    if n_units == 0:
        return 0.0
    rate = rates.get(work_kind(step, plan))
    return None if rate is None or n_units is None else rate * n_units


def work_kind(step: Step, plan: Plan) -> WorkKind:
    """As the view ``step_duration`` tells it from a stored run."""
    settings = cast(Mapping[str, Any], step.spec.settings)
    weights = settings.get("weights")
    if weights is None:
        models = [plan.by_label[label] for label in step.inputs.values() if Label.of(label).kind == "train"]
        weights = cast(Mapping[str, Any], models[0].spec.settings)["weights"] if models else ""
    return WorkKind(step.kind, weights, any(role.endswith("reasoning") for role in step.inputs))
