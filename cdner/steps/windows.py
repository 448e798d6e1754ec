"""Bounds on memory and on lost work: a corpus is read in windows, and predictions are stored in chunks.

A step stores the results of one window before it reads the next. Chunks are small, so that a kill loses little, but
grow where storing them would take a twentieth of the time.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from cdner.store import Store
from cdner.store import predictions as stored_predictions
from cdner.types import Sentence

SIZE = 64  # predictions a transaction, more only where storing them would take a twentieth of the time
PAUSE = 19  # times as long as a transaction took


@dataclass(slots=True)
class Chunk:
    """Predictions that are not stored yet."""

    into: Store
    run_id: str
    corpus_run: str
    sentences: Mapping[int, Sentence]
    items: list[stored_predictions.Predicted] = field(default_factory=list)
    not_before: float = 0.0  # a small model predicts a chunk in less time than it takes to store one

    def add(self, item: stored_predictions.Predicted) -> None:
        self.items.append(item)
        if len(self.items) >= SIZE and time.monotonic() >= self.not_before:
            self.store()

    def store(self) -> None:
        if not self.items:
            return
        begin = time.monotonic()
        stored_predictions.save_predictions(
            self.into,
            self.run_id,
            self.items,
            corpus_run_id=self.corpus_run,
            sentences=self.sentences,
        )
        self.items.clear()
        self.not_before = time.monotonic() + PAUSE * (time.monotonic() - begin)


# Sentences a backbone gets at once: 128 batches of 16, sorted by length, differ in a token or two within a batch.
PREDICTED = 2048
# Requests an LLM backend gets at once: at the end of each window it waits for the slowest answer, once in 8,192.
ASKED = 8192
# Sentences compared with their predictions at once.
EVALUATED = 8192


def windows(positions: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    """The positions in order, ``size`` at a time."""
    for start in range(0, len(positions), size):
        yield positions[start : start + size]
