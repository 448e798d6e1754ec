"""A vLLM server on a CPU computes on all cores it may use, unless the user, a split or many cores say otherwise."""

from __future__ import annotations

import logging
import os
import random
from pathlib import Path

import pytest
from vllm_servers import StubEnvironment

from cdner.config import Execution
from cdner.llm.vllm import Placement, VllmServer, find_vllm, place
from cdner.llm.vllm import devices as cores
from cdner.llm.vllm.devices import BINDING_VARIABLE, one_thread_each, ranges, usable_cores
from cdner.llm.vllm.installation import Device
from cdner.llm.vllm.server import server_environment


def environment_of(device: Device, own: dict[str, str], placement: Placement) -> dict[str, str]:
    return server_environment(
        own,
        api_key="k",
        folder=Path("f"),
        device=device,
        model="org/model",
        can_sleep=False,
        placement=placement,
    )


def expanded(text: str) -> list[int]:
    """As vLLM reads it."""
    found: set[int] = set()
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        found |= set(range(int(first), int(last or first) + 1))
    return sorted(found)


def test_ranges_read_back_as_the_same_numbers() -> None:
    assert (ranges([0, 1]), ranges([3]), ranges([2, 0, 1, 5]), ranges([])) == ("0-1", "3", "0-2,5", "")
    for seed in range(200):
        numbers = sorted(random.Random(seed).sample(range(24), seed % 24))
        assert expanded(ranges(numbers)) == numbers


def test_of_each_core_the_first_thread_is_used_and_an_unknown_thread_is_a_core() -> None:
    pairs = {0: "0,4", 4: "0,4", 1: "1,5", 5: "1,5"}
    assert one_thread_each({0, 1, 4, 5}, pairs.__getitem__) == [0, 1]
    assert one_thread_each({4, 5}, pairs.__getitem__) == [4, 5], "the process may not use thread 0"
    assert one_thread_each({2, 3}, lambda thread: "") == [2, 3]


def test_the_cores_are_those_of_the_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "_siblings", lambda thread: "")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {2, 3, 6})
    assert usable_cores() == "2-3,6"
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(cores.MANY_CORES)))
    assert usable_cores() == "0-7"
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(cores.MANY_CORES + 1)))
    assert usable_cores() == "", "vLLM's own choice"
    monkeypatch.delattr(os, "sched_getaffinity")
    assert usable_cores() == ""


def test_a_server_on_a_cpu_gets_them_unless_the_user_has_said_otherwise() -> None:
    placement = Placement(cores="0-1")
    assert environment_of("cpu", {}, placement)[BINDING_VARIABLE] == "0-1"
    assert environment_of("cpu", {BINDING_VARIABLE: "nobind"}, placement)[BINDING_VARIABLE] == "nobind"
    assert BINDING_VARIABLE not in environment_of("cuda", {}, placement)
    assert BINDING_VARIABLE not in environment_of("cpu", {}, Placement())


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [((), "4-5"), (("--seed=1",), "4-5"), (("--tensor-parallel-size=2",), ""), (("-tp", "2"), "")],
)
def test_a_model_split_over_workers_is_left_to_vllm(
    arguments: tuple[str, ...], expected: str, cpu_stub: StubEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cdner.llm.vllm.placement.usable_cores", lambda: "4-5")
    execution = Execution(vllm_python=str(cpu_stub.python), vllm_args=arguments)
    assert place(find_vllm(execution), execution, model="m", max_model_len=4096).cores == expected


@pytest.mark.parametrize(
    ("own", "said"),
    [
        (None, "vLLM computes on cores 0-1"),
        ("0", f"vLLM computes on the cores of {BINDING_VARIABLE} (0)"),
    ],
)
def test_a_started_server_says_where_it_computes(
    own: str | None,
    said: str,
    cpu_stub: StubEnvironment,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, logger="cdner")
    monkeypatch.delenv(BINDING_VARIABLE, raising=False)
    if own is not None:
        monkeypatch.setenv(BINDING_VARIABLE, own)
    installation = find_vllm(Execution(vllm_python=str(cpu_stub.python)))
    server = VllmServer(
        installation, model="org/model", served_name="model", placement=Placement(cores="0-1")
    )
    try:
        server.start([])
    finally:
        server.close()
    assert caplog.records[0].getMessage() == said
    (environment,) = cpu_stub.events("environment")
    assert environment[BINDING_VARIABLE] == (own or "0-1")
