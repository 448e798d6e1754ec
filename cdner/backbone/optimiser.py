"""AdamW with fp32 master weights where the model computes in bf16, and a state that can be saved exactly.

Updates smaller than bf16's step would be lost on bf16 weights; the master copy keeps them. Knows no losses.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from cdner.config import Training

_MOMENTS = ("exp_avg", "exp_avg_sq")


class MasterAdamW:
    """Steps the trainable parameters of a model; vectors (norms, biases) are not decayed.

    Those of the module ``head`` ("" = none) learn at ``settings.head_rate`` times the rate of the others.
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
        """Move bf16 gradients into the masters' fp32 ones, so that sums over many batches do not round."""
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
        """Clip, update at ``factor`` x the learning rate, clear gradients; the norm before clipping."""
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
        """The inverse of ``state``: what follows is bit for bit what would have followed."""
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
