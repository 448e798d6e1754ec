"""What the training loop needs of a model, and seeded batches of examples of similar length."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from cdner.config import BackboneChoice, Training
from cdner.types import (
    Backbone,
    Encoder,
    Generation,
    ModelInput,
    TokenConstraint,
    TrainingExample,
)

# Shuffled examples for this many batches are sorted by length and then cut into batches.
_BATCHES_PER_BUCKET = 16


@dataclass(frozen=True, slots=True)
class EncodedExample:
    source: tuple[int, ...]
    target: tuple[int, ...]  # ends with the end token; for a tagger: the number of each word's tag
    n_truncated: int
    # For taggers only:
    positions: tuple[int, ...] = ()  # positions in ``source`` at which the tags are read
    token_types: tuple[int, ...] = ()  # for each token in ``source``

    @property
    def n_tokens(self) -> int:
        return len(self.source) + len(self.target)


def epoch_batches(
    examples: Sequence[EncodedExample], batch_size: int, *, seed: int, epoch: int
) -> list[list[int]]:
    """The indices of each batch of an epoch: every example once, similar lengths together, fixed by seed and epoch."""
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
    """Groups of consecutive examples with at most ``max_tokens`` tokens; a longer example forms its own group."""
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


E_contra = TypeVar("E_contra", contravariant=True)  # an example before it is encoded


class Trainable(Encoder, Protocol[E_contra]):
    """What ``fit`` needs of a model."""

    model: Any
    tokenizer: Any
    device: torch.device
    choice: BackboneChoice
    max_input_tokens: int | None
    head: str  # module that learns at ``Training.head_rate`` times the learning rate; "" = none

    def prepare(self, types: Sequence[str], settings: Training) -> None:
        """Adapt the model to types and settings. Called in every process before the examples are encoded."""

    def encode_example(
        self, example: E_contra, *, max_input_tokens: int, max_target_tokens: int, index: int
    ) -> EncodedExample: ...

    def microbatches(self, examples: Sequence[EncodedExample]) -> Iterator[list[EncodedExample]]: ...

    def loss_sum(self, examples: Sequence[EncodedExample]) -> Tensor: ...


class TrainableBackbone(Trainable[TrainingExample], Backbone, Protocol):
    """A text-to-text model that can be trained; its output also stops at given texts."""

    def generate(
        self,
        inputs: Sequence[ModelInput],
        *,
        max_new_tokens: int,
        batch_size: int,
        constraints: Sequence[TokenConstraint] | None = None,
        stop: Sequence[str] = (),
    ) -> Iterator[tuple[int, Generation]]: ...
