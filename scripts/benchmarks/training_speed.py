"""Training by ``cdner.models.training.fit`` beside transformers' Trainer, a batch of each in turn.

Both get the same encoded examples, batch size, learning rate and its linear fall, clipping and number format: in bf16
transformers' way is autocast over float32 weights, ours bf16 weights beside float32 masters. The Trainer is used as its
documentation says: shuffled, ``DataCollatorForSeq2Seq`` pads a batch to its longest example.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from plain_model import plain_model
from taking_turns import take_turns
from transformers import (
    DataCollatorForSeq2Seq,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.trainer_callback import PrinterCallback

from cdner.config import BackboneChoice, Training
from cdner.models import open_backbone
from cdner.models.trainable import EncodedExample, TrainableBackbone, epoch_batches
from cdner.models.training import fit
from cdner.types import TrainingExample

BATCH_SIZE = 8
SETTINGS = Training(
    epochs=1, batch_size=BATCH_SIZE, learning_rate=1e-4, warmup_ratio=0, weight_decay=0, select="last"
)


@dataclasses.dataclass(frozen=True, slots=True)
class Compared:
    seconds: tuple[float, float]  # CPU, all steps: ours, transformers'
    losses: tuple[list[float], list[float]]  # mean per target token of each step: ours, transformers'

    @property
    def ratio(self) -> float:
        return self.seconds[1] / self.seconds[0]

    @property
    def greatest_difference(self) -> float:
        return max(abs(ours - theirs) for ours, theirs in zip(*self.losses, strict=True))


def compare(choice: BackboneChoice, examples: Sequence[TrainingExample], *, same_batches: bool) -> Compared:
    """One epoch on both sides. ``same_batches``: the Trainer reads the examples in the order of our batches.

    Without it each side makes batches as it does by itself, and the losses of a step are of other examples.
    """
    losses: tuple[list[float], list[float]] = [], []
    with tempfile.TemporaryDirectory() as scratch:
        seconds = take_turns(
            lambda step_done: by_us(choice, examples, losses[0], Path(scratch) / "model", step_done),
            lambda step_done: by_transformers(choice, examples, losses[1], same_batches, step_done),
        )
    return Compared((sum(seconds[0]), sum(seconds[1])), losses)


# --- cdner -----------------------------------------------------------------------------------------------


class _Steps:
    """``fit``'s progress, heard as the end of each step."""

    def __init__(self, step_done: Callable[[], None]) -> None:
        self._step_done = step_done

    def start(self, label: str, total: int | None = None) -> None:  # noqa: ARG002
        self._step_done()

    def advance(self, n: int = 1, note: str = "") -> None:  # noqa: ARG002
        self._step_done()


def by_us(
    choice: BackboneChoice,
    examples: Sequence[TrainingExample],
    losses: list[float],
    output: Path,
    step_done: Callable[[], None],
    *,
    device: str = "cpu",
) -> None:
    """``losses`` gets each step's; ``step_done`` is called before the first step and after each."""
    backbone = open_backbone(choice, device=device)
    tokens, usual = [0, 0.0], backbone.loss_sum

    def heard(micro: Sequence[Any]) -> torch.Tensor:
        loss = usual(micro)
        tokens[0] += sum(len(example.target) for example in micro)
        tokens[1] += loss.item()
        return loss

    def step() -> None:
        if tokens[0]:
            losses.append(tokens[1] / tokens[0])
            tokens[:] = 0, 0.0
        step_done()

    backbone.loss_sum = heard  # type: ignore[method-assign]
    fit(backbone, examples, [], settings=SETTINGS, output=output, progress=_Steps(step))


# --- transformers ----------------------------------------------------------------------------------------


class _Told(TrainerCallback):
    def __init__(self, losses: list[float], step_done: Callable[[], None]) -> None:
        self._losses = losses
        self._step_done = step_done

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._step_done()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self._step_done()

    def on_log(self, *_: Any, logs: dict[str, float], **__: Any) -> None:
        if "loss" in logs:
            self._losses.append(logs["loss"])


def by_transformers(
    choice: BackboneChoice,
    examples: Sequence[TrainingExample],
    losses: list[float],
    same_batches: bool,
    step_done: Callable[[], None],
    *,
    device: str = "cpu",
) -> None:
    """The same by a Trainer, which itself puts the model on a GPU where ``device`` is not the CPU."""
    backbone = open_backbone(choice, device="cpu")  # for its tokenizer and the encoding alone
    encoded = encoded_examples(backbone, examples, same_batches=same_batches)
    rows = [_row(example, causal=choice.family == "causal") for example in encoded]
    tokenizer, model = backbone.tokenizer, plain_model(choice)
    del backbone
    causal = choice.family == "causal"
    kind = (Trainer, TrainingArguments) if causal else (Seq2SeqTrainer, Seq2SeqTrainingArguments)
    with tempfile.TemporaryDirectory() as scratch:
        arguments: Any = kind[1](
            output_dir=scratch,
            num_train_epochs=1,
            per_device_train_batch_size=BATCH_SIZE,
            learning_rate=SETTINGS.learning_rate,
            bf16=choice.dtype == "bfloat16",
            use_cpu=device == "cpu",
            train_sampling_strategy="sequential" if same_batches else "random",
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=False,
        )
        trainer: Any = kind[0](
            model=model,
            args=arguments,
            data_collator=DataCollatorForSeq2Seq(tokenizer, model=None if causal else model),
            train_dataset=rows,
            callbacks=[_Told(losses, step_done)],
        )
        trainer.remove_callback(PrinterCallback)  # prints to stdout, where the JSON may go
        trainer.train()


def encoded_examples(
    backbone: TrainableBackbone, examples: Sequence[TrainingExample], *, same_batches: bool
) -> list[EncodedExample]:
    """``same_batches``: in the order in which ``fit`` takes them, ``BATCH_SIZE`` a step."""
    encoded = [
        backbone.encode_example(example, max_input_tokens=1024, max_target_tokens=512, index=index)
        for index, example in enumerate(examples)
    ]
    if not same_batches:
        return encoded
    batches = epoch_batches(encoded, BATCH_SIZE, seed=SETTINGS.seed, epoch=1)
    return [encoded[index] for batch in batches for index in batch]


def _row(example: EncodedExample, *, causal: bool) -> dict[str, list[int]]:
    if not causal:
        return {"input_ids": list(example.source), "labels": list(example.target)}
    return {
        "input_ids": [*example.source, *example.target],
        "labels": [-100] * len(example.source) + list(example.target),
    }
