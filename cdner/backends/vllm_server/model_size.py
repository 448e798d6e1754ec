"""How large a language model is, read from its files without loading it: parameters, and values kept per token.

Of a model that is not on this machine only what its name says is known. Knows nothing of devices.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ValidationError, model_validator

_FLOATS = frozenset({"F64", "F32", "F16", "BF16"})  # loaded in the format that is asked for
_BYTES = {"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2}
_IN_NAME = re.compile(r"(?<![A-Za-z0-9.])(\d+(?:\.\d+)?)([BM])(?![A-Za-z0-9])", re.IGNORECASE)
_QUANTISED = re.compile(r"awq|gptq|gguf|bnb|(?:fp|int|w)[48]|[48]bit", re.IGNORECASE)
_SCALE = {"B": 10**9, "M": 10**6}


@dataclass(frozen=True, slots=True)
class ModelSize:
    n_parameters: int  # kept in the format that is asked for
    n_packed_bytes: int = 0  # of quantised tensors, kept as they are
    n_values_per_token: int | None = None  # keys and values of all layers; None: unknown
    window: int | None = None  # tokens of prompt and answer together; None: unknown

    def __post_init__(self) -> None:
        if self.n_parameters < 0 or self.n_packed_bytes < 0:
            raise ValueError("sizes must not be negative")


class _Config(BaseModel):
    """What ``config.json`` says of attention; some models keep it in a section for their text part."""

    num_hidden_layers: int
    num_attention_heads: int
    hidden_size: int
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    max_position_embeddings: int | None = None

    @model_validator(mode="before")
    @classmethod
    def _text_part(cls, table: object) -> object:
        return table.get("text_config", table) if isinstance(table, dict) else table


def model_size(model: str) -> ModelSize | None:
    """Of a folder, of a hub name in the local cache, or as far as the name tells; None if nothing does."""
    folder = Path(model) if Path(model).is_dir() else _cached(model)
    size = folder_size(folder) if folder else None
    return size or size_in_name(model)


def folder_size(folder: Path) -> ModelSize | None:
    """From the headers of the safetensors files and ``config.json``; None without safetensors."""
    from safetensors import safe_open

    values: Counter[str] = Counter()
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="numpy") as tensors:
            for name in tensors.keys():  # noqa: SIM118  no mapping
                tensor = tensors.get_slice(name)
                values[tensor.get_dtype()] += math.prod(tensor.get_shape())
    if not values:
        return None
    config = _config(folder / "config.json")
    return ModelSize(
        n_parameters=sum(n for dtype, n in values.items() if dtype in _FLOATS),
        n_packed_bytes=sum(n * _BYTES.get(dtype, 1) for dtype, n in values.items() if dtype not in _FLOATS),
        n_values_per_token=_values_per_token(config) if config else None,
        window=config.max_position_embeddings if config else None,
    )


def size_in_name(model: str) -> ModelSize | None:
    """``Qwen/Qwen2.5-7B-Instruct`` says 7 billion parameters; of quantised ones the bytes are not known."""
    found = _IN_NAME.findall(model)
    if not found or _QUANTISED.search(model):
        return None
    number, unit = found[-1]
    return ModelSize(n_parameters=round(float(number) * _SCALE[unit.upper()]))


def _config(file: Path) -> _Config | None:
    try:
        return _Config.model_validate_json(file.read_bytes())
    except (OSError, ValidationError):
        return None


def _values_per_token(config: _Config) -> int:
    """2 (key, value) x layers x heads x values per head: an upper bound where windows or compression save some."""
    heads = config.num_key_value_heads or config.num_attention_heads
    per_head = config.head_dim or config.hidden_size // config.num_attention_heads
    return 2 * config.num_hidden_layers * heads * per_head


def _cached(model: str) -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        return None
