"""The cores and NVIDIA GPUs that a vLLM server may use. Reads the system and nvidia-smi, imports no torch."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

BINDING_VARIABLE = "VLLM_CPU_OMP_THREADS_BIND"


MANY_CORES = 8  # vLLM's own choice loses less than an eighth of more than these


_SIBLINGS = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"


def usable_cores() -> str:
    """The cores this process may use, as ``0-1`` or ``0,2-3``; "" for more than ``MANY_CORES`` and where the system
    does not tell.
    """
    if not hasattr(os, "sched_getaffinity"):
        return ""
    cores = one_thread_each(os.sched_getaffinity(0), _siblings)
    return ranges(cores) if len(cores) <= MANY_CORES else ""


def one_thread_each(threads: Iterable[int], siblings: Callable[[int], str]) -> list[int]:
    """The first hardware thread of each core; ``siblings`` names a core by its threads, "" where that is unknown."""
    first: dict[str, int] = {}
    for thread in sorted(threads):
        first.setdefault(siblings(thread) or str(thread), thread)
    return sorted(first.values())


def ranges(numbers: Iterable[int]) -> str:
    """``[0, 1, 2, 5]`` as ``0-2,5``."""
    found: list[list[int]] = []
    for number in sorted(numbers):
        if found and found[-1][-1] == number - 1:
            found[-1].append(number)
        else:
            found.append([number])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in found)


def _siblings(thread: int) -> str:
    try:
        return Path(_SIBLINGS.format(thread)).read_text(encoding="ascii").strip()
    except OSError:
        return ""


_QUERY = ("nvidia-smi", "--query-gpu=index,uuid,memory.total,memory.free", "--format=csv,noheader,nounits")


_SECONDS = 30


MIB = 2**20


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """Bytes of one GPU."""

    total: int
    free: int
    index: str = "0"  # nvidia-smi's, in the order of the PCI bus


def read_devices() -> tuple[DeviceMemory, ...]:
    """The GPUs this process may use, in the order of CUDA_VISIBLE_DEVICES; empty without nvidia-smi or without any."""
    try:
        done = subprocess.run(_QUERY, capture_output=True, text=True, check=False, timeout=_SECONDS)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return ()
    if done.returncode != 0:  # a driver that does not answer
        return ()
    return visible_devices(done.stdout, os.environ.get("CUDA_VISIBLE_DEVICES"))


def visible_devices(listing: str, visible: str | None) -> tuple[DeviceMemory, ...]:
    """Lines ``index, uuid, total MiB, free MiB`` as devices; ``visible`` is CUDA_VISIBLE_DEVICES (None: all).

    As in CUDA, the first name that fits no device ends the list, and a UUID may be cut to its beginning.
    """
    listed: dict[tuple[str, str], DeviceMemory] = {}
    for line in listing.splitlines():
        cells = [cell.strip() for cell in line.split(",")]
        if len(cells) == 4 and cells[2].isdigit() and cells[3].isdigit():
            listed[cells[0], cells[1]] = DeviceMemory(int(cells[2]) * MIB, int(cells[3]) * MIB, cells[0])
    if visible is None:
        return tuple(listed.values())
    chosen = []
    for name in (part.strip() for part in visible.split(",")):
        fitting = [
            memory
            for (index, uuid), memory in listed.items()
            if name and (name == index or uuid.startswith(name))
        ]
        if not fitting:
            break
        chosen.append(fitting[0])
    return tuple(chosen)
