"""The state of a training run between two epochs: saved whole or not at all, trusted only by its own run."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from cdner.backbone.checkpoint import write_folder
from cdner.backbone.packing import EncodedExample
from cdner.config import BackboneChoice, Training
from cdner.errors import ModelError
from cdner.hashing import content_hash
from cdner.types import EpochLog
from cdner.unfinished import remove, settle

_STATE, _LAST, _BEST = "state.json", "last.safetensors", "best.safetensors"


@dataclass(frozen=True, slots=True)
class TrainingState:
    """After ``len(logs)`` epochs. ``best`` is empty where the model's own weights are the selected ones."""

    identity: str
    logs: tuple[EpochLog, ...] = ()
    best_epoch: int = 0
    best: dict[str, Tensor] = field(default_factory=dict)  # trainable weights of the best epoch
    last: dict[str, Tensor] = field(default_factory=dict)  # the optimiser's, to go on from


class _Fingerprinted(Protocol):
    model: Any
    choice: BackboneChoice


def fingerprint(
    backbone: _Fingerprinted,
    train: Sequence[EncodedExample],
    dev: Sequence[EncodedExample],
    settings: Training,
) -> str:
    """Identity of a training run: starting weights, examples as token ids, settings, torch's version."""
    digest = hashlib.sha256()
    for name, parameter in backbone.model.named_parameters():
        digest.update(name.encode())
        digest.update(parameter.detach().contiguous().cpu().flatten().view(torch.uint8).numpy().data)
    for example in (*train, *dev):
        digest.update(repr((example.source, example.target)).encode())
        if example.positions:
            digest.update(repr((example.positions, example.token_types)).encode())
    return content_hash(
        [digest.hexdigest(), len(train), settings.identity(), torch.__version__.split("+")[0]]
    )


def selected(
    state: TrainingState, log: EpochLog, *, settings: Training, trainable: Mapping[str, torch.nn.Parameter]
) -> TrainingState:
    """The state with this epoch's log, and its weights if it is the best so far (a tie keeps the earlier)."""
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


def save_state(folder: Path, state: TrainingState) -> None:
    """Replace the folder's state. The best weights are written only when they are new."""
    from safetensors.torch import save_file

    unchanged = _stored_best_epoch(folder) == state.best_epoch

    def fill(scratch: Path) -> None:
        save_file(state.last, scratch / _LAST)
        if state.best and unchanged:
            os.link(folder / _BEST, scratch / _BEST)
        elif state.best:
            save_file(state.best, scratch / _BEST)
        record = {
            "identity": state.identity,
            "best_epoch": state.best_epoch,
            "logs": [asdict(log) for log in state.logs],
        }
        (scratch / _STATE).write_text(json.dumps(record), encoding="utf-8")

    write_folder(folder, fill)


def load_state(folder: Path, identity: str) -> TrainingState | None:
    """The state saved under this identity, else None: other settings, weights or examples start afresh."""
    from safetensors.torch import load_file

    if not (folder / _STATE).is_file():
        return None
    record = json.loads((folder / _STATE).read_text(encoding="utf-8"))
    if record["identity"] != identity:
        return None
    best = folder / _BEST
    return TrainingState(
        identity=identity,
        logs=tuple(EpochLog(**log) for log in record["logs"]),
        best_epoch=record["best_epoch"],
        best=load_file(best) if best.is_file() else {},
        last=load_file(folder / _LAST),
    )


def discard(folder: Path) -> None:
    """Remove the state of a finished run, and what killed writers of it left beside it: nobody writes it again."""
    settle(folder)
    remove(folder)


def _stored_best_epoch(folder: Path) -> int | None:
    path = folder / _STATE
    return int(json.loads(path.read_text(encoding="utf-8"))["best_epoch"]) if path.is_file() else None
