"""Low-rank adapters: put into a model for training, merged into plain weights before anything is saved.

Opens a model and its tokenizer: from the hub, a folder, a checkpoint of ours, or the shelf.

Safetensors only, no code from model repositories, ever. Knows nothing of training and generation.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cdner.config import BackboneChoice, Training
from cdner.errors import ModelError
from cdner.models.devices import choose_device, choose_dtype
from cdner.models.shelf import model_location
from cdner.models.weights import read_card


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


SAFE_WEIGHTS_INDEX = "model.safetensors.index.json"


@dataclass(frozen=True, slots=True)
class LoadedModel:
    model: Any  # a transformers model in evaluation mode, on ``device``
    tokenizer: Any
    device: torch.device
    dtype: torch.dtype
    choice: BackboneChoice
    max_input_tokens: int | None  # what it was trained with; None for a base model


def load(choice: BackboneChoice, auto_class: Any, *, device: str, checkpoint: Path | None) -> LoadedModel:
    """``auto_class`` is transformers' class of the family. ModelError: which model, why, what to do."""
    from safetensors import SafetensorError
    from transformers import AutoTokenizer

    place = choose_device(device)
    dtype = choose_dtype(choice.dtype, place)
    folder = _location(choice, checkpoint)
    hub = {"revision": choice.revision or None} if checkpoint is None and not Path(folder).is_dir() else {}
    try:
        _refuse_other_shards(Path(folder))
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, **hub)
            model = auto_class.from_pretrained(
                folder, dtype=dtype, use_safetensors=True, trust_remote_code=False, **hub
            )
    except (OSError, ValueError, SafetensorError, pickle.UnpicklingError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"Cannot load model '{folder}' as {choice.family}: {reason} "
            "Give a folder with safetensors weights, a hub name, or a name that 'cdner models' lists."
        ) from error
    trained = read_card(checkpoint).settings.max_input_tokens if checkpoint else None
    return LoadedModel(
        model=model.to(place).eval(),
        tokenizer=tokenizer,
        device=place,
        dtype=dtype,
        choice=choice,
        max_input_tokens=trained,
    )


def end_ids(generation_config: Any, end_id: int) -> frozenset[int]:
    """Every token that ends an output: the tokenizer's, and those a chat model names besides."""
    named = generation_config.eos_token_id
    return frozenset({end_id, *([] if named is None else [named] if isinstance(named, int) else named)})


def _refuse_other_shards(folder: Path) -> None:
    """ValueError for an index of safetensors that names pickles (transformers would read those, if warily) or none."""
    index = folder / SAFE_WEIGHTS_INDEX
    if not index.is_file():
        return
    read = json.loads(index.read_text(encoding="utf-8"))
    shards = read.get("weight_map") if isinstance(read, dict) else None
    if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
        raise ValueError(f"{index.name} names no files: it has no weight_map of names.")
    if other := sorted(name for name in set(shards.values()) if not name.endswith(".safetensors")):
        raise ValueError(f"{index.name} names {other[0]}, which is no safetensors file.")


def _location(choice: BackboneChoice, checkpoint: Path | None) -> str:
    if checkpoint is not None:
        if not checkpoint.is_dir():
            raise ModelError(f"No checkpoint at {checkpoint}. Train it first.")
        return str(checkpoint)
    return model_location(choice.model)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """transformers draws its own progress bars on stderr, where ours are."""
    from transformers.utils import logging

    were_on = logging.is_progress_bar_enabled() and "CDNER_DEBUG" not in os.environ
    if were_on:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        if were_on:
            logging.enable_progress_bar()
