"""vLLM under one name, wherever it runs: at given addresses, kept by ``cdner serve``, or started here.

Where it runs is in no identity: what one way has answered, the others find in the store. Knows no prompts.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Protocol

from cdner.backbone.identity import weights_identity
from cdner.backbone.shelf import model_location
from cdner.backends.chat import Budget, ChatClient, Server
from cdner.backends.openai import check_base_url, read_key
from cdner.backends.own_engine import OwnEngine
from cdner.backends.prices import price_of
from cdner.backends.started_engine import StartedEngine
from cdner.backends.vllm_server import find_vllm, running_server
from cdner.config import Execution, Llm
from cdner.types import Completion, Gap, ReasoningRequest

KEY_VARIABLE = "VLLM_API_KEY"


class Place(Protocol):
    """Where vLLM runs."""

    @property
    def n_ready(self) -> int: ...

    def complete(self, requests: Sequence[ReasoningRequest]) -> Iterator[tuple[int, Completion | Gap]]: ...

    def rest(self) -> None: ...

    def close(self) -> None: ...


class Elsewhere:
    """Servers that somebody else runs: nothing to start, nothing to stop."""

    def __init__(self, client: ChatClient) -> None:
        self._client = client

    @property
    def n_ready(self) -> int:
        return self._client.n_ready

    def complete(self, requests: Sequence[ReasoningRequest]) -> Iterator[tuple[int, Completion | Gap]]:
        return self._client.complete(requests)

    def rest(self) -> None:
        """Their memory is theirs."""

    def close(self) -> None:
        self._client.close()


class VllmBackend:
    """Opening it starts nothing; the first ``complete`` does."""

    family = "vllm"

    def __init__(self, place: Place, *, model: str) -> None:
        self._place = place
        self._model = model

    @property
    def model(self) -> str:
        return self._model

    @property
    def n_ready(self) -> int:
        """Outcomes at hand: see ``cdner.types.ReasoningBackend.complete``."""
        return self._place.n_ready

    def complete(self, requests: Sequence[ReasoningRequest]) -> Iterator[tuple[int, Completion | Gap]]:
        """Yields as answers arrive. BackendError if vLLM cannot be started, reached or kept alive."""
        return self._place.complete(requests)

    def rest(self) -> None:
        self._place.rest()

    def close(self) -> None:
        self._place.close()


def open_backend(llm: Llm, execution: Execution, budget: Budget) -> VllmBackend:
    """``llm.model``: a model of the shelf, a folder, a hub name, or the name at the servers ``execution.base_urls``.

    A server that ``cdner serve`` keeps of this model is used, unless ``execution.vllm_args`` ask for another.
    BackendError for an unusable address and where vLLM is to be started but not installed.
    """
    return VllmBackend(_place(llm, execution, budget), model=weights_identity(llm.model))


def _place(llm: Llm, execution: Execution, budget: Budget) -> Place:
    if execution.base_urls:
        for base_url in execution.base_urls:
            check_base_url(base_url)
        key = os.environ.get(KEY_VARIABLE, "").strip() or read_key(required=False)
        return _elsewhere([Server(base_url, key) for base_url in execution.base_urls], llm, execution, budget)
    location = model_location(llm.model)
    kept = None if execution.vllm_args else running_server(location)
    if kept is not None:
        return _elsewhere(
            [Server(kept.base_url, kept.api_key)], llm, execution, budget, called=kept.served_name
        )
    started = StartedEngine(
        find_vllm(execution), location=location, served_name=llm.model, execution=execution, budget=budget
    )
    return OwnEngine(started, model=llm.model, execution=execution)


def _elsewhere(
    servers: Sequence[Server], llm: Llm, execution: Execution, budget: Budget, *, called: str = ""
) -> Elsewhere:
    """``called``: the model's name at the servers, "" for the user's own."""
    return Elsewhere(
        ChatClient(
            servers,
            model=called or llm.model,
            concurrency=execution.concurrency,
            timeout=execution.timeout_seconds,
            budget=budget,
            price=price_of(llm.model, own_server=True),
        )
    )
