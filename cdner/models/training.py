"""The training loop of every family: AdamW, seeded batches, selection on dev, exact resume.

Randomness is a function of seed and epoch alone, so that an epoch that is repeated after a kill gives the same weights.
The loop works with token ids and losses; the backbone encodes the examples and computes the loss.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cdner.config import BackboneChoice, Training
from cdner.errors import ModelError, UsageError
from cdner.models import distributed, open_backbone
from cdner.models.loading import Adapters, attach, quiet
from cdner.models.trainable import E_contra, EncodedExample, Trainable, epoch_batches
from cdner.models.training_state import (
    MasterAdamW,
    TrainingState,
    discard,
    fingerprint,
    learning_rate_factor,
    load_state,
    save_state,
    selected,
)
from cdner.models.weights import Card, read_card, weights_sha256, write_card, write_folder
from cdner.types import (
    EpochLog,
    FitResult,
    Progress,
)

Metric = Callable[[Any], float]  # backbone -> quality, higher is better


@dataclass(frozen=True, slots=True)
class Job:
    """One call of ``fit``, in each of the processes that share it. Only the leader reports, evaluates, and saves."""

    backbone: Trainable[Any]
    train: tuple[EncodedExample, ...]
    dev: tuple[EncodedExample, ...]
    settings: Training
    state_folder: Path
    on_epoch: Callable[[EpochLog], None] = lambda _log: None
    progress: Progress | None = None
    metric: Metric | None = None
    types: tuple[str, ...] = ()

    @property
    def steps_per_epoch(self) -> int:
        n_batches = math.ceil(len(self.train) / self.settings.batch_size)
        return math.ceil(n_batches / self.settings.gradient_accumulation)


def fit(
    backbone: Trainable[E_contra],
    train: Sequence[E_contra],
    dev: Sequence[E_contra],
    *,
    settings: Training,
    output: Path,
    types: Sequence[str] = (),
    on_epoch: Callable[[EpochLog], None] = lambda _log: None,
    progress: Progress | None = None,
    metric: Metric | None = None,
) -> FitResult:
    """Train ``backbone`` and write the selected weights to the folder ``output``, which is replaced.

    Afterwards the backbone has the selected weights too. ``types`` are the domain's types: a tagger has a head over
    their tags, other models do not need them. ``metric`` is called after every epoch; it selects the epoch if
    ``settings.select`` is ``dev_metric``. A call that was killed continues after its last finished epoch when it is
    repeated with the same arguments; ``on_epoch`` is then called for the finished epochs again. With 0 epochs the
    weights are written unchanged.

    Raises UsageError if the selection is impossible, ModelError for an input that does not fit or a loss that is not
    finite.
    """
    _check(settings, train, dev, metric)
    backbone.prepare(types, settings)
    job = Job(
        backbone,
        train=_encode(backbone, train, settings),
        dev=_encode(backbone, dev, settings),
        settings=settings,
        state_folder=output.parent / f".{output.name}.training",
        on_epoch=on_epoch,
        progress=progress,
        metric=metric,
        types=tuple(types),
    )
    backbone.max_input_tokens = settings.max_input_tokens
    announce(job)
    state, adapters = carry_out(job)
    if state.best:
        _load_weights(backbone.model, state.best)
    if adapters is not None:
        backbone.model = adapters.merge()
        backbone.model.requires_grad_(True)
    backbone.model.eval()
    _save(backbone, output, settings=settings, best_epoch=state.best_epoch)
    discard(job.state_folder)
    return FitResult(output, state.logs, state.best_epoch, read_card(output).weights_sha256)


def carry_out(job: Job) -> tuple[TrainingState, Adapters | None]:
    """Train all epochs, or those after the saved state; every process then has the same weights."""
    device, settings = job.backbone.device, job.settings
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(settings.seed)
        identity = fingerprint(job.backbone, job.train, job.dev, settings)
        adapters = attach(job.backbone.model, settings, head=job.backbone.head)
        return _train(job, identity), adapters


def _train(job: Job, identity: str) -> TrainingState:
    settings = job.settings
    trainable = {name: p for name, p in job.backbone.model.named_parameters() if p.requires_grad}
    optimiser = MasterAdamW(trainable, settings, head=job.backbone.head)
    state = load_state(job.state_folder, identity) or TrainingState(identity)
    distributed.agree(f"{identity} {len(state.logs)}")
    if state.last:
        optimiser.load_state(state.last, n_steps=state.logs[-1].step)
        state = replace(state, last={})
    for log in state.logs:
        job.on_epoch(log)  # the kill may have come between saving an epoch and reporting it
    if job.progress:
        job.progress.start("training", total=job.steps_per_epoch * (settings.epochs - len(state.logs)))
    for epoch in range(len(state.logs) + 1, settings.epochs + 1):
        started = time.monotonic()
        loss = _epoch(job, optimiser, epoch)
        dev_loss = _dev_loss(job)
        if not distributed.processes().leads:
            continue
        log = EpochLog(
            epoch=epoch,
            step=epoch * job.steps_per_epoch,
            train_loss=loss,
            dev_loss=dev_loss,
            dev_metric=None if job.metric is None else float(job.metric(job.backbone)),
            seconds=time.monotonic() - started,
            n_truncated_tokens=sum(example.n_truncated for example in job.train),
        )
        state = selected(state, log, settings=settings, trainable=trainable)
        if epoch < settings.epochs:
            save_state(job.state_folder, replace(state, last=optimiser.state()))
        job.on_epoch(log)
    return state


def _epoch(job: Job, optimiser: MasterAdamW, epoch: int) -> float:
    """One pass over the training examples; the mean loss per target token."""
    settings, n_steps = job.settings, job.steps_per_epoch
    torch.manual_seed(settings.seed * 100_003 + epoch + (distributed.processes().rank << 40))
    batches = epoch_batches(job.train, settings.batch_size, seed=settings.seed, epoch=epoch)
    per_step = settings.gradient_accumulation
    total, n_tokens = 0.0, 0
    job.backbone.model.train(settings.dropout)
    for rank in range(n_steps):
        group = [[job.train[index] for index in batch] for batch in batches[rank * per_step :][:per_step]]
        n_group = sum(len(example.target) for batch in group for example in batch)
        own_loss = _accumulate(job.backbone, distributed.share(group), optimiser, n_tokens=n_group)
        group_loss = distributed.total(own_loss)
        if not math.isfinite(group_loss):
            raise ModelError(f"The loss is {group_loss} in epoch {epoch}: lower the learning rate.")
        distributed.add_gradients(optimiser.masters.values())
        step = (epoch - 1) * n_steps + rank
        optimiser.step(learning_rate_factor(step, n_steps * settings.epochs, settings))
        total, n_tokens = total + group_loss, n_tokens + n_group
        if job.progress:
            job.progress.advance(note=f"epoch {epoch}/{settings.epochs} loss {total / n_tokens:.3f}")
    return total / n_tokens


def _accumulate(
    backbone: Trainable[Any],
    group: Sequence[Sequence[EncodedExample]],
    optimiser: MasterAdamW,
    *,
    n_tokens: int,
) -> float:
    """Add the gradients of the mean loss over all target tokens of the group; returns the summed loss."""
    total = 0.0
    for batch in group:
        for micro in backbone.microbatches(batch):
            loss = backbone.loss_sum(micro)
            (loss / n_tokens).backward()  # type: ignore[no-untyped-call]
            total += loss.item()
        optimiser.collect()
    return total


def _dev_loss(job: Job) -> float | None:
    """Mean loss per target token on dev, None without dev; leaves the model in evaluation mode."""
    job.backbone.model.eval()
    if not job.dev:
        return None
    order = sorted(job.dev, key=lambda example: example.n_tokens)
    size = job.settings.batch_size
    batches = distributed.share([order[i : i + size] for i in range(0, len(order), size)])
    with torch.inference_mode():
        groups = [group for batch in batches for group in job.backbone.microbatches(batch)]
        total = sum(job.backbone.loss_sum(group).item() for group in groups)
    return distributed.total(total) / sum(len(example.target) for example in job.dev)


def _save(backbone: Trainable[Any], output: Path, *, settings: Training, best_epoch: int) -> None:
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
    backbone: Trainable[E_contra], examples: Sequence[E_contra], settings: Training
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


def _check(settings: Training, train: Sequence[object], dev: Sequence[object], metric: object) -> None:
    if settings.epochs == 0:
        return
    if not train:
        raise UsageError("There is nothing to train on: the training split is empty.")
    if settings.select == "dev_loss" and not dev:
        raise UsageError("select = 'dev_loss' needs dev examples; without them use select = 'last'.")
    if settings.select == "dev_metric" and metric is None:
        raise UsageError("select = 'dev_metric' needs a metric; without one use 'dev_loss' or 'last'.")


# --- with other processes -------------------------------------------------------------------------------------------


def announce(job: Job) -> None:
    """Send the leader's job to the other processes, which then take part. A single process sends nothing."""
    if distributed.processes().n == 1:
        return
    device = job.backbone.device
    distributed.own_device(device.type, device.index)
    message = {
        # The folder that was read: a checkpoint, or the folder of a model of the shelf.
        "choice": {**job.backbone.choice.model_dump(), "model": job.backbone.model.name_or_path},
        "device": device.type,
        "types": job.types,
        "settings": job.settings.model_dump(),
        "state_folder": str(job.state_folder.resolve()),
        "train": [asdict(example) for example in job.train],
        "dev": [asdict(example) for example in job.dev],
    }
    distributed.send(json.dumps(message).encode())


def take_part(message: bytes) -> None:
    """Train the job that the leader has sent, as one of several processes."""
    sent = json.loads(message)
    device = distributed.own_device(sent["device"], None)
    backbone = open_backbone(BackboneChoice.model_validate(sent["choice"]), device=device)
    settings = Training.model_validate(sent["settings"])
    backbone.prepare(sent["types"], settings)
    backbone.max_input_tokens = settings.max_input_tokens
    carry_out(
        Job(
            backbone,
            _examples(sent["train"]),
            _examples(sent["dev"]),
            settings=settings,
            state_folder=Path(sent["state_folder"]),
            types=tuple(sent["types"]),
        )
    )


def _examples(rows: Sequence[dict[str, Any]]) -> tuple[EncodedExample, ...]:
    return tuple(
        EncodedExample(
            tuple(row["source"]),
            tuple(row["target"]),
            row["n_truncated"],
            tuple(row["positions"]),
            tuple(row["token_types"]),
        )
        for row in rows
    )
