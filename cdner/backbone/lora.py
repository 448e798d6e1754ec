"""Low-rank adapters: put into a model for training, merged into plain weights before anything is saved."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cdner.config import Training


@dataclass(frozen=True, slots=True)
class Adapters:
    """``merge`` gives the plain model back, the adapters' product added to its weights."""

    wrapped: Any

    def merge(self) -> Any:
        return self.wrapped.merge_and_unload()


def attach(model: Any, settings: Training, *, head: str = "") -> Adapters | None:
    """Freeze the model and add adapters to all its linear layers but the output; None where the rank is 0.

    The module ``head`` ("" = none) is new and is trained as a whole.
    """
    if settings.lora_rank == 0:
        return None
    from peft import LoraConfig, get_peft_model

    adapters = LoraConfig(
        r=settings.lora_rank,
        lora_alpha=settings.lora_alpha,
        lora_dropout=0.0,
        target_modules="all-linear",
        modules_to_save=[head] if head else None,
    )
    return Adapters(get_peft_model(model, adapters))
