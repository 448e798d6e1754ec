"""vLLM under one name, wherever it runs: at given addresses, kept by ``cdner serve``, or started here.

Where it runs is in no identity: what one way has answered, the others find in the store. A server of cdner's own is
started at the first request. Prompts are measured with the model's tokenizer first, because an engine is started for
prompts of a certain length and takes memory for it. A server that dies is started again, and what it had not answered
is sent again. This module knows no prompts.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence
from typing import Protocol

from cdner.config import Execution, Llm
from cdner.errors import BackendError
from cdner.llm.chat import Budget, ChatClient, Server
from cdner.llm.openai import check_base_url, key_for
from cdner.llm.prices import price_of
from cdner.llm.vllm import Placement, VllmInstallation, VllmServer, find_vllm, place, running_server
from cdner.llm.vllm.arguments import engine_arguments, length_for, length_given
from cdner.models.chat_tokenizer import ChatTokenizer, open_chat_tokenizer
from cdner.models.shelf import model_location
from cdner.models.weights import weights_identity
from cdner.types import Completion, Gap, ReasoningRequest

# A server of ours is watched: one that is slow, on a CPU, is not lost, and asking again would make it slower.
PATIENCE_SECONDS = 1800.0


class StartedEngine:
    """``location``: what vLLM loads. ``served_name``: what the requests call it."""

    def __init__(
        self,
        installation: VllmInstallation,
        *,
        location: str,
        served_name: str,
        execution: Execution,
        budget: Budget,
    ) -> None:
        self._installation = installation
        self._location = location
        self._served_name = served_name
        self._execution = execution
        self._budget = budget
        self._server: VllmServer | None = None
        self._client: ChatClient | None = None
        self._arguments: tuple[str, ...] = ()

    @property
    def installation(self) -> VllmInstallation:
        return self._installation

    @property
    def n_ready(self) -> int:
        return self._client.n_ready if self._client is not None else 0

    def ensure_running(self, arguments: Sequence[str], placement: Placement) -> None:
        """Awake and answering. BackendError with the end of its log if it cannot be."""
        if self._server is not None and tuple(arguments) != self._arguments:
            self.close()
        if self._server is not None:
            self._server.ensure_running()
            return
        server = VllmServer(
            self._installation,
            model=self._location,
            served_name=self._served_name,
            sleep_level=self._execution.sleep_level,
            placement=placement,
        )
        self._server, self._arguments = server, tuple(arguments)
        server.start(("--enable-prompt-tokens-details", *arguments))  # else no answer says what was cached
        self._client = ChatClient(
            [self._address(server)],
            model=self._served_name,
            concurrency=self._execution.concurrency,
            timeout=max(self._execution.timeout_seconds, PATIENCE_SECONDS),
            budget=self._budget,
            price=price_of(self._served_name, own_server=True),
            capabilities=self._execution.capabilities,
            on_unreachable=self._start_again,
        )

    def complete(self, requests: Sequence[ReasoningRequest]) -> Iterator[tuple[int, Completion | Gap]]:
        if self._client is None:
            raise RuntimeError("ensure_running comes first")
        return self._client.complete(requests)

    def rest(self) -> None:
        """Sleep, or stop where it cannot sleep."""
        if self._server is not None:
            self._server.rest(self._execution.sleep_level)

    def close(self) -> None:
        """Stop the server. ``ensure_running`` starts another."""
        client, self._client = self._client, None
        server, self._server = self._server, None
        if client is not None:
            client.close()
        if server is not None:
            server.close()

    def _start_again(self, lost: Server) -> Server | None:  # noqa: ARG002  there is one server only
        """Called while requests wait: the server took no connection."""
        if self._server is None:
            return None
        self._server.ensure_running()
        return self._address(self._server)

    def _address(self, server: VllmServer) -> Server:
        return Server(server.base_url, server.api_key)


class Engine(Protocol):
    """What is started: a server with its client."""

    @property
    def installation(self) -> VllmInstallation: ...

    @property
    def n_ready(self) -> int:
        """Outcomes at hand: see ``cdner.types.ReasoningBackend.complete``."""

    def ensure_running(self, arguments: Sequence[str], placement: Placement) -> None:
        """Started or awake with these vLLM arguments. BackendError if it cannot be."""

    def complete(self, requests: Sequence[ReasoningRequest]) -> Iterator[tuple[int, Completion | Gap]]: ...

    def rest(self) -> None: ...

    def close(self) -> None: ...


class OwnEngine:
    """``model`` as the user named it: a model of the shelf, a folder, or a hub name."""

    def __init__(self, engine: Engine, *, model: str, execution: Execution) -> None:
        self._engine = engine
        self._model = model
        self._execution = execution
        self._tokenizer: ChatTokenizer | None = None
        self._length = 0  # tokens it has room for; 0: not started
        self._arguments: tuple[str, ...] = ()
        self._placement = Placement()

    @property
    def n_ready(self) -> int:
        return self._engine.n_ready

    def complete(self, requests: Sequence[ReasoningRequest]) -> Iterator[tuple[int, Completion | Gap]]:
        """Yields as requests finish. A prompt too long for the model is a gap; if all are, a BackendError."""
        if not requests:
            return
        if self._tokenizer is None:
            self._tokenizer = open_chat_tokenizer(self._model)
        chats = self._tokenizer.harmless([request.messages for request in requests])
        prompts = self._tokenizer.lengths(chats)
        room = length_given(self._execution.vllm_args) or self._tokenizer.window
        needed = [n + request.sampling.max_tokens for n, request in zip(prompts, requests, strict=True)]
        fitting = [index for index, n in enumerate(needed) if room is None or n <= room]
        if not fitting:
            shortest = min(range(len(requests)), key=needed.__getitem__)
            raise BackendError(
                self._too_long(prompts[shortest], requests[shortest].sampling.max_tokens, room)
            )
        for index in sorted(set(range(len(requests))) - set(fitting)):
            yield index, Gap(self._too_long(prompts[index], requests[index].sampling.max_tokens, room))
        self._start(max(needed[index] for index in fitting))
        asked = [dataclasses.replace(requests[index], messages=chats[index]) for index in fitting]
        for position, outcome in self._engine.complete(asked):
            yield fitting[position], outcome

    def rest(self) -> None:
        self._engine.rest()

    def close(self) -> None:
        self._engine.close()

    def _start(self, n_tokens: int) -> None:
        """Running with room for prompts and answers of ``n_tokens``; an engine with less is replaced."""
        if n_tokens > self._length:
            self._engine.close()  # before free memory is read
            self._plan(n_tokens)
        self._engine.ensure_running(self._arguments, self._placement)

    def _plan(self, n_tokens: int) -> None:
        """Arguments and place for the memory that is free now."""
        user, installation = self._execution.vllm_args, self._engine.installation
        window = self._tokenizer.window if self._tokenizer else None
        length = length_given(user) or length_for(n_tokens, window=window)
        self._placement = place(
            installation, self._execution, model=model_location(self._model), max_model_len=length
        )
        memory = self._placement.memory
        self._arguments = engine_arguments(
            installation.device,
            max_model_len=length,
            gpu_memory_utilization=memory.utilization if memory else None,
            user=user,
        )
        self._length = length

    def _too_long(self, n_prompt: int, max_tokens: int, room: int | None) -> str:
        return (
            f"The prompt has {n_prompt} tokens and the answer may take {max_tokens}, but '{self._model}' holds {room} "
            "in all. Lower n_examples or max_tokens, or take a model with a longer context."
        )


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
        key = os.environ.get(KEY_VARIABLE, "").strip()  # never OpenAI's
        servers = [Server(base_url, key_for(base_url, key, execution)) for base_url in execution.base_urls]
        return _elsewhere(servers, llm, execution, budget)
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
            capabilities=execution.capabilities,
        )
    )
