"""LLM backends, one a file behind ``cdner.types.ReasoningBackend``; opened by name through the registry.

A backend turns requests into completions and knows nothing of sentences, prompts or the store. Importing this
package imports no SDK and no torch.
"""

from __future__ import annotations

from typing import Protocol, cast

from cdner.config import Execution, Llm
from cdner.llm.chat.budget import Budget
from cdner.registry import resolve
from cdner.types import ReasoningBackend


class BackendFactory(Protocol):
    """What a registry line of kind ``backend`` names."""

    def __call__(self, llm: Llm, execution: Execution, budget: Budget) -> ReasoningBackend: ...


def open_backend(llm: Llm, execution: Execution, budget: Budget | None = None) -> ReasoningBackend:
    """The backend ``llm.backend`` names. ``budget``: what the command may still spend; None: one for this LLM alone.

    UsageError for an unknown name, BackendError if it cannot work at all (keys and packages are checked, not the
    network).
    """
    factory = cast(BackendFactory, resolve("backend", llm.backend))
    return factory(llm, execution, budget or Budget.of(execution))
