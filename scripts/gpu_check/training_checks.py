"""Training: speed and memory compared with transformers' Trainer, adapters, resuming after a kill, determinism."""

from __future__ import annotations

import itertools
import json
import math
import os
import signal
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import training_speed
from apart import Tell, results_of, run_apart
from machine import Machine
from rows import Row, at_least, at_most, stated
from shapes import BACKWARD
from subjects import LONG, Subject, examples, written

from cdner.config import Training
from cdner.models import open_backbone
from cdner.models.training import fit
from cdner.models.weights import read_card
from cdner.types import TrainingExample

N_WARM = 3  # steps that are not measured: kernels are chosen and loaded
DROPOUT = 0.1
FIRST_LOSS = 2.0  # percent apart: bf16 weights on one side, autocast over float32 on the other
STEP_LOSS = 1e-3  # of every step in float32


@dataclass(frozen=True, slots=True)
class Side:
    """The steps of cdner or of transformers after the first ``N_WARM``."""

    seconds: float
    losses: list[float]
    gib: float


def speed(subject: Subject, machine: Machine) -> Iterator[Row]:
    """bf16 training of the same batches by cdner and by transformers, each in a process of its own."""
    subject = written(subject)
    n_steps = N_WARM + (3 if machine.small else 25)
    given = examples(subject, n_steps * training_speed.BATCH_SIZE, reasoning=not machine.small)
    n_tokens, flops = results_of(lambda tell: _work(subject, given, tell), seconds=LONG)[0]
    on = f"{n_steps - N_WARM} steps of {training_speed.BATCH_SIZE}, {n_tokens:,} tokens, bf16"
    what = f"training, {subject.name}"
    ours, theirs = (_side(subject, given, machine, own=own) for own in (True, False))
    yield stated(f"{what}: tokens a second", n_tokens / ours.seconds, unit="", on=on)
    yield stated(what, theirs.seconds / ours.seconds, unit="x", against="transformers Trainer", on=on)
    for name, side in (("cdner", ours), ("Trainer", theirs)):
        share = machine.share(flops, side.seconds) if flops else None
        if share is not None:
            yield stated(f"{what}: share of the peak, {name}", share, unit="%", on=on)
        yield stated(f"{what}: peak memory, {name}", side.gib, unit="GiB", on=on)
    apart = 100 * abs(ours.losses[0] - theirs.losses[0]) / abs(theirs.losses[0])
    yield at_most(f"{what}: first loss", apart, FIRST_LOSS, unit="%", against="transformers Trainer", on=on)


def losses(subject: Subject, machine: Machine) -> Iterator[Row]:
    """The loss of every step in float32, in which cdner and transformers must agree."""
    subject = written(subject)
    given = examples(subject, 4 * training_speed.BATCH_SIZE)
    ours, theirs = (
        _side(subject, given, machine, own=own, dtype="float32", n_warm=0) for own in (True, False)
    )
    difference = max(abs(a - b) for a, b in zip(ours.losses, theirs.losses, strict=True))
    what = f"training, {subject.name}: a step's loss"
    on = f"{len(ours.losses)} steps of {training_speed.BATCH_SIZE}, float32"
    yield at_most(what, difference, STEP_LOSS, unit="apart", against="transformers Trainer", on=on)


def adapters(subject: Subject, machine: Machine) -> Iterator[Row]:
    """LoRA compared with full training: its memory, and whether the loss falls."""
    subject = written(subject)
    given = examples(subject, 4 * training_speed.BATCH_SIZE)
    full, lora = (_fitted(subject, given, machine, _settings(epochs=3, lora_rank=rank)) for rank in (0, 8))
    what, on = f"LoRA, {subject.name}", f"rank 8, {len(given)} sentences, 3 epochs, bf16"
    first, *_, last = lora["losses"]
    yield at_most(f"{what}: last epoch's loss of the first's", 100 * last / first, 100, unit="%", on=on)
    memory = 100 * lora["gib"] / full["gib"]
    on_memory = f"{on}, {lora['gib']:.3g} GiB"
    if machine.cuda:
        yield at_most(f"{what}: peak memory", memory, 100, unit="%", against="full training", on=on_memory)
    else:
        yield stated(f"{what}: peak memory", memory, unit="%", against="full training", on=on_memory)


def resume(subject: Subject, machine: Machine) -> Iterator[Row]:
    """A run with dropout that is killed in its second epoch continues and gives the result of an unbroken run."""
    subject = written(subject, dropout=DROPOUT if subject.family == "seq2seq" else 0.0)
    given, settings = _given_twice(subject, machine)
    n_steps = math.ceil(len(given) / settings.batch_size)
    unbroken = _unbroken(subject, given, machine, settings)
    with tempfile.TemporaryDirectory(dir=subject.folder.parent) as scratch:
        output = Path(scratch) / "model"
        killed = run_apart(
            lambda tell: _fit(subject, given, machine, settings, output, tell=tell, kill_after=n_steps + 1),
            lambda _told: None,
            seconds=LONG,
        )
        if "SIGKILL" not in killed:
            raise RuntimeError(f"the run was not killed: {killed or 'it ended'}")
        resumed = results_of(
            lambda tell: _fit(subject, given, machine, settings, output, tell=tell), seconds=LONG
        )[0]
    on = f"{settings.epochs} epochs of {n_steps} steps, bf16, SIGKILL in the second"
    what, against = f"resume, {subject.name}", "unbroken run"
    yield at_most(f"{what}: steps done again", resumed["n_steps"] - 2 * n_steps, 0, unit="", on=on)
    yield from _equal(what, unbroken, resumed, against=against, on=on)


def determinism(subject: Subject, machine: Machine) -> Iterator[Row]:
    """Two equal trainings give the same weights, and the trained model writes the same texts twice."""
    subject = written(subject, dropout=DROPOUT if subject.family == "seq2seq" else 0.0)
    given, settings = _given_twice(subject, machine)
    first = _unbroken(subject, given, machine, settings)
    second = _fitted(subject, given, machine, settings, n_new=_n_new(machine))
    what, on = f"two runs, {subject.name}", f"{settings.epochs} epochs of {len(given)} sentences, bf16"
    yield from _equal(what, first, second, against="each other", on=on)
    same = sum(a == b for a, b in zip(first["texts"], second["texts"], strict=True))
    on = f"{len(first['texts'])} sentences, {_n_new(machine)} tokens each, bf16"
    yield at_least(f"{what}: same texts", 100 * same / len(first["texts"]), 100, unit="%", on=on)


def _given_twice(subject: Subject, machine: Machine) -> tuple[list[TrainingExample], Training]:
    given = examples(subject, 2 * training_speed.BATCH_SIZE, reasoning=not machine.small)
    return given, _settings(epochs=3)


def _unbroken(
    subject: Subject, given: Sequence[TrainingExample], machine: Machine, settings: Training
) -> dict[str, Any]:
    """The run that others are compared with; the first part that needs it makes it."""
    file = subject.folder.with_name(f"{subject.folder.name}-unbroken.json")
    if not file.is_file():
        made = _fitted(subject, given, machine, settings, n_new=_n_new(machine))
        file.write_text(json.dumps(made), encoding="utf-8")
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


def _n_new(machine: Machine) -> int:
    return 8 if machine.small else 32


# --- one run ---------------------------------------------------------------------------------------------


def _work(subject: Subject, given: Sequence[TrainingExample], tell: Tell) -> None:
    """Tokens and FLOPs of the measured steps, computed in a process of its own."""
    backbone = open_backbone(subject.choice("float32"), device="cpu")
    encoded = training_speed.encoded_examples(backbone, given, same_batches=True)
    measured = encoded[N_WARM * training_speed.BATCH_SIZE :]
    n_tokens = sum(example.n_tokens for example in measured)
    once = 0.0
    if subject.shape is not None:
        once = sum(subject.shape.flops(len(example.source), len(example.target)) for example in measured)
    tell([n_tokens, (1 + BACKWARD) * once])


def _side(
    subject: Subject,
    given: Sequence[TrainingExample],
    machine: Machine,
    *,
    own: bool,
    dtype: str = "bfloat16",
    n_warm: int = N_WARM,
) -> Side:
    def work(tell: Tell) -> None:
        marks: list[float] = []
        found: list[float] = []

        def step_done() -> None:
            marks.append(machine.now())

        choice = subject.choice(dtype)
        if own:
            with tempfile.TemporaryDirectory(dir=subject.folder.parent) as scratch:
                output = Path(scratch) / "model"
                training_speed.by_us(choice, given, found, output, step_done, device=machine.device)
        else:
            training_speed.by_transformers(choice, given, found, True, step_done, device=machine.device)
        tell([marks[-1] - marks[n_warm], found, machine.peak_gib()])

    return Side(*results_of(work, seconds=LONG)[0])


class _Steps:
    """A progress object for ``fit`` that counts the steps and can kill the process at one of them."""

    def __init__(self, kill_after: int) -> None:
        self.n = 0
        self._kill_after = kill_after

    def start(self, label: str, total: int | None = None) -> None: ...

    def advance(self, n: int = 1, note: str = "") -> None:  # noqa: ARG002
        self.n += n
        if self.n == self._kill_after:
            os.kill(os.getpid(), signal.SIGKILL)


def _fitted(
    subject: Subject,
    given: Sequence[TrainingExample],
    machine: Machine,
    settings: Training,
    *,
    n_new: int = 0,
) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=subject.folder.parent) as scratch:
        output = Path(scratch) / "model"
        work: Callable[[Tell], None] = lambda tell: _fit(  # noqa: E731
            subject, given, machine, settings, output, tell=tell, n_new=n_new
        )
        found: dict[str, Any] = results_of(work, seconds=LONG)[0]
        return found


def _fit(
    subject: Subject,
    given: Sequence[TrainingExample],
    machine: Machine,
    settings: Training,
    output: Path,
    *,
    tell: Tell,
    kill_after: int = 0,
    n_new: int = 0,
) -> None:
    steps = _Steps(kill_after)
    backbone: Any = open_backbone(subject.choice("bfloat16"), device=machine.device)
    result = fit(backbone, given, [], settings=settings, output=output, progress=steps)
    gib = machine.peak_gib()
    texts: dict[int, str] = {}
    if n_new:
        inputs = [example.source for example in given]
        written_texts = backbone.generate(inputs, max_new_tokens=n_new, batch_size=16)
        texts = {index: generation.text for index, generation in written_texts}
    tell(
        {
            "losses": [log.train_loss for log in result.epochs],
            "weights": read_card(output).weights_sha256,
            "n_steps": steps.n,
            "gib": gib,
            "texts": [texts[index] for index in sorted(texts)],
        }
    )


def _settings(*, epochs: int, lora_rank: int = 0) -> Training:
    return training_speed.SETTINGS.model_copy(
        update={"epochs": epochs, "lora_rank": lora_rank, "learning_rate": 1e-3 if lora_rank else 1e-4}
    )


def _equal(what: str, one: dict[str, Any], other: dict[str, Any], *, against: str, on: str) -> Iterator[Row]:
    pairs = itertools.zip_longest(one["losses"], other["losses"], fillvalue=math.inf)
    difference = max(abs(a - b) for a, b in pairs)
    yield at_most(f"{what}: an epoch's loss", difference, 0, unit="apart", against=against, on=on)
    same = 100.0 * (one["weights"] == other["weights"])
    yield at_least(f"{what}: same weights", same, 100, unit="%", against=against, on=on)
