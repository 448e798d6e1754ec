"""What an examination is asked and what it finds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cdner.config import Execution

State = Literal["ok", "warning", "problem"]


@dataclass(frozen=True, slots=True)
class Examined:
    """What to look at, and how closely."""

    store: Path
    execution: Execution
    deep: bool = False  # also what takes minutes: verify the store, load WordNet, import vLLM
    network: bool = False  # also whether the LLM's server answers


@dataclass(frozen=True, slots=True)
class Finding:
    subject: str
    state: State
    found: str
    fix: str = ""  # what to do; "" where all is well


def ok(subject: str, found: str) -> Finding:
    return Finding(subject, "ok", found)


def warning(subject: str, found: str, fix: str) -> Finding:
    """Works, or something not everybody needs does not."""
    return Finding(subject, "warning", found, fix)


def problem(subject: str, found: str, fix: str) -> Finding:
    """Something will fail."""
    return Finding(subject, "problem", found, fix)
