"""However cdner ends, the server it started ends with it: killed, interrupted, or without its supervisor."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from vllm_servers import StubEnvironment, is_alive, wait_until

from cdner.config import Execution
from cdner.llm.vllm import VllmServer, find_vllm

PARENT = """
import sys, time
from cdner.llm.vllm import VllmServer, find_vllm
from cdner.config import Execution

server = VllmServer(find_vllm(Execution(vllm_python=sys.argv[1])), model="m", served_name="m")
try:
    server.start([], print)
    print("serving", flush=True)
    time.sleep(600)
except KeyboardInterrupt:
    print("interrupted", flush=True)
finally:
    server.close()
    print("closed", flush=True)
"""


def start_parent(stub: StubEnvironment) -> subprocess.Popen[str]:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(stub.python)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert parent.stdout is not None
    assert any(line == "serving\n" for line in parent.stdout)
    return parent


def test_a_killed_parent_takes_server_children_and_files_with_it(
    cpu_stub: StubEnvironment, scratch: Path
) -> None:
    parent = start_parent(cpu_stub)
    assert all(map(is_alive, cpu_stub.processes))
    parent.kill()
    parent.communicate()
    wait_until(lambda: not any(map(is_alive, cpu_stub.processes)), seconds=8)
    wait_until(lambda: list(scratch.iterdir()) == [], seconds=5)


def test_ctrl_c_in_the_terminal_stops_the_server_once_and_tidily(
    cpu_stub: StubEnvironment, scratch: Path
) -> None:
    parent = start_parent(cpu_stub)
    os.killpg(parent.pid, signal.SIGINT)  # a terminal signals its whole foreground group
    out, err = parent.communicate(timeout=20)
    assert (out.splitlines()[-2:], err) == (["interrupted", "closed"], "")
    assert cpu_stub.events("signal") == [signal.SIGTERM]
    assert not any(map(is_alive, cpu_stub.processes))
    assert list(scratch.iterdir()) == []


def test_ctrl_c_while_it_loads_leaves_nothing(
    cpu_stub: StubEnvironment, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STUB_SLOW", "60")
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(cpu_stub.python)], text=True, stdout=subprocess.PIPE
    )
    wait_until(lambda: cpu_stub.events("start"))
    parent.send_signal(signal.SIGINT)
    out, _ = parent.communicate(timeout=20)
    assert out.splitlines()[-1] == "closed"
    assert not any(map(is_alive, cpu_stub.processes))
    assert list(scratch.iterdir()) == []


def test_a_killed_supervisor_takes_the_server_with_it(cpu_stub: StubEnvironment) -> None:
    installation = find_vllm(Execution(vllm_python=str(cpu_stub.python)))
    with contextlib.closing(VllmServer(installation, model="m", served_name="m")) as server:
        server.start([])
        server_process, _, stray = cpu_stub.processes
        status = Path(f"/proc/{server_process}/status").read_text()
        (supervisor,) = [int(line.split()[1]) for line in status.splitlines() if line.startswith("PPid:")]
        os.kill(supervisor, signal.SIGKILL)
        wait_until(lambda: not is_alive(server_process), seconds=5)
        os.kill(stray, signal.SIGKILL)  # a session of its own and nobody left who knows of it
