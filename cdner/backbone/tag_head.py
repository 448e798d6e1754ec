"""The linear layer over tags on top of an encoder: which one it is, which types it knows, and how it is made anew."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

OUTSIDE = "O"


class TokenClassifier:
    """``AutoModelForTokenClassification`` that opens an encoder without a head, and none with other weights missing."""

    @staticmethod
    def from_pretrained(folder: str, **options: Any) -> Any:
        """ValueError where weights are missing outside the head, or where it has no head that can be replaced.

        A head whose weights are missing knows no types. Weights that the architecture has no place for (a pooler, a
        language model's head) are not used.
        """
        from transformers import AutoModelForTokenClassification

        try:
            with _without_load_report():
                model, told = AutoModelForTokenClassification.from_pretrained(
                    folder, output_loading_info=True, **options
                )
        except RuntimeError as error:  # transformers' class for weights of other shapes than the config says
            raise ValueError(str(error)) from error
        head = head_name(model)
        missing = sorted(told["missing_keys"])
        if lost := [name for name in missing if not name.startswith(f"{head}.")]:
            raise ValueError(f"{len(lost)} of its weights are missing, first '{lost[0]}'.")
        if missing:
            _name_labels(model, [f"LABEL_{number}" for number in range(model.config.num_labels)])
        return model


def head_name(model: Any) -> str:
    """Name of the linear layer with one output for each label. ValueError where there is not exactly one."""
    inside = f"{model.base_model_prefix}."
    found = [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear)
        and not name.startswith(inside)
        and module.out_features == model.config.num_labels
    ]
    if len(found) != 1:
        raise ValueError(f"{type(model).__name__} has {len(found)} linear layers over labels, expected one.")
    return str(found[0])


def labels_of(types: Sequence[str]) -> list[str]:
    """O, then B- and I- of each type."""
    return [OUTSIDE, *(f"{prefix}-{name}" for name in types for prefix in "BI")]


def types_of(config: Any) -> tuple[str, ...]:
    """Types of a config's BIO labels, in label order; none where its labels are others."""
    labels = [str(config.id2label[number]) for number in sorted(config.id2label)]
    types = tuple(dict.fromkeys(label[2:] for label in labels if label[:2] in ("B-", "I-")))
    return types if sorted(labels) == sorted(labels_of(types)) else ()


def replace_head(model: Any, head: str, types: Sequence[str], *, seed: int) -> None:
    """Put a new layer over the tags of ``types`` in place of ``head``, as transformers initialises one.

    Its weights are a function of ``seed`` and its shape alone, on every device and in every process.
    """
    labels = labels_of(types)
    parent, _, name = head.rpartition(".")
    old = model.get_submodule(head)
    new = torch.nn.Linear(old.in_features, len(labels), device="meta").to_empty(device="cpu")
    chance = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        new.weight.normal_(0.0, getattr(model.config, "initializer_range", 0.02), generator=chance)
        new.bias.zero_()
    setattr(model.get_submodule(parent), name, new.to(old.weight.device, old.weight.dtype))
    _name_labels(model, labels)


def _name_labels(model: Any, labels: Sequence[str]) -> None:
    model.num_labels = len(labels)
    model.config.id2label = dict(enumerate(labels))
    model.config.label2id = {label: number for number, label in enumerate(labels)}


@contextmanager
def _without_load_report() -> Iterator[None]:
    """transformers prints a table of weights without a place or without a value; ``TokenClassifier`` judges them."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)
