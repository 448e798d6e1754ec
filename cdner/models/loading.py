"""Opens a model and its tokenizer: from a hub name, a folder, a checkpoint of cdner, or the shelf.

Weights are read from safetensors files only, and no code or kernel that a model's files name is ever fetched or run. A
model whose weights, configuration and tokenizer do not fit together is refused. ``attach`` adds low-rank adapters to
an opened model.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cdner.config import BackboneChoice, Training
from cdner.errors import CdnerError, ModelError
from cdner.models.devices import choose_device, choose_dtype
from cdner.models.shelf import model_location
from cdner.models.weights import read_card

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
    """Open a base model or a checkpoint. ``auto_class``: transformers' class of the family.

    Raises ModelError with the model, the reason and a way to fix it.
    """
    place = choose_device(device)
    dtype = choose_dtype(choice.dtype, place)
    folder = _location(choice, checkpoint)
    hub = {"revision": choice.revision or None} if checkpoint is None and not Path(folder).is_dir() else {}
    with refusing(folder, choice.family), quiet():
        tokenizer, config = read_tokenizer_and_config(folder, **hub)
        model = read_weights(
            auto_class, folder, config=config, whole=checkpoint is not None, dtype=dtype, **hub
        )
        n_rows = model.get_input_embeddings().weight.shape[0]
        if tokenizer.vocab_size > n_rows:
            raise ValueError(
                f"Its tokenizer has {tokenizer.vocab_size} tokens, its embedding has rows for {n_rows}."
            )
    trained = read_card(checkpoint).settings.max_input_tokens if checkpoint else None
    return LoadedModel(
        model=model.to(place).eval(),
        tokenizer=tokenizer,
        device=place,
        dtype=dtype,
        choice=choice,
        max_input_tokens=trained,
    )


@contextlib.contextmanager
def refusing(folder: str, family: str) -> Iterator[None]:
    """Turn every error of the libraries that read a model's files into a ModelError of one line.

    Files from elsewhere can break these libraries in any way: a configuration with a word for a number, heads of size
    0, a quantisation whose package is absent.
    """
    try:
        yield
    except CdnerError:
        raise
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"Cannot load model '{folder}' as {family}: {reason} "
            "Give a folder with safetensors weights, a hub name, or a name that 'cdner models' lists."
        ) from error


def read_tokenizer_and_config(folder: str, **options: Any) -> tuple[Any, Any]:
    """Both without code from the model's files. Raises whatever the libraries raise: see ``refusing``."""
    from transformers import AutoConfig, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, **options)
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False, **options)
    # A config.json can name a repository here, from which transformers would fetch a kernel and run it. An argument of
    # ``from_pretrained`` does not override the key "_attn_implementation". None stands for transformers' default.
    config._attn_implementation = None
    config._experts_implementation = None
    return tokenizer, config


def read_weights(auto_class: Any, folder: str, *, config: Any, whole: bool, **options: Any) -> Any:
    """The model of ``config`` with the folder's weights.

    Raises ValueError if weights are missing or have another shape than the configuration says, and with ``whole`` also
    if the model has no place for some of them. Raises whatever the libraries raise: see ``refusing``.
    """
    _refuse_other_shards(Path(folder))
    model, report = auto_class.from_pretrained(
        folder,
        config=config,
        use_safetensors=True,
        trust_remote_code=False,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # they are refused below, by name
        **options,
    )
    if other := sorted(report["mismatched_keys"]):
        name, stored, expected = other[0]
        raise ValueError(
            f"Its weight '{name}' has the shape {_shape(stored)}, its configuration says {_shape(expected)}."
        )
    if missing := sorted(report["missing_keys"]):
        raise ValueError(f"{len(missing)} of its weights are missing, first '{missing[0]}'.")
    if whole and (unused := sorted(report["unexpected_keys"])):
        raise ValueError(f"Its configuration has no place for {len(unused)} weights, first '{unused[0]}'.")
    return model


def _shape(sizes: Any) -> str:
    return " x ".join(map(str, sizes))


def end_ids(generation_config: Any, end_id: int) -> frozenset[int]:
    """Every token that ends an output: the tokenizer's end token, and those that a chat model's configuration adds."""
    named = generation_config.eos_token_id
    return frozenset({end_id, *([] if named is None else [named] if isinstance(named, int) else named)})


def _refuse_other_shards(folder: Path) -> None:
    """ValueError for an index of shards that names no files, or files that are not safetensors (pickles)."""
    index = folder / SAFE_WEIGHTS_INDEX
    if not index.is_file():
        return
    read = json.loads(index.read_text(encoding="utf-8"))
    shards = read.get("weight_map") if isinstance(read, dict) else None
    if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
        raise ValueError(f"{index.name} names no files: it has no weight_map of names.")
    if other := sorted(name for name in set(shards.values()) if not name.endswith(".safetensors")):
        raise ValueError(f"{index.name} names {other[0]}, which is not a safetensors file.")


def _location(choice: BackboneChoice, checkpoint: Path | None) -> str:
    if checkpoint is not None:
        if not checkpoint.is_dir():
            raise ModelError(f"No checkpoint at {checkpoint}. Train it first.")
        return str(checkpoint)
    return model_location(choice.model)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Turn off transformers' progress bars and its reports on weights; cdner has its own. CDNER_DEBUG keeps them."""
    from transformers.utils import logging

    if "CDNER_DEBUG" in os.environ:
        yield
        return
    verbosity, had_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if had_bars:
            logging.enable_progress_bar()


@dataclass(frozen=True, slots=True)
class Adapters:
    """Low-rank adapters in a model. ``merge`` adds their products to its weights and returns the plain model."""

    wrapped: Any

    def merge(self) -> Any:
        return self.wrapped.merge_and_unload()


def attach(model: Any, settings: Training, *, head: str = "") -> Adapters | None:
    """Freeze the model and add adapters to all its linear layers but the output layer; None if the rank is 0.

    The module ``head`` ("" = none) is new and is trained in full.
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
