"""How large a language model is, read from its files without loading it: parameters, and values kept per token.

Of a model that is not on this machine only what its name says is known. Knows nothing of devices.

How much memory vLLM is given: computed from the model and the work, stated before it starts, refused if not free.

vLLM by default takes nine tenths of a GPU; here it shares one with training and takes what it needs. Pure: device
numbers come in as ``DeviceMemory``.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ValidationError, model_validator

from cdner.errors import BackendError
from cdner.llm.vllm.devices import DeviceMemory

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


GIB = 2**30
# Ours, on the generous side: one batch's activations and logits, CUDA graphs, allocator slack.
REST_BYTES = 2 * GIB
# vLLM counts what is free after its CUDA context is made, which takes about this much.
CONTEXT_BYTES = GIB // 2
_WAYS_OUT = (
    "Take a smaller model, or say by --gpu-memory how many GiB it may use, if you know that it needs less."
)
UNKNOWN_SHARE = 0.9  # of what is free, for a model of unknown size: vLLM's own default
CPU_CACHE_GIB = 2  # for a model of unknown size


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """What vLLM takes on each of its GPUs; ``statement`` says it in one line."""

    n_bytes: int
    utilization: float  # of the GPU's total, vLLM's --gpu-memory-utilization
    statement: str


@dataclass(frozen=True, slots=True)
class Needs:
    """Bytes on each GPU; the KV cache is for one sequence of full length."""

    weights: int
    cache_of_one: int | None  # None: unknown
    n_sequences: int

    def with_sequences(self, n: int) -> int:
        return self.weights + REST_BYTES + n * (self.cache_of_one or 0)


def needs_of(
    size: ModelSize, *, max_model_len: int, concurrency: int, bytes_per_value: int = 2, n_devices: int = 1
) -> Needs:
    """Of a model split over ``n_devices``; a KV head cannot be split, so the cache may take more than its share."""
    weights = size.n_parameters * bytes_per_value + size.n_packed_bytes
    cache = None
    if size.n_values_per_token is not None:
        cache = math.ceil(size.n_values_per_token * bytes_per_value * max_model_len / n_devices)
    return Needs(math.ceil(weights / n_devices), cache, concurrency)


def plan_memory(
    devices: Sequence[DeviceMemory], needs: Needs | None, *, model: str, asked_gib: float = 0.0
) -> MemoryPlan:
    """Room for all sequences at once if it is free, else for as many as fit, at least one.

    ``asked_gib`` (``--gpu-memory``) overrides the sum. BackendError if too little is free, with the ways out.
    """
    total = min(device.total for device in devices)
    free = max(0, min(device.free for device in devices) - CONTEXT_BYTES)
    shown = f"the GPU's {_gib(total)} ({_gib(free)} free)"
    if asked_gib:
        return _plan_asked(asked_gib, needs, total=total, free=free, model=model, shown=shown)
    if needs is None or needs.cache_of_one is None:
        return _plan_unknown(needs, total=total, free=free, model=model, shown=shown)
    if (least := needs.with_sequences(1)) > free:
        raise BackendError(
            f"'{model}' needs at least {_gib(least)} of GPU memory ({_parts(needs, 1)}), but {_gib(free)} of "
            f"{_gib(total)} are free. {_WAYS_OUT}"
        )
    room = needs.n_sequences
    if needs.cache_of_one:
        room = min(room, (free - needs.with_sequences(0)) // needs.cache_of_one)
    return _plan(
        needs.with_sequences(room),
        total,
        f"vLLM takes {_gib(needs.with_sequences(room))} of {shown}: {_parts(needs, room)}",
    )


def cpu_cache_gib(size: ModelSize | None, *, max_model_len: int, concurrency: int) -> int:
    """Whole GiB of host memory for the KV cache of ``concurrency`` float32 sequences of full length, at least 1."""
    if size is None or size.n_values_per_token is None:
        return CPU_CACHE_GIB
    return max(1, math.ceil(size.n_values_per_token * 4 * max_model_len * concurrency / GIB))


def _plan_asked(
    asked_gib: float, needs: Needs | None, *, total: int, free: int, model: str, shown: str
) -> MemoryPlan:
    n_bytes = round(asked_gib * GIB)
    if n_bytes > free:
        raise BackendError(
            f"--gpu-memory {asked_gib:g} GiB is more than the {_gib(free)} that are free. "
            "Give less by --gpu-memory, or end what else uses the GPU."
        )
    if needs is not None and n_bytes < needs.weights:
        raise BackendError(
            f"--gpu-memory {asked_gib:g} GiB is too little for '{model}': its weights alone take "
            f"{_gib(needs.weights)}. Take a smaller model, or give more by --gpu-memory."
        )
    return _plan(n_bytes, total, f"vLLM takes {_gib(n_bytes)} of {shown}, as --gpu-memory says")


def _plan_unknown(needs: Needs | None, *, total: int, free: int, model: str, shown: str) -> MemoryPlan:
    """The model's files are not here: nine tenths of what is free, if its name does not say that it cannot fit."""
    if needs is not None and needs.weights + REST_BYTES > free:
        raise BackendError(
            f"'{model}' by its name needs at least {_gib(needs.weights + REST_BYTES)} of GPU memory, but {_gib(free)} "
            f"of {_gib(total)} are free. {_WAYS_OUT}"
        )
    n_bytes = math.floor(UNKNOWN_SHARE * free)
    return _plan(
        n_bytes, total, f"vLLM takes {_gib(n_bytes)} of {shown}: the model's size is known once it is here"
    )


def _plan(n_bytes: int, total: int, statement: str) -> MemoryPlan:
    # Rounded up, so that the room asked for is there; the free memory has a margin above that.
    return MemoryPlan(n_bytes, math.ceil(n_bytes / total * 1000) / 1000, statement)


def _parts(needs: Needs, n: int) -> str:
    cache = n * (needs.cache_of_one or 0)
    what = "1 request" if n == 1 else f"{n} requests"
    return f"{_gib(needs.weights)} weights, {_gib(cache)} KV cache for {what} at once, {_gib(REST_BYTES)} for the rest"


def _gib(n_bytes: int) -> str:
    return f"{n_bytes / GIB:.1f} GiB"
