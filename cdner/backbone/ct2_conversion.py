"""The CTranslate2 form of a checkpoint: made once, beside it, under a name that says what it was made of.

Weights come from safetensors and from nowhere else. A conversion that is broken off leaves nothing that a later one
would take for a model. Knows nothing of generation.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cdner.backbone.checkpoint import read_card, write_folder
from cdner.backbone.loading import quiet
from cdner.errors import ModelError
from cdner.hashing import content_hash, file_sha256

_ALSO_CONVERTED = ("config.json", "tokenizer.json")  # beside the weights, whose sum the card has


def converted(checkpoint: Path) -> Path:
    """Folder of the converted checkpoint, one for all compute types; converts where it is not there yet.

    ModelError for what is no checkpoint of ours, and for an architecture CTranslate2 does not know.
    """
    target = conversion_path(checkpoint)
    if not target.is_dir():
        write_folder(target, lambda folder: _convert(checkpoint, folder))
    return target


def conversion_path(checkpoint: Path) -> Path:
    """``<checkpoint>.ct2-<hash of weights, configuration, tokenizer and converter>``."""
    import ctranslate2

    sums = [file_sha256(path) for name in _ALSO_CONVERTED if (path := checkpoint / name).is_file()]
    made_of = content_hash([read_card(checkpoint).weights_sha256, *sums, ctranslate2.__version__])
    return checkpoint.with_name(f"{checkpoint.name}.ct2-{made_of}")


def _convert(checkpoint: Path, folder: Path) -> None:
    from ctranslate2.converters import TransformersConverter

    converter = TransformersConverter(str(checkpoint))
    converter.load_model = _from_safetensors
    try:
        with quiet():
            converter.convert(str(folder), force=True)  # the folder is there, and empty
    except (ValueError, KeyError, NotImplementedError) as error:
        raise ModelError(
            f"CTranslate2 cannot convert {checkpoint}: {error}. Predict with --engine torch."
        ) from error


def _from_safetensors(model_class: Any, folder: str, **settings: Any) -> Any:
    """The converter's own way to load a model would fall back to pickled weights."""
    try:
        return model_class.from_pretrained(folder, **settings, use_safetensors=True)
    except OSError as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelError(f"Cannot read the weights of {folder}: {reason} Train again.") from error
