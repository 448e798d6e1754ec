"""vLLM inside this process: its scheduler is fed here, its engine runs in a child of its own.

For offline work where vLLM and cdner share an environment: no server, no port, no key. The same command line
arguments as a server's become the engine's. Knows nothing of prompts.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import os
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cdner.backends.chat import command_budget
from cdner.backends.chat.choice_dialogue import TOP, ChoiceDialogue, ServerManner
from cdner.backends.choice_trie import refuse_unusable_choices
from cdner.backends.vllm_server import Placement, VllmInstallation
from cdner.config import Execution
from cdner.errors import BackendError, UsageError
from cdner.types import Completion, Gap, ReasoningRequest

# Read by vLLM when it is imported, so they are set before. stdout is for cdner's results.
_ENVIRONMENT: Mapping[str, str] = {
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # a fork of a process that has run torch can hang
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
}
Asked = ReasoningRequest | ChoiceDialogue
_log = logging.getLogger("cdner")
SHUTDOWN_SECONDS = 10.0
MAX_RESTARTS = 3  # of an engine that dies, within one call


@dataclass(frozen=True, slots=True)
class _Entered:
    """A request in the engine: its number, what it belongs to, and when it went in."""

    index: int
    asked: Asked
    at: float


class InProcessEngine:
    """``vllm.LLM``; ``location`` is what it loads. Its scheduler computes a common prefix once by itself.

    At most ``execution.concurrency`` requests are in it: what a kill can lose, and what its memory is planned for.
    """

    def __init__(self, installation: VllmInstallation, *, location: str, execution: Execution) -> None:
        self._installation = installation
        self._location = location
        self._sleep_level = execution.sleep_level if installation.device == "cuda" else 0
        self._concurrency = execution.concurrency
        self._budget = command_budget(execution)
        self._llm: Any = None
        self._arguments: tuple[str, ...] = ()
        self._placement = Placement()
        self._asleep = False
        self._manner = ServerManner(continues=True)
        self._n_ready = 0  # finished in the same step of the engine and not yet yielded

    @property
    def installation(self) -> VllmInstallation:
        return self._installation

    @property
    def n_ready(self) -> int:
        return self._n_ready

    def ensure_running(self, arguments: Sequence[str], placement: Placement) -> None:
        """Start or wake the engine; one with other arguments is replaced. BackendError: why it cannot start."""
        if self._llm is not None and tuple(arguments) != self._arguments:
            self.close()
        self._arguments, self._placement = tuple(arguments), placement
        if self._llm is None:
            self._start()
        if self._asleep:
            self._wake()

    def complete(self, requests: Sequence[ReasoningRequest]) -> Iterator[tuple[int, Completion | Gap]]:
        """Yields as requests finish. An engine that dies is started again and asked for what it did not answer."""
        from vllm.v1.engine.exceptions import EngineDeadError

        waiting = {index: self._asked(request) for index, request in enumerate(requests)}
        for n_restarts in range(MAX_RESTARTS + 1):
            if self._llm is None:
                self._start()
            try:
                for index, outcome in self._once(waiting):
                    del waiting[index]
                    yield index, outcome
            except EngineDeadError as error:
                self.close()
                if n_restarts == MAX_RESTARTS:
                    raise BackendError(
                        f"vLLM's engine died {n_restarts + 1} times; its messages are above."
                    ) from error
            else:
                return

    def rest(self) -> None:
        """Sleep where the engine can; end it where it cannot, or where level 0 asks for that."""
        if self._llm is None or self._asleep:
            return
        if self._sleep_level:
            self._llm.sleep(level=self._sleep_level)
            self._asleep = True
        else:
            self.close()

    def close(self) -> None:
        """End the engine's process and give its memory back."""
        llm, self._llm, self._asleep = self._llm, None, False
        if llm is not None:
            llm.llm_engine.engine_core.shutdown(timeout=SHUTDOWN_SECONDS)

    def _start(self) -> None:
        if self._placement.memory is not None:
            _log.info(self._placement.memory.statement)
        own = ["--enable-sleep-mode"] if self._sleep_level else []
        if self._installation.device == "cpu":  # without it vLLM takes a share of all memory
            own.append(f"--kv-cache-memory-bytes={self._placement.kv_cache_gib << 30}")
        with _environment(self._placement):
            self._llm = _started(self._location, (*own, *self._arguments))

    def _wake(self) -> None:
        if self._sleep_level == 2:  # it has forgotten its weights
            self._llm.wake_up(tags=["weights"])
            self._llm.collective_rpc("reload_weights")
            self._llm.wake_up(tags=["kv_cache"])
        else:
            self._llm.wake_up()
        self._asleep = False

    def _asked(self, request: ReasoningRequest) -> Asked:
        if not request.sampling.choices:
            return request
        refuse_unusable_choices(request)
        return ChoiceDialogue(request, self._manner)

    def _once(self, waiting: Mapping[int, Asked]) -> Iterator[tuple[int, Completion | Gap]]:
        """All requests through one life of the engine; EngineDeadError at its end, if that comes first."""
        from vllm.v1.engine.exceptions import EngineDeadError

        engine, left = self._llm.llm_engine, deque(waiting.items())
        entered: dict[str, _Entered] = {}
        try:
            while left or entered:
                while left and len(entered) < self._concurrency:
                    index, asked = left.popleft()
                    refused = self._enter(asked, index, entered)
                    if refused is not None:
                        yield from _ends([(index, asked, refused, "")], left)
                stepped = engine.step() if entered else ()  # with nothing in it, it would wait forever
                heard = []
                for output in (output for output in stepped if output.finished):
                    was = entered.pop(output.request_id)
                    outcome = _completion(output, time.monotonic() - was.at)
                    heard.append((was.index, was.asked, outcome, _log_probabilities(output)))
                ends = _ends(heard, left)
                for n_after, end in zip(reversed(range(len(ends))), ends, strict=True):
                    self._n_ready = n_after
                    yield end
        except EngineDeadError:
            entered.clear()
            raise
        finally:
            if entered:  # the caller stopped listening
                engine.abort_request(list(entered))

    def _enter(self, asked: Asked, index: int, entered: dict[str, _Entered]) -> Gap | None:
        """Queue one request; a gap if vLLM refuses it (too long, a schema it cannot follow)."""
        from vllm.exceptions import VLLMClientError

        if not self._budget.reserve(0.0):
            return Gap(self._budget.shortage(0.0))
        request = asked.request if isinstance(asked, ChoiceDialogue) else asked
        turns = [{"role": message.role, "content": message.content} for message in request.messages]
        is_open = bool(request.sampling.choices) and turns[-1]["role"] == "assistant"
        try:
            (name,) = self._llm.enqueue_chat(
                [turns],
                _sampling(request),
                use_tqdm=False,
                add_generation_prompt=not is_open,
                continue_final_message=is_open,
            )
        except (VLLMClientError, ValueError) as error:
            return Gap(" ".join(str(error).split())[:300])
        # Behind the dash stands vLLM's own mark.
        entered[name.partition("-")[0]] = _Entered(index, asked, time.monotonic())
        return None


def _ends(
    heard: Sequence[tuple[int, Asked, Completion | Gap, str]], left: deque[tuple[int, Asked]]
) -> list[tuple[int, Completion | Gap]]:
    """What has ended; a dialogue that goes on is first among what is ``left``."""
    ends: list[tuple[int, Completion | Gap]] = []
    for index, asked, outcome, body in heard:
        end = asked.hear(outcome, body) if isinstance(asked, ChoiceDialogue) else outcome
        if end is None:
            left.appendleft((index, asked))
        else:
            ends.append((index, end))
    return ends


def check_importable() -> None:
    """BackendError where this environment has no vLLM. Imports nothing."""
    if importlib.util.find_spec("vllm") is None:
        raise BackendError(
            "--in-process needs vLLM in the environment that runs cdner, and this one has none. "
            "Run .venv-vllm/bin/cdner (made by scripts/setup-vllm), or leave --in-process away."
        )


@contextlib.contextmanager
def _environment(placement: Placement) -> Iterator[None]:
    """The variables that vLLM and its child read while they start; this process's own choice of GPUs comes back."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    before = dict(os.environ)
    if placement.visible_devices:
        os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"  # the order in which nvidia-smi counts
        os.environ["CUDA_VISIBLE_DEVICES"] = placement.visible_devices
    try:
        yield
    finally:
        for name in ("CUDA_DEVICE_ORDER", "CUDA_VISIBLE_DEVICES"):
            os.environ.pop(name, None)
            if name in before:
                os.environ[name] = before[name]


def _started(location: str, arguments: Sequence[str]) -> Any:
    from vllm import LLM
    from vllm.engine.arg_utils import EngineArgs
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = EngineArgs.add_cli_args(FlexibleArgumentParser())
    parser.error = _refuse
    chosen = EngineArgs.from_cli_args(parser.parse_args([f"--model={location}", *arguments]))
    chosen.disable_log_stats = True
    try:
        return LLM.from_engine_args(chosen)
    except (RuntimeError, ValueError, OSError) as error:
        line = " ".join(str(error).split())[:300]
        raise BackendError(f"vLLM cannot start with the model '{location}': {line}") from error


def _refuse(message: str) -> None:
    raise UsageError(f"vLLM in process does not take these arguments: {message}. Change --vllm-arg.")


def _sampling(request: ReasoningRequest) -> Any:
    from vllm import SamplingParams
    from vllm.sampling_params import StructuredOutputsParams

    sampling = request.sampling
    return SamplingParams(
        max_tokens=sampling.max_tokens,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        seed=sampling.seed,
        stop=list(sampling.stop),
        logprobs=TOP if sampling.choices else None,
        structured_outputs=StructuredOutputsParams(json=request.schema) if request.schema else None,
    )


def _completion(output: Any, seconds: float) -> Completion | Gap:
    (answer,) = output.outputs
    if answer.finish_reason not in ("stop", "length"):
        return Gap(f"vLLM ended the request: {answer.finish_reason}")
    return Completion(
        text=answer.text,
        finish_reason=answer.finish_reason,
        input_tokens=len(output.prompt_token_ids),
        cached_tokens=output.num_cached_tokens or 0,
        output_tokens=len(answer.token_ids),
        seconds=seconds,
    )


def _log_probabilities(output: Any) -> str:
    """The first token's alternatives, as a server would send them; "" where none were asked for."""
    (answer,) = output.outputs
    if not answer.logprobs:
        return ""
    top = [{"token": found.decoded_token, "logprob": found.logprob} for found in answer.logprobs[0].values()]
    return json.dumps({"choices": [{"logprobs": {"content": [{"top_logprobs": top}]}}]})
