"""What work costs: CPU seconds of this process, and of commands with all they start; and how cost grows."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

Result = TypeVar("Result")
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Cost:
    cpu_seconds: float
    wall_seconds: float
    peak_mib: float  # resident, of the largest process


def cpu_seconds(work: Callable[[], Result]) -> tuple[float, Result]:
    """Of all threads of this process."""
    started = time.process_time()
    result = work()
    return time.process_time() - started, result


def best_of(n: int, work: Callable[[], object]) -> float:
    """The least CPU seconds of n times: what others do on the machine only ever adds."""
    return min(cpu_seconds(work)[0] for _ in range(n))


def command_cost(*arguments: object, code: int = 0) -> Cost:
    """One ``cdner`` command line in a process of its own, with all it starts; its output goes to nothing."""
    words = [sys.executable, "-P", "-c", "from cdner.cli import main; main()", *map(str, arguments)]
    return process_cost(words, code=code)


# Between us and the process: the kernel counts the memory of whoever started a process as its first peak.
_LAUNCHER = """
import json, os, subprocess, sys, time
started = time.monotonic()
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
_, status, used = os.wait4(process.pid, 0)
seconds = time.monotonic() - started
code = os.waitstatus_to_exitcode(status)
print(json.dumps([code, used.ru_utime + used.ru_stime, seconds, used.ru_maxrss / 1024]))
"""


def process_cost(words: Sequence[str], *, code: int = 0) -> Cost:
    """RuntimeError when it ends with another exit code."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", _LAUNCHER, *words],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    found, *cost = json.loads(done.stdout)
    if found != code:
        raise RuntimeError(f"{words} ended with {found}: {done.stderr}")
    return Cost(*cost)


def least(costs: Sequence[Cost]) -> Cost:
    """The cheapest in each respect: what others do on the machine only ever adds."""
    return Cost(
        min(cost.cpu_seconds for cost in costs),
        min(cost.wall_seconds for cost in costs),
        min(cost.peak_mib for cost in costs),
    )


def slope(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """Exponent of growth: the least-squares slope of log cost over log size; 1 = twice as much takes twice as long."""
    xs, ys = [math.log(size) for size in sizes], [math.log(cost) for cost in costs]
    mean_x, mean_y = sum(xs) / len(xs), sum(ys) / len(ys)
    above = sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True))
    return above / sum((x - mean_x) ** 2 for x in xs)
