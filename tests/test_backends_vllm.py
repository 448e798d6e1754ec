"""The backend vllm as far as no vLLM is needed: where it runs, what opening it does, servers of somebody else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from chat_servers import ChatServer, after, asks, said, serving
from vllm_servers import StubEnvironment

from cdner.config import Execution, Llm
from cdner.errors import BackendError, ModelError
from cdner.llm import open_backend
from cdner.models.weights import weights_identity
from cdner.types import Completion

EMBEDDED = Llm(backend="vllm", model="embedded")


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with serving() as state:
        yield state


def test_servers_of_somebody_else_are_asked_with_the_key_for_vllm(
    server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_API_KEY", "key-of-vllm")
    monkeypatch.setenv("OPENAI_API_KEY", "key-of-openai")
    server.reply = lambda text, attempt: after(0.1, said(text))
    backend = open_backend(
        Llm(backend="vllm", model="org/name"), Execution(base_urls=(server.url,), concurrency=4)
    )
    outcomes = dict(backend.complete(asks(6)))
    assert all(isinstance(outcome, Completion) for outcome in outcomes.values()) and len(outcomes) == 6
    assert set(server.authorizations) == {"Bearer key-of-vllm"}
    assert {body["model"] for body in server.seen} == {"org/name"}
    assert server.together[0] == 1 and server.most_together > 1  # one first: it computes the common prefix
    backend.rest()
    backend.close()
    backend.close()


def test_openais_key_is_never_sent_to_vllm(server: ChatServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", "key-of-openai")
    backend = open_backend(Llm(backend="vllm", model="m"), Execution(base_urls=(server.url,)))
    list(backend.complete(asks(1)))
    backend.close()
    assert server.authorizations == ["Bearer no-key"]


def test_where_vllm_runs_changes_no_identity(
    server: ChatServer, cpu_stub: StubEnvironment, tiny_llama: Path
) -> None:
    llm = Llm(backend="vllm", model=str(tiny_llama))
    ways = (Execution(base_urls=(server.url,)), Execution(vllm_python=str(cpu_stub.python)))
    backends = [open_backend(llm, execution) for execution in ways]
    named = {(backend.family, backend.model) for backend in backends}
    assert named == {("vllm", weights_identity(str(tiny_llama)))}


def test_opening_starts_nothing(cpu_stub: StubEnvironment, tiny_llama: Path) -> None:
    llm = Llm(backend="vllm", model=str(tiny_llama))
    backend = open_backend(llm, Execution(vllm_python=str(cpu_stub.python)))
    backend.rest()
    backend.close()
    assert list(backend.complete([])) == []
    assert cpu_stub.processes == []


def test_an_address_that_is_none_is_refused_when_opened() -> None:
    with pytest.raises(BackendError, match="is no base URL"):
        open_backend(EMBEDDED, Execution(base_urls=("localhost:8000",)))


def test_an_environment_without_vllm_is_named_when_opened(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match=r"--vllm-python names .*nowhere.*cannot be run"):
        open_backend(EMBEDDED, Execution(vllm_python=str(tmp_path / "nowhere")))


def test_the_embedded_model_must_be_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CDNER_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match="cdner models fetch embedded"):
        open_backend(EMBEDDED, Execution())
