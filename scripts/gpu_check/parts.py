"""All parts of the check in order. Each is a function that yields rows; if one fails, the others still run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import memory_checks
import prediction_checks
import training_checks
from apart import Tell
from machine import GIB, Machine, measured_peak
from rows import Row, stated
from shapes import TRAINED_BYTES
from subjects import Subject, cached_subjects, random_subjects

Check = Callable[[Machine], Iterator[Row]]
PEAK = "peak"  # name of the first part, whose result the others need
BATCH_GIB = 6  # for the activations of a batch and CUDA's context


@dataclass(frozen=True, slots=True)
class Part:
    name: str
    check: Check

    def run(self, machine: Machine, tell: Tell) -> None:
        for row in self.check(machine):
            tell(asdict(row))


def peak(machine: Machine) -> Iterator[Row]:
    on = "512 x 512" if machine.small else "8192 x 8192"
    yield stated("peak", measured_peak(machine), unit="TFLOP/s", on=f"bf16 product of {on}")


def all_parts(scratch: Path, machine: Machine) -> tuple[list[Part], list[str]]:
    """The parts, and one line for each model that is left out."""
    subjects = random_subjects(scratch, small=machine.small)
    cached, left_out = cached_subjects(small=machine.small)
    first = subjects[0]
    too_large = {each.name for each in (*subjects, *cached) if not _can_be_trained(each, machine)}
    left_out += [f"training, {name}: {machine.total_gib:.0f} GiB are too few" for name in sorted(too_large)]
    found = [Part(PEAK, peak)]
    found += [_part("memory plan", memory_checks.plan, each) for each in subjects if each.family == "causal"]
    for name, check in (("resume", training_checks.resume), ("two runs", training_checks.determinism)):
        found += [_part(name, check, each) for each in subjects if each is first or each.family == "causal"]
    found += [_part("LoRA", training_checks.adapters, first)]
    for each in (*subjects, *cached):
        if each.name not in too_large:
            found += [_part("training", training_checks.speed, each)]
            found += [_part("losses", training_checks.losses, each)] if each is first else []
        if each is first or each.family == "causal":  # a larger T5 computes the same and takes long
            found += [_part("texts", prediction_checks.texts, each)]
        found += [_part("prediction", prediction_checks.speed, each)]
        found += [_part("embedding", prediction_checks.embedding, each)]
    return found, left_out


def _can_be_trained(subject: Subject, machine: Machine) -> bool:
    """Whether weights and optimiser leave room for a batch; True if the GPU's memory is not known."""
    if machine.total_gib is None:
        return True
    n = subject.shape.n_parameters if subject.shape else subject.n_bytes() / 2
    return n * TRAINED_BYTES / GIB + BATCH_GIB < machine.total_gib


def _part(name: str, check: Callable[[Subject, Machine], Iterator[Row]], subject: Subject) -> Part:
    return Part(f"{name}, {subject.name}", partial(check, subject))
