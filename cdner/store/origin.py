"""Where an attempt was executed and by which versions. Reads the machine; in no run's identity."""

from __future__ import annotations

import os
import platform
import subprocess
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from cdner import __version__
from cdner.unfinished import pid_exists

_LIBRARIES = ("torch", "transformers", "duckdb", "numpy", "vllm", "openai")


@dataclass(frozen=True, slots=True)
class Process:
    host: str
    pid: int
    start: str  # kernel start time, so that a reused pid is another process; "" where unknown


def this_process() -> Process:
    return Process(platform.node(), os.getpid(), _start_time(os.getpid()))


def is_alive(host: str, pid: int, start: str) -> bool:
    """Whether that very process still runs. Of another host nothing is known: taken for alive."""
    if host != platform.node():
        return True
    return pid_exists(pid) and (not start or _start_time(pid) == start)


@cache
def library_versions() -> dict[str, str]:
    """Versions of Python, cdner and the libraries that shape results, as far as installed; imports none."""
    found = {"python": platform.python_version(), "cdner": __version__}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


@cache
def git_commit() -> str | None:
    """Commit of the checkout this package lies in; None for an installed package or without git."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    try:
        answer = subprocess.run(  # noqa: S603 a fixed command
            ["git", "-C", str(root), "rev-parse", "HEAD"],  # noqa: S607 the user's git, wherever it is
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()


def _start_time(pid: int) -> str:
    """Field 22 of /proc/<pid>/stat (proc(5)); a zombie, killed but not yet waited for, counts as gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return ""
    return "zombie" if fields[0] == "Z" else fields[19]
