"""``cdner serve`` and ``cdner models served``: one server for many commands, found while it lives; a stub of vLLM."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from vllm_servers import StubEnvironment, is_alive, wait_until

from cdner.cli import run_cli
from cdner.llm.vllm import RunningServer, running_server
from cdner.llm.vllm.served import Endpoints, published, running_servers


def start_serving(stub: StubEnvironment, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "cdner", "serve", "--vllm-python", str(stub.python), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture
def serving(cpu_stub: StubEnvironment) -> Iterator[subprocess.Popen[str]]:
    """``cdner serve`` that has said its base URL."""
    process = start_serving(cpu_stub, "--model", "org/m")
    assert process.stdout is not None
    url = process.stdout.readline().strip()
    assert url.startswith("http://127.0.0.1:"), process.communicate()
    yield process
    process.kill()
    process.communicate()


def cache_files(tmp_path: Path) -> list[str]:
    return sorted(file.suffix for file in (tmp_path / "cache" / "servers").iterdir())


def listed(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, object]]:
    assert run_cli(["models", *arguments, "--json"]) == 0
    rows: list[dict[str, object]] = json.loads(capsys.readouterr().out)
    return rows


def test_what_is_served_is_found_by_other_commands_and_its_key_is_private(
    serving: subprocess.Popen[str], cpu_stub: StubEnvironment, tmp_path: Path
) -> None:
    wait_until(lambda: running_server("org/m"))
    found = running_server("org/m")
    assert found is not None
    assert (found.served_name, found.pid) == ("org/m", serving.pid)
    port = int(found.base_url.split(":")[2].removesuffix("/v1"))
    assert [model.name for model in Endpoints(port, found.api_key).models()] == ["org/m"]
    assert found.api_key not in repr(found)
    assert running_server("org/another") is None
    folder = tmp_path / "cache" / "servers"
    assert folder.stat().st_mode & 0o777 == 0o700
    (key,) = folder.glob("*.key")
    assert key.stat().st_mode & 0o777 == 0o600
    (state,) = folder.glob("*.json")
    assert found.api_key not in state.read_text()
    (argv,) = cpu_stub.events("argv")
    assert {"--max-model-len=8192", "--enable-prefix-caching", "--dtype=float32"} <= set(argv)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_or_sigterm_ends_it_with_0_and_nothing_stays(
    serving: subprocess.Popen[str], cpu_stub: StubEnvironment, tmp_path: Path, number: int
) -> None:
    wait_until(running_servers)
    serving.send_signal(number)
    out, err = serving.communicate(timeout=20)
    assert (serving.returncode, out) == (0, ""), err
    assert err.splitlines()[-1] == "Stopping ..."
    assert cache_files(tmp_path) == []
    assert cpu_stub.events("signal") == [signal.SIGTERM]
    assert not any(map(is_alive, cpu_stub.processes))


def test_ctrl_c_while_it_loads_ends_it_with_130(
    cpu_stub: StubEnvironment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STUB_SLOW", "60")
    process = start_serving(cpu_stub, "--model", "org/m")
    wait_until(lambda: cpu_stub.events("start"))
    assert running_servers() == [], "only what is ready is published"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert not any(map(is_alive, cpu_stub.processes))


def test_a_server_that_dies_is_started_again_and_published_again(
    serving: subprocess.Popen[str], cpu_stub: StubEnvironment
) -> None:
    os.kill(cpu_stub.processes[0], signal.SIGKILL)
    wait_until(lambda: len(cpu_stub.events("start")) == 2 and running_server("org/m"))
    assert serving.poll() is None


def test_the_files_of_a_killed_serve_are_swept_away(
    serving: subprocess.Popen[str], cpu_stub: StubEnvironment, tmp_path: Path
) -> None:
    wait_until(running_servers)
    serving.kill()
    serving.wait()
    assert cache_files(tmp_path) == [".json", ".key"]
    assert running_server("org/m") is None
    assert cache_files(tmp_path) == []
    wait_until(lambda: not any(map(is_alive, cpu_stub.processes)))


def test_a_server_of_another_machine_in_a_shared_cache_is_left_alone(
    clean_environment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with published(model="m", served_name="m", base_url="http://127.0.0.1:9/v1", api_key="k"):
        assert running_servers() == [RunningServer("m", "m", "http://127.0.0.1:9/v1", os.getpid(), "k")]
        monkeypatch.setattr("socket.gethostname", lambda: "elsewhere")
        assert running_servers() == []
        assert cache_files(tmp_path) == [".json", ".key"]


def test_a_folder_is_found_by_any_of_its_names(
    clean_environment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path)
    with published(model="model", served_name="m", base_url="http://127.0.0.1:9/v1", api_key="k"):
        (server,) = running_servers()
        assert server.model == str(tmp_path / "model")
        assert running_server(str(tmp_path / "model")) is None, "nobody answers on that port"


def test_models_lists_what_is_served_here(
    serving: subprocess.Popen[str], capsys: pytest.CaptureFixture[str]
) -> None:
    wait_until(running_servers)
    (server,) = running_servers()
    row = listed(capsys)[-1]
    assert {name: value for name, value in row.items() if value is not None} == {
        "name": "org/m",
        "what": f"served by cdner serve, process {serving.pid}",
        "where": server.base_url,
    }
    (row,) = listed(capsys, "served")
    assert row == {
        "model": "org/m",
        "max_model_len": 4096,
        "base_url": server.base_url,
        "state": "serves",
        "pid": serving.pid,
    }


def test_models_served_asks_base_urls_and_says_who_does_not_answer(
    serving: subprocess.Popen[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    wait_until(running_servers)
    (server,) = running_servers()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("OPENAI_API_KEY", "not-the-key")
    monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
    assert [row["state"] for row in listed(capsys, "served")] == ["serves", "refuses: status 401"]
    monkeypatch.setenv("OPENAI_API_KEY", server.api_key)
    rows = listed(capsys, "served", "--base-url", server.base_url, "--base-url", "http://127.0.0.1:9/v1")
    assert [(row["model"], row["max_model_len"], row["state"]) for row in rows] == [
        ("org/m", 4096, "serves"),
        ("org/m", 4096, "serves"),
        ("", None, "does not answer"),
    ]
    assert run_cli(["models", "served", "--base-url", "nonsense"]) == 1
    assert "is no base URL" in capsys.readouterr().err


def test_without_vllm_serve_says_how_to_get_it(
    clean_environment: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = str(tmp_path / "python")
    assert run_cli(["serve", "--model", "m", "--vllm-python", missing]) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "cannot be run" in err
    assert "pip install 'cdner[vllm]'" in err
