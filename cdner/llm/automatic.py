"""Which LLM to take where none is named (``backend = "auto"``): vLLM on a CUDA device, else one that fits the memory.

The choice is made once, before anything is planned, and is part of the run's identity like a named one.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from cdner.config import Execution, Llm
from cdner.errors import BackendError
from cdner.models.shelf import ShelfModel, shelf

AUTO = "auto"
SHARE = (
    0.55  # of the free memory, at most, is for the LLM: 8 GiB for the 1.5B model; the backbone needs the rest
)
_GB = 1e9


class Chosen(NamedTuple):
    """``why``: what was found on this machine."""

    backend: str
    model: str
    why: str

    def of(self, llm: Llm) -> Llm:
        """The settings with this LLM; one that is named stays. ``local`` repeats nothing: it would write the same."""
        changes: dict[str, object] = {"backend": self.backend}
        if llm.model == type(llm)().model:
            changes["model"] = self.model
        if self.backend == "local":
            changes |= {"retries": 0, "structured": llm.structured and _writes_by_schema()}
        return llm.model_copy(update=changes)


def choose_llm(execution: Execution) -> Chosen:
    """Imports torch."""
    models = sorted(
        (model for model in shelf() if "LLM" in model.purposes), key=lambda model: -model.parameters
    )
    if _has_cuda() and _has_vllm(execution):
        return Chosen("vllm", models[0].name, "a CUDA device and vLLM")
    free = available_memory()
    fitting = [model for model in models if model.memory_bytes <= SHARE * free]
    chosen: ShelfModel = fitting[0] if fitting else models[-1]
    return Chosen("local", chosen.name, f"no CUDA device with vLLM, {free / _GB:.1f} GB of memory free")


def available_memory() -> float:
    """Bytes that can be had without swapping (proc(5)); all there are where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        lines = []
    for line in lines:
        if line.startswith("MemAvailable:"):
            return 1024.0 * int(line.split()[1])
    return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))


def _has_cuda() -> bool:
    from cdner.models.devices import choose_device

    return choose_device("auto").type == "cuda"


def _has_vllm(execution: Execution) -> bool:
    from cdner.llm.vllm.installation import find_vllm

    try:
        find_vllm(execution)
    except BackendError:  # it is not there, which is an answer here
        return False
    return True


def _writes_by_schema() -> bool:
    from cdner.models.schema_grammar import grammar_is_installed

    return grammar_is_installed()
