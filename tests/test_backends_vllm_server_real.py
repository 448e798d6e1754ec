"""The real vLLM, kept by the real ``cdner serve``, ends with it; one start for all, because a start takes a minute.

Needs .venv-vllm (scripts/setup-vllm) and fails without it: what a skip hides is not tested.
"""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from vllm_servers import descendants, is_alive, wait_until

from cdner.llm.vllm import RunningServer, running_server
from cdner.llm.vllm.served import Endpoints
from cdner.models.shelf import model_location

PYTHON = Path(__file__).resolve().parents[1] / ".venv-vllm" / "bin" / "python"
QUESTION = {
    "model": "embedded",
    "messages": [{"role": "user", "content": "Which organisations does a news text name? Explain."}],
    "max_tokens": 24,
    "temperature": 0,
}
pytestmark = pytest.mark.slow


@dataclass(frozen=True, slots=True)
class Serving:
    process: subprocess.Popen[bytes]
    found: RunningServer
    scratch: Path
    said: Path

    @property
    def endpoints(self) -> Endpoints:
        return Endpoints(urlsplit(self.found.base_url).port or 0, self.found.api_key)

    def answer(self) -> str:
        connection = http.client.HTTPConnection("127.0.0.1", self.endpoints.port, timeout=120)
        headers = {"Authorization": f"Bearer {self.found.api_key}", "Content-Type": "application/json"}
        connection.request("POST", "/v1/chat/completions", json.dumps(QUESTION), headers)
        body = json.loads(connection.getresponse().read())
        connection.close()
        text: str = body["choices"][0]["message"]["content"]
        return text


@pytest.fixture(scope="module")
def serving() -> Iterator[Serving]:
    """A server in development mode, so that the endpoints of sleep are there; on a CPU they free nothing."""
    assert PYTHON.is_file(), "the real tests need .venv-vllm: run scripts/setup-vllm"
    model = Path(model_location("embedded"))
    with tempfile.TemporaryDirectory(prefix="t") as folder, pytest.MonkeyPatch.context() as patch:
        scratch, said, cache = Path(folder) / "s", Path(folder) / "said", Path(folder) / "cache"
        scratch.mkdir()
        cache.mkdir()
        (cache / "models").symlink_to(model.parent)  # the same model, but no server of anybody else's
        patch.setenv("CDNER_CACHE", str(cache))
        environment = os.environ | {"VLLM_SERVER_DEV_MODE": "1", "TMPDIR": str(scratch)}
        command = [sys.executable, "-m", "cdner", "serve", "--model", "embedded", "--max-model-len", "2048"]
        with said.open("wb") as file:
            process = subprocess.Popen(
                [*command, "--vllm-python", str(PYTHON)], stdout=file, stderr=file, env=environment
            )
        try:
            wait_until(
                lambda: running_server(str(model)) or process.poll() is not None, seconds=600, every=1.0
            )
            found = running_server(str(model))
            assert found is not None, said.read_text()
            yield Serving(process, found, scratch, said)
        finally:
            process.terminate()
            process.wait(30)


def test_real_one_is_served_under_our_key_alone(serving: Serving) -> None:
    (model,) = serving.endpoints.models()
    assert (model.name, model.max_model_len) == ("embedded", 2048)
    assert Endpoints(serving.endpoints.port, "another key").models() == ()


def test_its_key_is_in_no_command_line_and_in_no_log(serving: Serving) -> None:
    family = descendants(serving.process.pid)
    assert len(family) >= 3, "supervisor, server, engine"
    key = serving.found.api_key
    for process in family:
        assert key.encode() not in Path(f"/proc/{process}/cmdline").read_bytes()
    (log,) = serving.scratch.glob("*/vllm.log")
    assert "Application startup complete" in log.read_text()
    assert key not in log.read_text() + serving.said.read_text()


def test_it_sleeps_and_wakes_at_both_levels_and_then_says_the_same(serving: Serving) -> None:
    before = serving.answer()
    assert len(before.split()) > 3
    assert serving.endpoints.is_sleeping() is False
    for level in (1, 2):
        assert serving.endpoints.sleep(level)  # type: ignore[arg-type]
        assert serving.endpoints.is_sleeping() is True
        assert serving.endpoints.wake(level)  # type: ignore[arg-type]
        assert serving.answer() == before


def test_all_its_processes_and_files_end_with_a_killed_serve(serving: Serving) -> None:
    """The last test: it kills what the others use."""
    family = descendants(serving.process.pid)
    assert list(serving.scratch.iterdir())
    serving.process.kill()
    serving.process.wait()
    wait_until(lambda: not any(map(is_alive, family)), seconds=15)
    wait_until(lambda: list(serving.scratch.iterdir()) == [], seconds=5)
    assert running_server(model_location("embedded")) is None
