"""A server that cdner starts for itself, asked, lost, sent to rest and replaced: the stub behind the real start."""

from __future__ import annotations

import contextlib
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_shelf import TinyShelf
from vllm_servers import StubEnvironment

from cdner.config import Execution, Llm
from cdner.errors import BackendError
from cdner.llm import open_backend
from cdner.models.shelf import find
from cdner.types import Completion, Message, ReasoningBackend, ReasoningRequest, Sampling


def opened(stub: StubEnvironment, model: Path, **execution: object) -> ReasoningBackend:
    settings = {"vllm_python": str(stub.python), "concurrency": 2, **execution}
    return open_backend(Llm(backend="vllm", model=str(model)), Execution.model_validate(settings))


@pytest.fixture
def backend(cpu_stub: StubEnvironment, tiny_llama: Path) -> Iterator[ReasoningBackend]:
    found = opened(cpu_stub, tiny_llama)
    yield found
    found.close()
    found.close()


def asks(n: int, *, n_words: int = 3) -> list[ReasoningRequest]:
    prompt = Message("system", "word " * n_words)
    return [
        ReasoningRequest((prompt, Message("user", f"text {i}")), Sampling(max_tokens=4)) for i in range(n)
    ]


def texts(outcomes: Iterator[tuple[int, object]]) -> dict[int, str]:
    found = {}
    for index, outcome in outcomes:
        assert isinstance(outcome, Completion), outcome
        found[index] = outcome.text
    return found


EXPECTED = {index: f"text {index}" for index in range(6)}


def test_the_first_request_starts_a_server_with_our_options(
    backend: ReasoningBackend, cpu_stub: StubEnvironment, tiny_llama: Path
) -> None:
    assert texts(backend.complete(asks(6))) == EXPECTED
    (arguments,) = cpu_stub.events("argv")
    assert {"--enable-prompt-tokens-details", "--enable-prefix-caching", "--dtype=float32"} <= set(arguments)
    assert arguments[arguments.index("--model") + 1] == str(tiny_llama)
    assert texts(backend.complete(asks(6))) == EXPECTED
    assert len(cpu_stub.events("argv")) == 1


def test_a_model_of_the_shelf_is_started_from_its_folder_under_its_name(
    cpu_stub: StubEnvironment, tiny_shelf: TinyShelf, tiny_llama: Path
) -> None:
    folder = shutil.copytree(tiny_llama, tiny_shelf.models / "tiny-llm")
    with contextlib.closing(opened(cpu_stub, Path("tiny-llm"))) as backend:
        assert backend.model == find("tiny").identity
        assert texts(backend.complete(asks(1))) == {0: "text 0"}
    (arguments,) = cpu_stub.events("argv")
    assert arguments[arguments.index("--model") + 1] == str(folder)
    assert arguments[arguments.index("--served-model-name") + 1] == "tiny-llm"


def test_usage_says_what_was_cached(backend: ReasoningBackend) -> None:
    ((_, outcome),) = backend.complete(asks(1))
    assert isinstance(outcome, Completion)
    assert (outcome.input_tokens, outcome.cached_tokens, outcome.output_tokens) == (8, 6, 2)


def test_options_of_the_users_reach_the_server_and_win(cpu_stub: StubEnvironment, tiny_llama: Path) -> None:
    backend = opened(cpu_stub, tiny_llama, vllm_args=("--dtype", "bfloat16", "--max-num-seqs=3"))
    list(backend.complete(asks(1)))
    backend.close()
    (arguments,) = cpu_stub.events("argv")
    assert "--dtype=float32" not in arguments and "--max-num-seqs=3" in arguments
    assert arguments[arguments.index("--dtype") + 1] == "bfloat16"


def test_a_server_that_dies_at_work_is_replaced_and_what_it_answered_not_asked_again(
    backend: ReasoningBackend, cpu_stub: StubEnvironment
) -> None:
    outcomes = backend.complete(asks(6))
    found = texts(next(outcomes) for _ in range(3))
    cpu_stub.trace.with_name("die").touch()
    assert found | texts(outcomes) == EXPECTED
    assert len(cpu_stub.events("argv")) == 2
    asked = Counter(text for _, text in cpu_stub.events("asked"))
    assert [asked[found[index]] for index in found] == [1] * len(found)
    assert sum(asked.values()) <= 6 + 2  # what was on its way, once more


def test_without_sleep_a_resting_server_is_stopped_and_started_again(
    backend: ReasoningBackend, cpu_stub: StubEnvironment
) -> None:
    list(backend.complete(asks(1)))
    backend.rest()
    backend.rest()
    assert len(cpu_stub.events("signal")) == 1
    assert texts(backend.complete(asks(6))) == EXPECTED
    assert len(cpu_stub.events("argv")) == 2


def test_on_a_gpu_a_resting_server_sleeps_and_wakes_when_asked(
    cuda_stub: StubEnvironment, tiny_llama: Path
) -> None:
    backend = opened(cuda_stub, tiny_llama)
    list(backend.complete(asks(1)))
    backend.rest()
    assert cuda_stub.events("post")[-1] == "/sleep?level=1"
    assert texts(backend.complete(asks(6))) == EXPECTED
    backend.close()
    (arguments,) = cuda_stub.events("argv")
    assert "--dtype=bfloat16" in arguments and "--enable-sleep-mode" in arguments
    assert any(argument.startswith("--gpu-memory-utilization=0.") for argument in arguments)


def test_too_little_memory_is_said_before_anything_starts(
    cuda_stub: StubEnvironment, tiny_llama: Path
) -> None:
    backend = opened(cuda_stub, tiny_llama, gpu_memory=40.0)
    with pytest.raises(BackendError, match="--gpu-memory 40"):
        list(backend.complete(asks(1)))
    backend.close()
    assert cuda_stub.processes == []


def test_longer_prompts_get_a_server_with_more_room(
    cpu_stub: StubEnvironment, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cdner.llm.vllm.arguments.LEAST_LENGTH", 0)
    monkeypatch.setattr("cdner.llm.vllm.arguments.LENGTH_STEP", 32)
    backend = opened(cpu_stub, tiny_llama)
    list(backend.complete(asks(1)))
    list(backend.complete(asks(1, n_words=20)))
    backend.close()
    first, second = (
        [argument for argument in arguments if argument.startswith("--max-model-len=")]
        for arguments in cpu_stub.events("argv")
    )
    assert first != second


def test_the_command_budget_counts_what_is_asked(cpu_stub: StubEnvironment, tiny_llama: Path) -> None:
    backend = opened(cpu_stub, tiny_llama, max_requests=2)
    outcomes = dict(backend.complete(asks(4)))
    backend.close()
    assert sum(isinstance(outcome, Completion) for outcome in outcomes.values()) == 2
    assert len(cpu_stub.events("asked")) == 2
