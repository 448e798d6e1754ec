"""What asking an LLM takes while it goes on: tokens a second, the share that was cached, cost, gaps.

Counts what one call of a backend yields; the account of whole runs is the view ``llm_usage``.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from cdner.types import Completion, Gap


class Meter:
    """Starts to count seconds when it is made. ``clock`` gives seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._started = clock()
        self._n_input = self._n_cached = self._n_output = self._n_gaps = 0
        self._cost: float | None = None
        self._last_gap = ""

    def add(self, outcome: Completion | Gap) -> None:
        if isinstance(outcome, Gap):
            self._n_gaps += 1
            self._last_gap = outcome.reason
            return
        self._n_input += outcome.input_tokens
        self._n_cached += outcome.cached_tokens
        self._n_output += outcome.output_tokens
        if outcome.cost_usd is not None:
            self._cost = (self._cost or 0.0) + outcome.cost_usd

    def note(self) -> str:
        """``85 tokens/s, 94 % cached, $0.0123, 2 gaps (last: timeout)``; what is not known is left out."""
        seconds = max(self._clock() - self._started, 1e-3)
        parts = [f"{self._n_output / seconds:.0f} tokens/s"]
        if self._n_input:
            parts.append(f"{self._n_cached / self._n_input:.0%} cached".replace("%", " %"))
        if self._cost is not None:
            parts.append(f"${self._cost:.4f}")
        if self._n_gaps:
            parts.append(f"{self._n_gaps} {'gap' if self._n_gaps == 1 else 'gaps'} (last: {self._last_gap})")
        return ", ".join(parts)
