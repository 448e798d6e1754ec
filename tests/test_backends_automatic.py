"""The LLM of ``backend = "auto"``: by device and memory, said in one line, in the identity like a named one."""

from __future__ import annotations

import pytest

from cdner.cli import run_cli
from cdner.config import Describing, Execution, Reasoning
from cdner.console.experiment_options import compose_experiment
from cdner.errors import BackendError
from cdner.llm import automatic
from cdner.llm.automatic import Chosen, available_memory, choose_llm

GIB = 2**30


def machine(monkeypatch: pytest.MonkeyPatch, *, free: float, cuda: bool = False, vllm: bool = False) -> None:
    monkeypatch.setattr(automatic, "available_memory", lambda: free * GIB)
    monkeypatch.setattr("torch.cuda.is_available", lambda: cuda)

    def find(_: Execution) -> None:
        if not vllm:
            raise BackendError("vLLM was not found")

    monkeypatch.setattr("cdner.llm.vllm.installation.find_vllm", find)


@pytest.mark.parametrize(
    ("free", "model"),
    [
        (24, "qwen2.5-coder-1.5b"),
        (8, "qwen2.5-coder-1.5b"),
        (7.9, "qwen2.5-coder-0.5b"),
        (3, "smollm2-135m-instruct"),
        (0.5, "smollm2-135m-instruct"),  # the smallest, where none fits
    ],
)
def test_without_a_gpu_the_largest_that_leaves_room(
    monkeypatch: pytest.MonkeyPatch, free: float, model: str
) -> None:
    machine(monkeypatch, free=free)
    assert choose_llm(Execution())[:2] == ("local", model)


@pytest.mark.parametrize(("cuda", "vllm"), [(True, True), (True, False), (False, True)])
def test_vllm_where_there_is_a_gpu_for_it(monkeypatch: pytest.MonkeyPatch, cuda: bool, vllm: bool) -> None:
    machine(monkeypatch, free=3, cuda=cuda, vllm=vllm)
    both = ("vllm", "qwen2.5-coder-1.5b")
    assert choose_llm(Execution())[:2] == (both if cuda and vllm else ("local", "smollm2-135m-instruct"))


def test_memory_is_what_the_system_says() -> None:
    import psutil

    assert available_memory() == pytest.approx(psutil.virtual_memory().available, rel=0.2)


def test_the_local_backend_gets_settings_it_can_keep(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = Chosen("local", "small", "because")
    for installed in (True, False):
        monkeypatch.setattr("cdner.models.schema_grammar.grammar_is_installed", lambda i=installed: i)
        llm = chosen.of(Reasoning(backend="auto"))
        assert (llm.backend, llm.model, llm.retries, llm.structured) == ("local", "small", 0, installed)
    assert chosen.of(Describing(backend="auto")).structured is False
    assert chosen.of(Reasoning(backend="auto", model="mine")).model == "mine"
    assert Chosen("vllm", "small", "because").of(Reasoning(backend="auto")).retries == Reasoning().retries


def test_the_choice_is_said_and_planned_like_a_named_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path
) -> None:
    machine(monkeypatch, free=3)
    auto = compose_experiment("quickstart", {"backend": "auto"}, ("judge.backend=auto", "judge.model="))
    said = capsys.readouterr().err
    assert said.startswith("LLM: local, smollm2-135m-instruct (no CUDA device with vLLM, 3.2 GB")
    assert {llm.backend for llm in (auto.reason, auto.describe, auto.judging)} == {"local"}
    assert auto.judging.model == "smollm2-135m-instruct"
    compose_experiment("demo", {}, ())
    assert capsys.readouterr().err == ""
    store = ["--store", str(tmp_path / "s.duckdb")]
    assert run_cli([*store, "run", "demo", "--backend", "auto", "--dry-run"]) == 0
    assert "LLM: local, " in capsys.readouterr().err
