"""The environment variables a vLLM server is started with: its key, no telemetry, no hub where none is needed.

The key travels here and not in the command line, which every user of the machine can read.

One run of a server: its supervisor, its port, its log, its private folder. Started once, stopped once.

Knows nothing of vLLM but that it is a command that listens on a port.

The vLLM server of one command: started, watched, sent to rest, woken, stopped.

A server that dies is started again, on the same port and with the same key where possible, a bounded number of times.
Sleep frees a GPU for training: the server keeps running with its weights in host memory (level 1) or nowhere
(level 2). Its endpoints come with vLLM's development mode, which asks for no key: they are open to the users of this
machine, never to the network, and only where sleep is wanted on a GPU. Knows nothing of requests and answers.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from cdner.errors import BackendError
from cdner.llm.vllm import supervisor
from cdner.llm.vllm.devices import BINDING_VARIABLE
from cdner.llm.vllm.installation import Device, VllmInstallation
from cdner.llm.vllm.placement import Placement
from cdner.llm.vllm.served import LOOPBACK, Endpoints

KEY_VARIABLE = "VLLM_API_KEY"
SLEEP_VARIABLE = "VLLM_SERVER_DEV_MODE"
_CPU_CACHE_VARIABLE = "VLLM_CPU_KVCACHE_SPACE"
_NOT_FOR_SERVERS = ("OPENAI_API_KEY", "OPENAI_BASE_URL")
_SECRETS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")  # a server needs them for gated models; its log does not


def server_environment(
    own: Mapping[str, str],
    *,
    api_key: str,
    folder: Path,
    device: Device,
    model: str,
    can_sleep: bool,
    placement: Placement,
) -> dict[str, str]:
    """``own`` (this process's) with what the server needs; what the user has set of the optional ones stays.

    ``folder`` is the server's private one.
    """
    environment = {name: value for name, value in own.items() if name not in _NOT_FOR_SERVERS}
    environment |= {
        KEY_VARIABLE: api_key,
        "TMPDIR": str(folder),  # its sockets and rendezvous files, else left in the common folder
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "NO_COLOR": "1",
        "PYTHONUNBUFFERED": "1",
        "PYTHONSAFEPATH": "1",  # python -m must import nothing from the current folder
    }
    if can_sleep:
        environment[SLEEP_VARIABLE] = "1"
    if device == "cpu":  # without it vLLM takes a share of all memory
        environment.setdefault(_CPU_CACHE_VARIABLE, str(placement.kv_cache_gib))
        if placement.cores:
            environment.setdefault(BINDING_VARIABLE, placement.cores)
    if placement.visible_devices:
        environment |= {
            "CUDA_DEVICE_ORDER": "PCI_BUS_ID",  # the order in which nvidia-smi counts
            "CUDA_VISIBLE_DEVICES": placement.visible_devices,
        }
    if Path(model).is_dir():
        environment.setdefault("HF_HUB_OFFLINE", "1")
    return environment


def binding_statement(own: Mapping[str, str], cores: str) -> str:
    """Which cores vLLM computes on, in words; ``cores`` as in ``Placement``, ``own`` this process's environment."""
    if (named := own.get(BINDING_VARIABLE)) is not None:
        return f"computes on the cores of {BINDING_VARIABLE} ({named})"
    return f"computes on cores {cores}" if cores else "computes on the cores it chooses itself"


def redacted(text: str, *, api_key: str) -> str:
    """``text`` without the server's key and the hub's."""
    for secret in (api_key, *(os.environ.get(name, "") for name in _SECRETS)):
        if secret:
            text = text.replace(secret, "***")
    return text


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


Report = Callable[[str], None]  # takes one line that says what is being waited for
SleepLevel = Literal[0, 1, 2]

MAX_RESTARTS = 3  # of a server that dies, over the life of one VllmServer
SILENT_SECONDS = 900.0  # a start that neither ends nor writes to its log for so long has failed
_UNWELL_SECONDS = 60.0  # a server that lives but does not answer gets so long before it is replaced
_LOOK_SECONDS = 0.25
_CLOSED = "The vLLM server has not been started, or is closed."
_N_TAIL_LINES = 12
_MAX_LINE = 160

_VLLM_PREFIX = re.compile(r"^(\(\w+ pid=\d+\) )?(INFO|WARNING|ERROR|DEBUG) \S+ \S+ \[\S+\] +")

_log = logging.getLogger("cdner")


class VllmServer:
    """``model``: what vLLM loads (an absolute folder or a hub name); ``served_name``: what clients call it.

    Thread-safe where threads meet: ``ensure_running``. Use ``close`` in the end, also after an error; if this process
    dies, the server's supervisor ends it all the same.
    """

    def __init__(
        self,
        installation: VllmInstallation,
        *,
        model: str,
        served_name: str,
        sleep_level: SleepLevel = 1,
        placement: Placement = Placement(),  # noqa: B008  frozen
    ) -> None:
        self._installation = installation
        self._model = model
        self._served_name = served_name
        self._can_sleep = installation.device == "cuda" and sleep_level > 0
        self._placement = placement
        self._key = secrets.token_urlsafe(32)
        self._port = 0
        self._arguments: tuple[str, ...] | None = None  # None: never started, or closed
        self._process: ServerProcess | None = None
        self._asleep: Literal[0, 1, 2] = 0  # the level it sleeps at
        self._n_restarts = 0
        self._broken = ""  # why it cannot be started; every later call fails alike
        self._report: Report | None = None
        self._lock = threading.RLock()
        self._closing = threading.Event()  # ends a start in another thread, which holds the lock for a minute

    @property
    def base_url(self) -> str:
        """OpenAI-compatible. A restart keeps it where it can: read it again after ``ensure_running``."""
        return f"http://{LOOPBACK}:{self._port}/v1"

    @property
    def api_key(self) -> str:
        """The same for all restarts."""
        return self._key

    @property
    def served_name(self) -> str:
        return self._served_name

    def start(self, arguments: Sequence[str], report: Report | None = None) -> None:
        """Start with engine options ``arguments`` (none of model, host, port, key, name, sleep) and wait until ready.

        BackendError with the end of its log if it dies, or stays silent for ``SILENT_SECONDS``.
        """
        with self._lock:
            self._stop()
            self._closing.clear()
            self._arguments = tuple(arguments)
            self._report = report
            if self._placement.memory is not None:
                self._say(self._placement.memory.statement)
            if self._installation.device == "cpu":
                self._say(f"vLLM {binding_statement(os.environ, self._placement.cores)}")
            self._launch()

    def ensure_running(self) -> None:
        """Awake and answering after this. Wakes or starts a resting server; starts a dead one again.

        BackendError after ``MAX_RESTARTS``, with the end of its log. Does nothing that takes time if all is well.
        """
        with self._lock:
            if self._arguments is None:
                raise BackendError(_CLOSED)
            if self._broken:
                raise BackendError(self._broken)
            if self._process is None:  # stopped to rest
                self._launch()
            elif self._asleep:
                self._wake()
            elif not self._is_well():
                self._restart()

    def rest(self, level: SleepLevel = 1) -> None:
        """Give up the device's memory: sleep at ``level``, or stop where it is 0 or the server cannot sleep."""
        with self._lock:
            if self._process is None or self._asleep:
                return
            if level and self._can_sleep and self._endpoints().sleep(level):
                self._asleep = level
                self._say(f"vLLM sleeps (level {level})")
                return
            if level and self._can_sleep:
                self._say("this vLLM does not sleep: stopped instead, and started again when needed")
            self._stop()

    def wake(self) -> None:
        """Take the device's memory again; ``ensure_running`` by another name."""
        self.ensure_running()

    def has_died(self, seconds: float) -> bool:
        """Watch it for so long: True as soon as it ends, False if it still runs then (or rests)."""
        process = self._process
        return process is not None and process.wait(seconds) is not None

    def close(self) -> None:
        """Stop the server and forget it, also one that another thread is starting. May be called twice."""
        self._closing.set()
        with self._lock:
            self._arguments = None
            self._stop()

    # --- one life ----------------------------------------------------------------------------------------

    def _launch(self) -> None:
        """Start a process and wait until it serves; another port if somebody took ours meanwhile."""
        while True:
            self._port = self._port if self._port and not is_taken(self._port) else free_port()
            self._asleep = 0
            self._process = self._new_process()
            ready = False
            try:
                ready = self._await_ready(self._process)
            finally:
                if not ready:  # also when interrupted
                    taken, lines = is_taken(self._port), self._process.log_lines()
                    self._stop()
            if ready:
                return
            if not taken:
                raise self._failure("vLLM ended before it served anything", lines)

    def _new_process(self) -> ServerProcess:
        folder = private_folder()
        options = ["--host", LOOPBACK, "--port", str(self._port), "--served-model-name", self._served_name]
        if self._can_sleep and "--enable-sleep-mode" not in (self._arguments or ()):
            options.append("--enable-sleep-mode")
        environment = server_environment(
            os.environ,
            api_key=self._key,
            folder=folder,
            device=self._installation.device,
            model=self._model,
            can_sleep=self._can_sleep,
            placement=self._placement,
        )
        command = (*self._installation.command(self._model), *(self._arguments or ()), *options)
        return ServerProcess(command, environment=environment, folder=folder)

    def _await_ready(self, process: ServerProcess) -> bool:
        """True once the model is served under our key; False if the process ended instead."""
        started = changed = time.monotonic()
        last = ""
        what = f"vLLM {self._installation.version} loads {self._served_name}"
        while process.wait(_LOOK_SECONDS) is None:
            if self._closing.is_set():
                raise BackendError(_CLOSED)
            endpoints = self._endpoints()
            if endpoints.is_healthy() and self._served_name in {model.name for model in endpoints.models()}:
                self._say(f"vLLM is ready after {time.monotonic() - started:.0f} s")
                return True
            line = (process.log_lines() or [""])[-1]
            if line != last:
                last, changed = line, time.monotonic()
                shown = _VLLM_PREFIX.sub("", line)[:_MAX_LINE]
                self._say(f"{what}: {changed - started:.0f} s, {shown}")
            if time.monotonic() - changed > SILENT_SECONDS:
                raise self._failure(f"vLLM wrote nothing for {SILENT_SECONDS:.0f} s", process.log_lines())
        return False

    def _is_well(self) -> bool:
        """Whether it answers; a living one that does not gets ``_UNWELL_SECONDS`` to recover or to die."""
        deadline = time.monotonic() + _UNWELL_SECONDS
        while self._process is not None and self._process.exit_code() is None:
            if self._endpoints().is_healthy():
                return True
            if self._closing.is_set() or time.monotonic() > deadline:
                return False
            self._process.wait(_LOOK_SECONDS)
        return False

    def _restart(self) -> None:
        lines = self._process.log_lines() if self._process else []
        if self._n_restarts >= MAX_RESTARTS:
            raise self._failure(f"vLLM died again after {MAX_RESTARTS} restarts; it stays down", lines)
        self._n_restarts += 1
        self._say(f"vLLM died; restart {self._n_restarts} of {MAX_RESTARTS}", logging.WARNING)
        self._stop()
        self._launch()

    def _wake(self) -> None:
        level, self._asleep = self._asleep, 0
        if level and self._endpoints().wake(level):
            self._say("vLLM is awake")
            return
        self._say("vLLM does not wake up: started again")
        self._stop()
        self._launch()

    def _stop(self) -> None:
        process, self._process, self._asleep = self._process, None, 0
        if process is not None:
            process.stop()

    # --- words -------------------------------------------------------------------------------------------

    def _endpoints(self) -> Endpoints:
        return Endpoints(self._port, self._key)

    def _say(self, line: str, level: int = logging.INFO) -> None:
        safe = redacted(line, api_key=self._key)
        _log.log(level, "%s", safe)
        if self._report is not None:
            self._report(safe)

    def _failure(self, what: str, lines: Sequence[str]) -> BackendError:
        tail = " | ".join(lines[-_N_TAIL_LINES:]) or "nothing"
        self._broken = f"{what}. The end of its log: {redacted(tail, api_key=self._key)}"
        return BackendError(self._broken)
