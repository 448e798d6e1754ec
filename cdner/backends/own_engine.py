"""A vLLM server of cdner's own: started at the first request with room for the prompts.

Prompts are measured with the model's tokenizer first, because an engine is started for prompts of a certain length
and takes memory for it. Knows neither HTTP nor what a prompt means.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Protocol

from cdner.backbone.chat_tokenizer import ChatTokenizer, open_chat_tokenizer
from cdner.backbone.shelf import model_location
from cdner.backends.engine_arguments import engine_arguments, length_for, length_given
from cdner.backends.vllm_server import Placement, VllmInstallation, place
from cdner.config import Execution
from cdner.errors import BackendError
from cdner.types import Completion, Gap, ReasoningRequest


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
