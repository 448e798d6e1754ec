"""Which cores a vLLM server on a CPU computes on, as the value of vLLM's own setting.

Exists because vLLM by itself leaves one core to its engine process, which on two cores is half of the machine. One
hardware thread of each core, as vLLM counts them. On many cores that core is a small share, and vLLM's own choice,
which minds memory nodes too, stands.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
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
