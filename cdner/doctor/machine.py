"""The machine: Python, the packages cdner declares, torch and its devices, load, memory and disk."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from cdner.doctor.finding import Examined, Finding, ok, problem, warning
from cdner.files import cache_root
from cdner.llm.automatic import available_memory
from cdner.llm.vllm.devices import read_devices

GIB = 2**30
MEMORY_WANTED = 4.0  # GiB: a Flan-T5-base in training
DISK_WANTED, DISK_NEEDED = 10.0, 1.0  # GiB: some checkpoints of it; less than one
TORCH_SECONDS = 120
_SHOWN_VERSIONS = ("torch", "transformers", "duckdb", "openai")
# The packages of this process, in another: a torch that crashes must not take the examination with it.
_ASK_TORCH = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from dataclasses import asdict
from cdner.models.devices import find_devices
print(json.dumps(asdict(find_devices())))
"""


def python() -> Finding:
    return ok("python", f"{platform.python_version()}, {sys.executable}")


def packages(distribution: str = "cdner") -> Iterator[Finding]:
    """Every package the distribution declares, in the range it declares; what extras declare is not looked at."""
    try:
        declared = [Requirement(text) for text in requires(distribution) or ()]
    except PackageNotFoundError:
        yield warning(
            "packages", f"{distribution} is not installed: its requirements are unknown", "pip install -e ."
        )
        return
    needed = [need for need in declared if need.marker is None or need.marker.evaluate({"extra": ""})]
    n_wrong = 0
    for need in needed:
        complaint = _complaint(need)
        if complaint:
            n_wrong += 1
            yield problem("packages", complaint, f"pip install '{need.name}{need.specifier}'")
    if not n_wrong:
        shown = [f"{need.name} {version(need.name)}" for need in needed if need.name in _SHOWN_VERSIONS]
        yield ok("packages", f"all {len(needed)} in their ranges; {', '.join(shown)}")


def _complaint(need: Requirement) -> str:
    try:
        installed = version(need.name)
    except PackageNotFoundError:
        return f"{need.name} is not installed"
    fits = need.specifier.contains(installed, prereleases=True)
    return "" if fits else f"{need.name} {installed} is installed, {need.specifier} is needed"


def memory(wanted: float = MEMORY_WANTED) -> Finding:
    """``wanted``: GiB that should be free."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GIB
    free = available_memory() / GIB
    found = f"{free:.1f} of {total:.1f} GiB free"
    if free >= wanted:
        return ok("memory", found)
    return warning(
        "memory", found, f"End other programs, or take a smaller backbone: {wanted:g} GiB are comfortable."
    )


def load(average: float | None = None, n_cores: int | None = None) -> Finding:
    """Whether other processes keep the cores busy: threads that wait for one another then spin, and training on the
    CPU can take ten times as long.

    ``average``: processes that ran or waited, mean of the last minute (default: the system's); ``n_cores``: those
    this process may use.
    """
    cores = n_cores or _usable_cores()
    if average is None:
        try:
            average = os.getloadavg()[0]
        except OSError:
            return ok("load", f"unknown; {cores} cores")
    if average <= cores:
        return ok("load", f"{average:.1f} on {cores} cores")
    return warning(
        "load",
        f"training here would be slowed: {average:.1f} processes want {cores} cores",
        "Wait until other programs end, or set OMP_NUM_THREADS=1 and accept that it takes longer.",
    )


def _usable_cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        return os.cpu_count() or 1


def disks(asked: Examined) -> Iterator[Finding]:
    yield disk("disk: store", asked.store.resolve().parent)
    yield disk("disk: cache", cache_root())


def disk(subject: str, folder: Path, *, wanted: float = DISK_WANTED, needed: float = DISK_NEEDED) -> Finding:
    """Free GiB where the folder is or will be made, and whether it can be written."""
    present = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not present.is_dir() or not os.access(present, os.W_OK):
        return problem(
            subject, f"{present} is no folder one can write in", "Name another: --store, CDNER_CACHE."
        )
    free = shutil.disk_usage(present).free / GIB
    found = f"{free:.1f} GiB free at {present}"
    fix = f"Make room: a trained backbone takes 0.3 to 3 GiB; {wanted:g} GiB are comfortable."
    if free < needed:
        return problem(subject, found, fix)
    return warning(subject, found, fix) if free < wanted else ok(subject, found)


def ask_torch(interpreter: str = sys.executable) -> subprocess.Popen[str]:
    """Starts the question; ``torch_devices`` waits for the answer."""
    return subprocess.Popen(  # noqa: S603  our own code
        [interpreter, "-c", _ASK_TORCH, json.dumps(sys.path)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def torch_devices(asking: subprocess.Popen[str], seconds: float = TORCH_SECONDS) -> Iterator[Finding]:
    """torch's version and what it can compute on."""
    reinstall = "Install torch again, in the version cdner asks for and for this machine."
    try:
        out, err = asking.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        asking.kill()
        asking.communicate()
        yield problem("torch", f"could not be imported within {seconds:g} seconds", reinstall)
        return
    if asking.returncode != 0:
        why = (err.strip().splitlines() or [f"the process ended with {asking.returncode}"])[-1]
        yield problem("torch", f"cannot be imported: {why}", reinstall)
        return
    yield from _devices(json.loads(out.splitlines()[-1]))


def _devices(found: dict[str, Any]) -> Iterator[Finding]:
    bf16 = "bf16 in hardware" if found["cpu_bf16"] else "no bf16: float32 is used"
    yield ok("torch", f"{found['torch']}; CPU with {found['n_threads']} threads, {bf16}")
    for gpu in found["gpus"]:
        line = f"{gpu['name']}, {gpu['free_gib']:.1f} of {gpu['total_gib']:.1f} GiB free"
        yield ok("gpu", f"{line}, {'bf16' if gpu['bf16'] else 'no bf16: float32 is used'}")
    if not found["gpus"] and (devices := read_devices()):
        built = f"built for CUDA {found['cuda']}" if found["cuda"] else "a build without CUDA"
        yield warning(
            "gpu",
            f"{len(devices)} NVIDIA GPUs are here, but torch ({built}) sees none",
            "Install the torch build for this driver's CUDA, or update the driver.",
        )
    elif not found["gpus"]:
        yield ok("gpu", "none; the CPU is used")
