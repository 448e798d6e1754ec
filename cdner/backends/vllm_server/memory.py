"""How much memory vLLM is given: computed from the model and the work, stated before it starts, refused if not free.

vLLM by default takes nine tenths of a GPU; here it shares one with training and takes what it needs. Pure: device
numbers come in as ``DeviceMemory``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from cdner.backends.vllm_server.devices import DeviceMemory
from cdner.backends.vllm_server.model_size import ModelSize
from cdner.errors import BackendError

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
