"""One thread owns the model; requests that come together are predicted in one batch.

Knows nothing of HTTP.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from cdner.api import FoundEntity, Text
from cdner.errors import CdnerError

Predicted = list[list[FoundEntity]]
Predict = Callable[[Sequence[Text]], Predicted]


class FullError(CdnerError):
    """More sentences wait than the service takes."""


@dataclass(frozen=True, slots=True)
class _Job:
    texts: Sequence[Text]
    answer: Future[Predicted] = field(default_factory=Future)


class Batcher:
    """Predicts in one thread. ``most_texts`` sentences a batch, ``most_waiting`` sentences that may wait."""

    def __init__(self, predict: Predict, *, most_texts: int, most_waiting: int) -> None:
        self._predict, self._most_texts, self._most_waiting = predict, most_texts, most_waiting
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._n_waiting = 0
        self._is_closed = False
        self._thread = threading.Thread(target=self._work, name="cdner model", daemon=True)
        self._thread.start()

    @property
    def n_waiting(self) -> int:
        """Sentences whose batch has not begun."""
        return self._n_waiting

    def submit(self, texts: Sequence[Text]) -> Future[Predicted]:
        """The entities of each sentence, later. Raises FullError if too many wait, or the service is closing."""
        job = _Job(texts)
        with self._lock:
            if self._is_closed or self._n_waiting + len(texts) > self._most_waiting:
                raise FullError
            self._n_waiting += len(texts)
            self._jobs.put(job)
        return job.answer

    def close(self) -> None:
        """Finish what waits, and end the thread."""
        with self._lock:
            self._is_closed = True
            self._jobs.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (first := self._jobs.get()) is not None:
            jobs, is_last = self._together(first)
            self._answer([job for job in jobs if job.answer.set_running_or_notify_cancel()])
            if is_last:
                return

    def _together(self, first: _Job) -> tuple[list[_Job], bool]:
        """Jobs that wait already, up to a batch; and whether the end came."""
        jobs, n_texts, is_last = [first], len(first.texts), False
        while n_texts < self._most_texts and not is_last:
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                break
            if job is None:
                is_last = True
            else:
                jobs.append(job)
                n_texts += len(job.texts)
        with self._lock:
            self._n_waiting -= n_texts
        return jobs, is_last

    def _answer(self, jobs: Sequence[_Job]) -> None:
        """Give each job its answer; what makes a batch fail makes only its own job fail."""
        if not jobs:
            return
        try:
            found = self._predict([text for job in jobs for text in job.texts])
        except Exception as error:  # noqa: BLE001  goes to whoever asked
            if len(jobs) == 1:
                jobs[0].answer.set_exception(error)
                return
            for job in jobs:
                self._answer([job])
            return
        start = 0
        for job in jobs:
            job.answer.set_result(found[start : start + len(job.texts)])
            start += len(job.texts)
