"""A server of cdner's own is started, watched, put to sleep and stopped: a stub, in an environment of its own."""

from __future__ import annotations

import logging
import os
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import pytest
from vllm_servers import StubEnvironment, is_alive, wait_until

from cdner.config import Execution
from cdner.errors import BackendError
from cdner.llm.vllm import VllmServer, find_vllm, server
from cdner.llm.vllm.served import Endpoints


def a_server(stub: StubEnvironment, *, sleep_level: Literal[0, 1, 2] = 1) -> VllmServer:
    installation = find_vllm(Execution(vllm_python=str(stub.python)))
    return VllmServer(installation, model="org/model", served_name="model", sleep_level=sleep_level)


@pytest.fixture
def cpu_server(cpu_stub: StubEnvironment) -> Iterator[VllmServer]:
    found = a_server(cpu_stub)
    yield found
    found.close()


@pytest.fixture
def cuda_server(cuda_stub: StubEnvironment) -> Iterator[VllmServer]:
    found = a_server(cuda_stub)
    yield found
    found.close()


def port_of(running: VllmServer) -> int:
    return int(running.base_url.split(":")[2].split("/")[0])


def endpoints_of(running: VllmServer) -> Endpoints:
    return Endpoints(port_of(running), running.api_key)


# --- start and stop --------------------------------------------------------------------------------------


def test_a_started_server_serves_under_its_name_and_key(
    cpu_stub: StubEnvironment, cpu_server: VllmServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="cdner")
    said: list[str] = []
    cpu_server.start(["--max-model-len=4096"], said.append)
    assert [model.name for model in endpoints_of(cpu_server).models()] == ["model"]
    assert Endpoints(port_of(cpu_server), "another key").models() == ()
    assert "ready after" in said[-1]
    assert said == [record.getMessage() for record in caplog.records]
    (argv,) = cpu_stub.events("argv")
    assert argv[:3] == ["--model", "org/model", "--max-model-len=4096"]
    assert argv[3:5] == ["--host", "127.0.0.1"]


def test_waiting_says_what_the_log_says(
    cpu_stub: StubEnvironment, cpu_server: VllmServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STUB_SLOW", "1")
    said: list[str] = []
    cpu_server.start([], said.append)
    assert any(line.endswith("s, stub loads weights") for line in said), "without vLLM's time and file"


def test_closing_ends_every_process_and_leaves_no_file(
    cpu_stub: StubEnvironment, cpu_server: VllmServer, scratch: Path
) -> None:
    cpu_server.start([])
    assert all(map(is_alive, cpu_stub.processes)) and len(cpu_stub.processes) == 3
    assert list(scratch.iterdir())
    cpu_server.close()
    assert not any(map(is_alive, cpu_stub.processes))
    assert list(scratch.iterdir()) == []
    assert cpu_stub.events("signal") == [signal.SIGTERM]
    cpu_server.close()  # twice does no harm
    with pytest.raises(BackendError, match="closed"):
        cpu_server.ensure_running()


def test_the_key_is_in_no_command_line_and_in_no_log(
    cpu_stub: StubEnvironment, cpu_server: VllmServer, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-somebody-elses")
    cpu_server.start([])
    (environment,) = cpu_stub.events("environment")
    assert environment["VLLM_API_KEY"] == cpu_server.api_key, "the test looks for the right key"
    for listing in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            assert cpu_server.api_key.encode() not in listing.read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
    (folder,) = scratch.iterdir()
    assert folder.stat().st_mode & 0o077 == 0
    assert cpu_server.api_key not in (folder / "vllm.log").read_text()
    assert b"sk-somebody-elses" not in Path(f"/proc/{cpu_stub.processes[0]}/environ").read_bytes()


def test_a_server_that_dies_at_its_start_is_an_error_with_the_end_of_its_log_but_not_the_key(
    cpu_stub: StubEnvironment, cpu_server: VllmServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STUB_DIE", "at start")
    with pytest.raises(BackendError, match=r"ValueError: no such model; key [*]{3}") as caught:
        cpu_server.start([])
    assert cpu_server.api_key not in str(caught.value)
    monkeypatch.delenv("STUB_DIE")
    with pytest.raises(BackendError, match="no such model"):  # every thread that asks hears the same, at once
        cpu_server.ensure_running()
    assert cpu_stub.events("start") == []


def test_a_silent_start_is_given_up(
    cpu_stub: StubEnvironment, cpu_server: VllmServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STUB_SLOW", "60")
    monkeypatch.setattr(server, "SILENT_SECONDS", 1.0)
    with pytest.raises(BackendError, match="wrote nothing for 1 s"):
        cpu_server.start([])
    assert not any(map(is_alive, cpu_stub.processes))


def test_a_port_that_somebody_took_meanwhile_is_exchanged(
    cpu_server: VllmServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        ports = [other.getsockname()[1]]
        free_port = server.free_port
        monkeypatch.setattr(server, "free_port", lambda: ports.pop() if ports else free_port())
        cpu_server.start([])
        assert ports == []
        assert port_of(cpu_server) != other.getsockname()[1]


# --- crash and restart -----------------------------------------------------------------------------------


def test_a_killed_server_is_started_again_where_clients_expect_it(
    cpu_stub: StubEnvironment, cpu_server: VllmServer
) -> None:
    said: list[str] = []
    cpu_server.start([], said.append)
    before = (cpu_server.base_url, cpu_server.api_key)
    os.kill(cpu_stub.processes[0], signal.SIGKILL)
    wait_until(lambda: not any(map(is_alive, cpu_stub.processes)))
    cpu_server.ensure_running()
    assert len(cpu_stub.events("start")) == 2
    assert endpoints_of(cpu_server).models()
    assert (cpu_server.base_url, cpu_server.api_key) == before
    assert "vLLM died; restart 1 of 3" in said
    cpu_server.ensure_running()
    assert len(cpu_stub.events("start")) == 2, "a server that is well is left alone"


def test_a_server_that_keeps_dying_stays_down_after_some_restarts(
    cpu_stub: StubEnvironment, cpu_server: VllmServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "MAX_RESTARTS", 1)
    cpu_server.start([])
    os.kill(cpu_stub.processes[0], signal.SIGKILL)
    cpu_server.ensure_running()
    os.kill(cpu_stub.processes[3], signal.SIGKILL)
    with pytest.raises(BackendError, match=r"died again after 1 restarts.*stub loads weights"):
        cpu_server.ensure_running()
    assert len(cpu_stub.events("start")) == 2


def test_a_server_that_lives_but_does_not_answer_is_replaced(
    cpu_stub: StubEnvironment, cpu_server: VllmServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_UNWELL_SECONDS", 0.5)
    cpu_server.start([])
    unwell = cpu_stub.trace.with_name("unwell")
    unwell.touch()
    said: list[str] = []
    cpu_server._report = lambda line: (said.append(line), unwell.unlink(missing_ok=True))  # type: ignore[assignment]
    cpu_server.ensure_running()
    assert said[0].startswith("vLLM died")
    assert len(cpu_stub.events("start")) == 2


def test_closing_ends_a_start_in_another_thread(
    cpu_stub: StubEnvironment, cpu_server: VllmServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpu_server.start([])
    monkeypatch.setenv("STUB_SLOW", "60")
    os.kill(cpu_stub.processes[0], signal.SIGKILL)
    with ThreadPoolExecutor(1) as pool:
        restart = pool.submit(cpu_server.ensure_running)
        wait_until(lambda: len(cpu_stub.events("start")) == 2)
        started = time.monotonic()
        cpu_server.close()
        assert time.monotonic() - started < 15
        with pytest.raises(BackendError, match="closed"):
            restart.result()
    assert not any(map(is_alive, cpu_stub.processes))


def test_threads_that_miss_the_server_together_start_it_once(
    cpu_stub: StubEnvironment, cpu_server: VllmServer
) -> None:
    cpu_server.start([])
    os.kill(cpu_stub.processes[0], signal.SIGKILL)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: cpu_server.ensure_running(), range(4)))
    assert len(cpu_stub.events("start")) == 2


# --- rest ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("level", "calls"),
    [
        (1, ["/sleep?level=1", "/wake_up"]),
        (2, ["/sleep?level=2", "/wake_up?tags=weights", "/collective_rpc", "/wake_up?tags=kv_cache"]),
    ],
)
def test_on_a_gpu_it_sleeps_and_wakes_with_its_weights(
    cuda_stub: StubEnvironment, cuda_server: VllmServer, level: Literal[1, 2], calls: list[str]
) -> None:
    cuda_server.start([])
    cuda_server.rest(level)
    assert endpoints_of(cuda_server).is_sleeping() is True
    cuda_server.rest(level)  # resting is no reason to be told again
    cuda_server.ensure_running()
    assert cuda_stub.events("post") == calls
    assert cuda_stub.events("weights")[-1] is True
    assert endpoints_of(cuda_server).is_sleeping() is False
    assert len(cuda_stub.events("start")) == 1, "the same process all along"


def test_a_cpu_server_rests_by_stopping(cpu_stub: StubEnvironment, cpu_server: VllmServer) -> None:
    cpu_server.start(["--max-model-len=4096"])
    cpu_server.rest(1)
    assert not any(map(is_alive, cpu_stub.processes))
    cpu_server.wake()
    assert cpu_stub.events("argv")[0] == cpu_stub.events("argv")[1]
    assert cpu_stub.events("post") == []
    assert endpoints_of(cpu_server).models()


def test_level_0_stops_also_on_a_gpu_and_opens_no_development_endpoints(cuda_stub: StubEnvironment) -> None:
    running = a_server(cuda_stub, sleep_level=0)
    try:
        running.start([])
        (environment,) = cuda_stub.events("environment")
        assert "VLLM_SERVER_DEV_MODE" not in environment
        running.rest(0)
        assert not any(map(is_alive, cuda_stub.processes))
        running.wake()
        assert len(cuda_stub.events("start")) == 2
    finally:
        running.close()


@pytest.mark.parametrize("refused", ["/sleep", "/wake_up"])
def test_a_server_that_refuses_to_sleep_or_to_wake_is_stopped_and_started(
    cuda_stub: StubEnvironment, cuda_server: VllmServer, monkeypatch: pytest.MonkeyPatch, refused: str
) -> None:
    monkeypatch.setenv("STUB_REFUSE", refused)
    said: list[str] = []
    cuda_server.start([], said.append)
    cuda_server.rest(1)
    cuda_server.wake()
    assert len(cuda_stub.events("start")) == 2
    assert any("does not" in line for line in said)
    assert cuda_server._n_restarts == 0, "that is no crash"


def test_a_server_that_died_in_its_sleep_is_started_again(
    cuda_stub: StubEnvironment, cuda_server: VllmServer
) -> None:
    cuda_server.start([])
    cuda_server.rest(1)
    os.kill(cuda_stub.processes[0], signal.SIGKILL)
    cuda_server.wake()
    assert endpoints_of(cuda_server).is_sleeping() is False
    assert len(cuda_stub.events("start")) == 2
