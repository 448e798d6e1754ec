"""One training loop for every backbone: AdamW, seeded batches, best-on-dev selection, resume to the same bits.

Randomness is a function of seed and epoch alone, so an epoch that is repeated after a kill repeats exactly. Knows
tokens and losses; what a target means is the caller's.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from cdner.backbone.checkpoint import Card, read_card, weights_sha256, write_card, write_folder
from cdner.backbone.loading import quiet
from cdner.backbone.lora import attach
from cdner.backbone.optimiser import MasterAdamW, learning_rate_factor
from cdner.backbone.packing import EncodedExample, epoch_batches
from cdner.backbone.resume import TrainingState, discard, fingerprint, load_state, save_state
from cdner.config import BackboneChoice, Training
from cdner.errors import ModelError, UsageError
from cdner.types import (
    Backbone,
    EpochLog,
    FitResult,
    Generation,
    ModelInput,
    Progress,
    TokenConstraint,
    TrainingExample,
)


class TrainableBackbone(Backbone, Protocol):
    """What ``fit`` needs of a backbone beyond ``cdner.types.Backbone``."""

    model: Any
    tokenizer: Any
    device: torch.device
    choice: BackboneChoice
    max_input_tokens: int | None

    def encode_example(
        self, example: TrainingExample, *, max_input_tokens: int, max_target_tokens: int, index: int
    ) -> EncodedExample: ...

    def microbatches(self, examples: Sequence[EncodedExample]) -> Iterator[list[EncodedExample]]: ...

    def loss_sum(self, examples: Sequence[EncodedExample]) -> Tensor: ...

    def generate(
        self,
        inputs: Sequence[ModelInput],
        *,
        max_new_tokens: int,
        batch_size: int,
        constraints: Sequence[TokenConstraint] | None = None,
        stop: Sequence[str] = (),
    ) -> Iterator[tuple[int, Generation]]: ...


B = TypeVar("B", bound=TrainableBackbone)
Metric = Callable[[B], float]


@dataclass(frozen=True, slots=True)
class _Examples:
    train: tuple[EncodedExample, ...]
    dev: tuple[EncodedExample, ...]


def fit(
    backbone: B,
    train: Sequence[TrainingExample],
    dev: Sequence[TrainingExample],
    *,
    settings: Training,
    output: Path,
    on_epoch: Callable[[EpochLog], None] = lambda log: None,
    progress: Progress | None = None,
    metric: Metric[B] | None = None,
) -> FitResult:
    """Train ``backbone`` and write the selected weights to the folder ``output``, replacing what was there.

    The backbone itself ends with the selected weights. ``metric`` (higher is better) is called after every epoch
    and decides where ``settings.select`` is ``dev_metric``. A call that was killed goes on after its last finished
    epoch when repeated with the same arguments; ``on_epoch`` then sees the remaining epochs, the result holds all.
    UsageError for a selection that cannot be made, ModelError for an input that does not fit or a loss that is not
    finite. Epochs 0 writes the weights as they are.
    """
    _check(settings, train, dev, metric)
    examples = _Examples(_encode(backbone, train, settings), _encode(backbone, dev, settings))
    backbone.max_input_tokens = settings.max_input_tokens
    with torch.random.fork_rng(devices=_cuda_devices(backbone.device)):
        torch.manual_seed(settings.seed)
        state_folder = output.parent / f".{output.name}.training"
        identity = fingerprint(backbone, examples.train, examples.dev, settings)
        adapters = attach(backbone.model, settings)
        state = _train(backbone, examples, settings, state_folder, identity, on_epoch, progress, metric)
        if state.best:
            _load_weights(backbone.model, state.best)
        if adapters is not None:
            backbone.model = adapters.merge()
    for parameter in backbone.model.parameters():
        parameter.requires_grad_(True)
    backbone.model.eval()
    _save(backbone, output, settings, state.best_epoch)
    discard(state_folder)
    return FitResult(output, tuple(state.logs), state.best_epoch, read_card(output).weights_sha256)


def _train(
    backbone: B,
    examples: _Examples,
    settings: Training,
    folder: Path,
    identity: str,
    on_epoch: Callable[[EpochLog], None],
    progress: Progress | None,
    metric: Metric[B] | None,
) -> TrainingState:
    trainable = {name: p for name, p in backbone.model.named_parameters() if p.requires_grad}
    optimiser = MasterAdamW(trainable, settings)
    state = load_state(folder, identity) or TrainingState(identity)
    if state.last:
        optimiser.load_state(state.last, n_steps=state.logs[-1].step)
        state = replace(state, last={})
    per_epoch = _steps_per_epoch(len(examples.train), settings)
    if progress:
        progress.start("training", total=per_epoch * (settings.epochs - len(state.logs)))
    for epoch in range(len(state.logs) + 1, settings.epochs + 1):
        started = time.monotonic()
        loss = _epoch(backbone, examples.train, settings, optimiser, epoch, progress)
        dev_loss, dev_metric = _measure(backbone, examples.dev, settings, metric)
        log = EpochLog(
            epoch=epoch,
            step=epoch * per_epoch,
            train_loss=loss,
            dev_loss=dev_loss,
            dev_metric=dev_metric,
            seconds=time.monotonic() - started,
            n_truncated_tokens=sum(example.n_truncated for example in examples.train),
        )
        state = _selected(state, log, settings, trainable)
        if epoch < settings.epochs:
            save_state(folder, replace(state, last=optimiser.state()))
        on_epoch(log)
    return state


def _epoch(
    backbone: B,
    examples: Sequence[EncodedExample],
    settings: Training,
    optimiser: MasterAdamW,
    epoch: int,
    progress: Progress | None,
) -> float:
    """One pass over the examples; the mean loss per target token."""
    torch.manual_seed(settings.seed * 100_003 + epoch)
    batches = epoch_batches(examples, settings.batch_size, seed=settings.seed, epoch=epoch)
    groups = [
        batches[i : i + settings.gradient_accumulation]
        for i in range(0, len(batches), settings.gradient_accumulation)
    ]
    n_steps = len(groups) * settings.epochs
    total, n_tokens = 0.0, 0
    backbone.model.train()
    for rank, group in enumerate(groups):
        n_group = sum(len(examples[index].target) for batch in group for index in batch)
        group_loss = 0.0
        for batch in group:
            for micro in backbone.microbatches([examples[index] for index in batch]):
                loss = backbone.loss_sum(micro)
                (loss / n_group).backward()  # type: ignore[no-untyped-call]
                group_loss += loss.item()
            optimiser.collect()
        if not math.isfinite(group_loss):
            raise ModelError(
                f"The loss is {group_loss} in epoch {epoch}: lower the learning rate (now {settings.learning_rate:g})."
            )
        optimiser.step(learning_rate_factor((epoch - 1) * len(groups) + rank, n_steps, settings))
        total, n_tokens = total + group_loss, n_tokens + n_group
        if progress:
            progress.advance(note=f"epoch {epoch}/{settings.epochs} loss {total / n_tokens:.3f}")
    return total / n_tokens


def _measure(
    backbone: B, dev: Sequence[EncodedExample], settings: Training, metric: Metric[B] | None
) -> tuple[float | None, float | None]:
    backbone.model.eval()
    loss = None
    if dev:
        in_order = sorted(dev, key=lambda example: example.n_tokens)
        with torch.inference_mode():
            batches = [
                in_order[i : i + settings.batch_size] for i in range(0, len(in_order), settings.batch_size)
            ]
            losses = [
                backbone.loss_sum(micro).item() for batch in batches for micro in backbone.microbatches(batch)
            ]
        loss = sum(losses) / sum(len(example.target) for example in dev)
    return loss, None if metric is None else float(metric(backbone))


def _selected(
    state: TrainingState, log: EpochLog, settings: Training, trainable: dict[str, torch.nn.Parameter]
) -> TrainingState:
    """The state with this epoch's log, and its weights if it is the best so far (the earlier one wins a tie)."""
    logs = (*state.logs, log)
    if settings.select == "last":
        better = log.epoch == settings.epochs
    elif state.best_epoch == 0:
        better = True
    else:
        better = _quality(log, settings) > _quality(state.logs[state.best_epoch - 1], settings)
    if not better:
        return replace(state, logs=logs)
    if log.epoch == settings.epochs:  # the model already holds them
        return replace(state, logs=logs, best={}, best_epoch=log.epoch)
    weights = {name: parameter.detach().cpu().clone() for name, parameter in trainable.items()}
    return replace(state, logs=logs, best=weights, best_epoch=log.epoch)


def _quality(log: EpochLog, settings: Training) -> float:
    value = log.dev_metric if settings.select == "dev_metric" else log.dev_loss
    if value is None:
        raise ModelError(f"Epoch {log.epoch} has no {settings.select} to select by.")
    return value if settings.select == "dev_metric" else -value


def _save(backbone: TrainableBackbone, output: Path, settings: Training, best_epoch: int) -> None:
    def fill(folder: Path) -> None:
        with quiet():
            backbone.model.save_pretrained(folder)
        backbone.tokenizer.save_pretrained(folder)
        (folder / "generation_config.json").unlink(missing_ok=True)  # decoding is ours and always greedy
        write_card(
            folder,
            Card(
                base=backbone.choice,
                settings=settings,
                best_epoch=best_epoch,
                weights_sha256=weights_sha256(folder),
            ),
        )

    write_folder(output, fill)


def _load_weights(model: Any, weights: dict[str, Tensor]) -> None:
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, weight in weights.items():
            parameters[name].copy_(weight)


def _encode(
    backbone: TrainableBackbone, examples: Sequence[TrainingExample], settings: Training
) -> tuple[EncodedExample, ...]:
    return tuple(
        backbone.encode_example(
            example,
            max_input_tokens=settings.max_input_tokens,
            max_target_tokens=settings.max_target_tokens,
            index=index,
        )
        for index, example in enumerate(examples)
    )


def _steps_per_epoch(n_examples: int, settings: Training) -> int:
    return math.ceil(math.ceil(n_examples / settings.batch_size) / settings.gradient_accumulation)


def _check(
    settings: Training, train: Sequence[TrainingExample], dev: Sequence[TrainingExample], metric: object
) -> None:
    if settings.epochs == 0:
        return
    if not train:
        raise UsageError("There is nothing to train on: the training split is empty.")
    if settings.select == "dev_loss" and not dev:
        raise UsageError("select = 'dev_loss' needs dev examples; without them use select = 'last'.")
    if settings.select == "dev_metric" and metric is None:
        raise UsageError("select = 'dev_metric' needs a metric; without one use 'dev_loss' or 'last'.")


def _cuda_devices(device: torch.device) -> list[torch.device]:
    return [device] if device.type == "cuda" else []
