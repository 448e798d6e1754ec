"""Groups training examples: seeded, length-bucketed batches, and what one forward pass takes."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_BATCHES_PER_BUCKET = (
    16  # batches are cut from this many batches' worth of shuffled examples, sorted by length
)


@dataclass(frozen=True, slots=True)
class EncodedExample:
    source: tuple[int, ...]
    target: tuple[int, ...]  # ends with the end token; of a tagger: the number of each word's tag
    n_truncated: int
    # Of a tagger:
    positions: tuple[int, ...] = ()  # where in ``source`` each tag is read
    token_types: tuple[int, ...] = ()  # of each token in ``source``

    @property
    def n_tokens(self) -> int:
        return len(self.source) + len(self.target)


def epoch_batches(
    examples: Sequence[EncodedExample], batch_size: int, *, seed: int, epoch: int
) -> list[list[int]]:
    """Indices of each batch of an epoch: every example once, similar lengths together, by seed and epoch."""
    chance = random.Random(f"{seed}:{epoch}")
    order = list(range(len(examples)))
    chance.shuffle(order)
    width = batch_size * _BATCHES_PER_BUCKET
    found: list[list[int]] = []
    for start in range(0, len(order), width):
        bucket = sorted(order[start : start + width], key=lambda index: examples[index].n_tokens)
        found += [bucket[i : i + batch_size] for i in range(0, len(bucket), batch_size)]
    chance.shuffle(found)
    return found


def pack(examples: Sequence[EncodedExample], *, max_tokens: int) -> Iterator[list[EncodedExample]]:
    """Consecutive examples whose tokens sum to at most ``max_tokens``; a longer one stands alone."""
    group: list[EncodedExample] = []
    total = 0
    for example in examples:
        if group and total + example.n_tokens > max_tokens:
            yield group
            group, total = [], 0
        group.append(example)
        total += example.n_tokens
    if group:
        yield group
