"""One run of a server: its supervisor, its port, its log, its private folder. Started once, stopped once.

Knows nothing of vLLM but that it is a command that listens on a port.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from cdner.backends.vllm_server import supervisor
from cdner.backends.vllm_server.endpoints import LOOPBACK

GRACE_SECONDS = 10.0  # vLLM's own end takes one to three seconds
_MAX_PARENT = 48  # characters; a socket's path has at most 107, its name here 36, the folder's 20
_TAIL_BYTES = 16_384


def free_port() -> int:
    """A port of this machine that nobody listens on now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


def is_taken(port: int) -> bool:
    """Whether somebody listens on it."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        return probe.connect_ex((LOOPBACK, port)) == 0


def private_folder() -> Path:
    """A new folder that only this user can enter. Where TMPDIR is too long a path for sockets, in the usual place."""
    usual = Path("/tmp")  # noqa: S108  mkdtemp makes the folder itself private
    parent = tempfile.gettempdir()
    if len(parent) > _MAX_PARENT and usual.is_dir():
        parent = str(usual)
    return Path(tempfile.mkdtemp(prefix="cdner-vllm-", dir=parent))


class ServerProcess:
    """``command`` under a supervisor, in a session of its own: Ctrl-C in the terminal reaches cdner alone."""

    def __init__(self, command: Sequence[str], *, environment: Mapping[str, str], folder: Path) -> None:
        self._folder = folder
        self._log = folder / "vllm.log"
        supervised = (sys.executable, "-I", "-S", supervisor.__file__, str(os.getpid()), str(GRACE_SECONDS))
        with self._log.open("ab") as log:
            self._supervisor = subprocess.Popen(  # noqa: S603
                [*supervised, str(folder), *command],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=dict(environment),
                start_new_session=True,
            )

    @property
    def log(self) -> Path:
        return self._log

    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._supervisor.poll()

    def wait(self, seconds: float) -> int | None:
        """Its exit code, or None if it still runs after ``seconds``."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._supervisor.wait(seconds)
        return None

    def log_lines(self) -> list[str]:
        """The last lines it wrote, without empty ones."""
        with contextlib.suppress(FileNotFoundError), self._log.open("rb") as file:
            file.seek(max(0, self._log.stat().st_size - _TAIL_BYTES))
            lines = file.read().decode("utf-8", errors="replace").splitlines()
            return [line.strip() for line in lines if line.strip()]
        return []

    def stop(self, *, keep_folder: bool = False) -> None:
        """End it and wait until all its processes are gone. May be called twice."""
        if self._supervisor.stdin is not None:
            self._supervisor.stdin.close()  # the sign to stop
        try:
            self._supervisor.wait(GRACE_SECONDS + 5.0)
        except subprocess.TimeoutExpired:
            self._supervisor.kill()
            self._supervisor.wait()
        if not keep_folder:
            shutil.rmtree(self._folder, ignore_errors=True)
