"""The model as a user of transformers loads it: what cdner does to its own copy must not help the other side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

from cdner.config import BackboneChoice
from cdner.models.loading import quiet
from cdner.models.shelf import model_location


def plain_model(choice: BackboneChoice, checkpoint: Path | None = None, *, device: str = "cpu") -> Any:
    """In float32, whatever the choice says, in evaluation mode."""
    folder = checkpoint or model_location(choice.model)
    kind: Any = AutoModelForCausalLM if choice.family == "causal" else AutoModelForSeq2SeqLM
    with quiet():
        return kind.from_pretrained(folder, dtype=torch.float32).eval().to(device)
