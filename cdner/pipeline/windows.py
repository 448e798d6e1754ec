"""A corpus a window at a time: what a step holds in memory at once, however long the corpus is.

Knows nothing of what is done with a window. Who works through one stores its results before the next is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

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
