"""Time as the chat client sees it, so that a test can wait a minute in a second."""

from __future__ import annotations

import time
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Clock:
    """Runs ``speed`` times as fast as the world; what the chat client measures and waits for is in its seconds."""

    speed: float = 1.0

    def now(self) -> float:
        """Seconds since some fixed moment."""
        return time.monotonic() * self.speed

    def real(self, seconds: float) -> float:
        """What these seconds are for the operating system."""
        return seconds / self.speed
