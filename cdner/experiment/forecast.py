"""What a step would still ask of its LLM, before anything is asked: for checks beforehand and for ``--dry-run``.

Opens no backend. The prompts of a step are known once its inputs are done.

What a step would ask of its LLM and what that may cost, before anything is sent: ``--dry-run``.

Counts tokens with the model's own tokenizer where one lies on this machine, and says so where it has to estimate. Opens
no backend and asks no server.

How long the steps of a plan are going to take, by what such steps took on this machine: ``--dry-run``.

Knows no speed that was not measured in this store: of work that has not been done here yet it says nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from cdner.config import Llm
from cdner.errors import InputError, ModelError
from cdner.experiment.plan import LLM_KINDS, Plan
from cdner.llm.prices import Price, cost_usd, price_of
from cdner.steps.asking import Defects, to_send
from cdner.steps.context import Context
from cdner.steps.judging import asked_mentions, question_windows, questions_are_known
from cdner.steps.reasoning import (
    NO_LLM,
    description_defects,
    description_requests_of,
    extraction_defects,
    reasoning_defects,
    request_windows,
)
from cdner.steps.step import FROM_FILE, Step
from cdner.store.runs import WorkKind
from cdner.types import Message, ReasoningRequest, Split


def llm_of(step: Step, context: Context) -> Llm | None:
    """Who a step asks; None where its texts come from a file or are the glosses."""
    if step.kind == "judge":
        return context.experiment.judging
    llm = context.experiment.describe if step.kind == "describe" else context.experiment.reason
    asks_nobody = llm.backend == FROM_FILE or (step.kind == "describe" and llm.backend == NO_LLM)
    return None if asks_nobody else llm


def must_ask(step: Step, context: Context) -> bool:
    """Whether a step still needs its LLM; one whose prompts are not known yet does."""
    if llm_of(step, context) is None:
        return False
    if step.kind == "describe" and context.run_state(step.spec.run_id) == "absent":
        return True  # known without WordNet
    missing = unanswered(step, context)
    return missing is None or any(missing)


def unanswered(step: Step, context: Context) -> Iterator[list[ReasoningRequest]] | None:
    """What a step would send first, retries that are due among it, a window at a time; None while its prompts are
    not known.
    """
    llm = llm_of(step, context)
    if llm is None:
        return iter(())
    if any(context.run_state(run_id) != "done" for run_id in step.spec.inputs):
        return None
    if step.kind == "judge" and not questions_are_known(step, context):
        return None
    return _unanswered(step, context, llm)


def _unanswered(step: Step, context: Context, llm: Llm) -> Iterator[list[ReasoningRequest]]:
    defects = _defects(step, context)
    if step.kind == "describe":
        yield to_send(context, llm, description_requests_of(context), defects=defects)
        return
    if step.kind == "judge":
        for questions in question_windows(step, context):
            yield to_send(context, llm, questions.requests, defects=defects)
        return
    seen: set[int] = set()  # hashes: a sentence that comes again in another window is asked about once
    for window in request_windows(step, context):
        missing = [
            request
            for request in to_send(context, llm, window.requests, defects=defects)
            if hash(request) not in seen
        ]
        seen.update(map(hash, missing))
        yield missing


def n_texts(step: Step, context: Context) -> int | None:
    """Different texts a step asks about: types, sentences, or mentions (None: not counted yet)."""
    if step.kind == "judge":
        is_known = context.run_state(context.input_run(step, "predictions")) == "done"
        return len(asked_mentions(step, context)) if is_known else None
    target = context.experiment.corpora.target
    if step.kind == "describe":
        return len(context.domain(target, "target").types)
    settings = cast(Mapping[str, Any], step.spec.settings)
    return context.n_sentences(target, cast(Split, step.label.rpartition("/")[2]), settings["n"])


def _defects(step: Step, context: Context) -> Defects:
    if step.kind == "describe":
        return description_defects(context.experiment.describe)
    if step.kind == "extract":
        return extraction_defects
    if step.kind == "judge":
        return lambda _completion: 0
    settings = cast(Mapping[str, Any], step.spec.settings)
    return reasoning_defects(settings["setting"], structured=context.experiment.reason.structured)


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
    llm = llm_of(step, context)
    if llm is None:
        return NOTHING
    price, seen = _price(llm, context), set[Beginning]()
    try:
        missing = unanswered(step, context)
        if missing is None:
            return Forecast(n_texts(step, context), None)
        parts = [_of_requests(window, llm, price, seen=seen, context=context) for window in missing]
    except InputError:  # no WordNet on this machine: the prompts are unknown, their number is not
        return Forecast(n_texts(step, context), None)
    n_all, n_calls = n_texts(step, context), sum(part.n_calls or 0 for part in parts)
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
    n_units = _n_units(step, context, asked)
    if n_units == 0:
        return 0.0
    rate = rates.get(work_kind(step, plan))
    return None if rate is None or n_units is None else rate * n_units


def work_kind(step: Step, plan: Plan) -> WorkKind:
    """As the view ``step_duration`` tells it from a stored run."""
    settings = cast(Mapping[str, Any], step.spec.settings)
    weights = settings.get("weights")
    if weights is None:
        models = [plan.by_label[label] for label in step.inputs.values() if label.startswith("train:")]
        weights = cast(Mapping[str, Any], models[0].spec.settings)["weights"] if models else ""
    return WorkKind(step.kind, weights, any(role.endswith("reasoning") for role in step.inputs))


def _n_units(step: Step, context: Context, asked: Forecast | None) -> int | None:
    """Calls of an LLM; sentences, in a training once an epoch; 1 for everything else."""
    if step.kind in LLM_KINDS:
        return asked.n_calls if asked else None
    settings = cast(Mapping[str, Any], step.spec.settings)
    if step.kind == "train":
        n = _n_sentences(step.inputs["train"], settings["n_train"], context)
        return None if n is None else n * int(settings["training"]["epochs"])
    if step.kind == "crossfit":  # each sentence is trained on in all folds but its own
        n, others = (
            _n_sentences(step.inputs["train"], settings["n_train"], context),
            settings["crossfit"]["folds"] - 1,
        )
        return None if n is None else n * int(settings["training"]["epochs"]) * others
    if step.kind == "predict":
        return _n_sentences(step.inputs["corpus"], settings["n"], context)
    return 1


def _n_sentences(imported: str, sample: Any, context: Context) -> int | None:
    """Of a corpus named by the label of its import, ``import:ai/train``."""
    domain, _, split = imported.removeprefix("import:").partition("/")
    return context.n_sentences(domain, cast(Split, split), sample)
