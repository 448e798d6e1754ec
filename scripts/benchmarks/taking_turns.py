"""Two ways of doing the same, a step each in turn in one process, and the CPU seconds of each one's steps.

Turns make a comparison fair on a machine whose load changes: both sides see the same. Knows nothing of models.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

Work = Callable[[Callable[[], None]], object]


class _Side:
    def __init__(self) -> None:
        self.may_go = threading.Semaphore(0)
        self.other: _Side
        self.alone = False  # the other has ended
        self.seconds: list[float] = []
        self._since = 0.0

    def step_done(self) -> None:
        """Called by the work when it is set up, and behind each step: now the other side's turn."""
        self.seconds.append(time.process_time() - self._since)
        if not self.alone:
            self.other.may_go.release()
            self.may_go.acquire()
        self._since = time.process_time()

    def run(self, work: Work) -> None:
        self.may_go.acquire()
        self._since = time.process_time()
        try:
            work(self.step_done)
        finally:
            self.other.alone = True
            self.other.may_go.release()


def take_turns(first: Work, second: Work) -> tuple[Sequence[float], Sequence[float]]:
    """CPU seconds of each step of both; what a work does before its first ``step_done`` and behind its last is not.

    A work's exception is raised here, when the other has ended.
    """
    sides = _Side(), _Side()
    sides[0].other, sides[1].other = sides[1], sides[0]
    with ThreadPoolExecutor(2) as pool:
        running = [pool.submit(side.run, work) for side, work in zip(sides, (first, second), strict=True)]
        sides[0].may_go.release()
    for each in running:
        each.result()
    return sides[0].seconds[1:], sides[1].seconds[1:]
