"""The optimiser, and the state of a training run between two epochs.

``MasterAdamW`` is AdamW with fp32 master weights for a model that computes in bf16, where updates smaller than the
format's step would be lost. A ``TrainingState`` is saved completely or not at all, and is loaded only by the run that
saved it.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from cdner.config import BackboneChoice, Training
from cdner.errors import ModelError
from cdner.files import content_hash, remove, settle
from cdner.models.trainable import EncodedExample
from cdner.models.weights import write_folder
from cdner.types import EpochLog

_MOMENTS = ("exp_avg", "exp_avg_sq")
_STATE, _LAST, _BEST = "state.json", "last.safetensors", "best.safetensors"


class MasterAdamW:
    """Updates the trainable parameters of a model; vectors (norms, biases) have no weight decay.

    The parameters of the module ``head`` ("" = none) learn at ``settings.head_rate`` times the learning rate.
    """

    def __init__(
        self, parameters: Mapping[str, torch.nn.Parameter], settings: Training, *, head: str = ""
    ) -> None:
        self._parameters = dict(parameters)
        self._clip_norm = settings.clip_norm
        self._learning_rate = settings.learning_rate
        self.masters = {
            name: parameter
            if parameter.dtype == torch.float32
            else torch.nn.Parameter(parameter.detach().float())
            for name, parameter in self._parameters.items()
        }
        groups: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
        for name, master in sorted(self.masters.items(), key=lambda item: item[1].ndim <= 1):
            decay = settings.weight_decay if master.ndim > 1 else 0.0
            rate = settings.head_rate if head and name.startswith(f"{head}.") else 1.0
            groups.setdefault((decay, rate), []).append(master)
        self._adamw = torch.optim.AdamW(
            [
                {"params": found, "weight_decay": decay, "rate": rate}
                for (decay, rate), found in groups.items()
            ],
            lr=settings.learning_rate,
            fused=True,
        )

    def collect(self) -> None:
        """Add bf16 gradients to the masters' fp32 gradients, so that sums over many batches are not rounded."""
        for name, parameter in self._parameters.items():
            master = self.masters[name]
            if master is parameter or parameter.grad is None:
                continue
            if master.grad is None:
                master.grad = parameter.grad.float()
            else:
                master.grad += parameter.grad
            parameter.grad = None

    def step(self, factor: float) -> float:
        """Clip, update with ``factor`` x the learning rate, clear the gradients; returns the norm before clipping."""
        self.collect()
        norm = torch.nn.utils.clip_grad_norm_(self.masters.values(), self._clip_norm)
        for group in self._adamw.param_groups:
            group["lr"] = self._learning_rate * group["rate"] * factor
        self._adamw.step()
        self._adamw.zero_grad(set_to_none=True)
        self._publish()
        return float(norm)

    def state(self) -> dict[str, Tensor]:
        """Masters and both moments by name, on the CPU."""
        found: dict[str, Tensor] = {}
        for name, master in self.masters.items():
            found[f"master.{name}"] = master.detach().cpu()
            for moment in _MOMENTS:
                if moment in (state := self._adamw.state.get(master, {})):
                    found[f"{moment}.{name}"] = state[moment].cpu()
        return found

    def load_state(self, tensors: Mapping[str, Tensor], *, n_steps: int) -> None:
        """The inverse of ``state``: training continues with exactly the same bits."""
        with torch.no_grad():
            for name, master in self.masters.items():
                master.copy_(tensors[f"master.{name}"])
                if f"exp_avg.{name}" not in tensors:
                    continue
                self._adamw.state[master] = {
                    "step": torch.tensor(float(n_steps), device=master.device),
                    **{moment: tensors[f"{moment}.{name}"].to(master.device).clone() for moment in _MOMENTS},
                }
        self._publish()

    def _publish(self) -> None:
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                if self.masters[name] is not parameter:
                    parameter.copy_(self.masters[name])


def learning_rate_factor(step: int, n_steps: int, settings: Training) -> float:
    """Factor of step ``step`` (0-based) of ``n_steps``: linear warm-up, then constant or linear to 0."""
    n_warmup = math.ceil(settings.warmup_ratio * n_steps)
    if step < n_warmup:
        return (step + 1) / n_warmup
    if settings.schedule == "constant":
        return 1.0
    return (n_steps - step) / (n_steps - n_warmup)


@dataclass(frozen=True, slots=True)
class TrainingState:
    """The state after ``len(logs)`` epochs. ``best`` is empty if the selected weights are the model's."""

    identity: str
    logs: tuple[EpochLog, ...] = ()
    best_epoch: int = 0
    best: dict[str, Tensor] = field(default_factory=dict)  # trainable weights of the best epoch
    last: dict[str, Tensor] = field(default_factory=dict)  # the optimiser's state


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
    """The state with this epoch's log, and with its weights if it is the best so far (in a tie the earlier stays)."""
    logs = (*state.logs, log)
    if settings.select == "last":
        better = log.epoch == settings.epochs
    elif state.best_epoch == 0:
        better = True
    else:
        better = _quality(log, settings) > _quality(state.logs[state.best_epoch - 1], settings)
    if not better:
        return replace(state, logs=logs)
    if log.epoch == settings.epochs:  # the model has them
        return replace(state, logs=logs, best={}, best_epoch=log.epoch)
    weights = {name: parameter.detach().cpu().clone() for name, parameter in trainable.items()}
    return replace(state, logs=logs, best=weights, best_epoch=log.epoch)


def _quality(log: EpochLog, settings: Training) -> float:
    value = log.dev_metric if settings.select == "dev_metric" else log.dev_loss
    if value is None:
        raise ModelError(f"Epoch {log.epoch} has no {settings.select} to select by.")
    return value if settings.select == "dev_metric" else -value


def save_state(folder: Path, state: TrainingState) -> None:
    """Replace the folder's state. The best weights are written only if they are new."""
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
    """The saved state if it has this identity, else None: other settings, weights, or examples start again."""
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
    """Remove the state of a finished run, and the unfinished files of killed processes beside it."""
    settle(folder)
    remove(folder)


def _stored_best_epoch(folder: Path) -> int | None:
    path = folder / _STATE
    return int(json.loads(path.read_text(encoding="utf-8"))["best_epoch"]) if path.is_file() else None
