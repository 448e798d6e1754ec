"""Compares the memory that ``cdner serve`` plans for vLLM with the memory that a real model takes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import torch
from machine import GIB, Machine
from rows import Row, at_least, at_most
from subjects import Subject, written

from cdner.llm.vllm.devices import DeviceMemory, read_devices
from cdner.llm.vllm.memory import CONTEXT_BYTES, REST_BYTES, folder_size, needs_of, plan_memory
from cdner.models import open_backbone

N_ROWS, N_TOKENS = 8, 512
CLOSE = 1.0  # percent
BLOCK = GIB  # allocated to check that nvidia-smi reports it


def plan(subject: Subject, machine: Machine) -> Iterator[Row]:
    """For a decoder: planned and measured bytes of weights, KV cache, and the rest."""
    subject = written(subject)
    size = folder_size(subject.folder)
    if size is None:
        raise RuntimeError(f"{subject.folder.name} has no safetensors")
    before = read_devices() if machine.cuda else ()
    if machine.cuda:
        yield from _devices(before)
    n_rows, n_tokens = (2, 32) if machine.small else (N_ROWS, N_TOKENS)
    needs = needs_of(size, max_model_len=n_tokens, concurrency=n_rows)
    backbone: Any = open_backbone(subject.choice("bfloat16"), device=machine.device)
    what, on = f"memory plan, {subject.name}", "bf16"
    real = sum(tensor.numel() * tensor.element_size() for tensor in backbone.model.parameters())
    yield at_most(
        f"{what}: weights", _apart(needs.weights, real), CLOSE, unit="% apart", against="torch", on=on
    )
    cache = _cache_bytes(backbone, n_rows, n_tokens)
    on = f"bf16, {n_rows} rows of {n_tokens} tokens"
    planned = n_rows * (needs.cache_of_one or 0)
    yield at_most(f"{what}: KV cache", _apart(planned, cache), CLOSE, unit="% apart", against="torch", on=on)
    if machine.cuda:
        rest = torch.cuda.max_memory_allocated() - real - cache
        yield at_most(f"{what}: the rest", rest / GIB, REST_BYTES / GIB, unit="GiB", on=on)
    devices = before or (_host_memory(),)
    made = plan_memory(devices, needs, model=subject.name)
    on = "the GPU's memory" if before else "this machine's memory in the place of a GPU's"
    free = devices[0].free / GIB
    yield at_most(f"{what}: all", made.n_bytes / GIB, free, unit="GiB", against="free memory", on=on)
    taken = made.utilization * devices[0].total / made.n_bytes
    yield at_least(f"{what}: what vLLM is given", taken, 1, unit="x", against="all", on=on)


def _devices(before: tuple[DeviceMemory, ...]) -> Iterator[Row]:
    """nvidia-smi, as cdner reads it, compared with the CUDA runtime before and after an allocation."""
    what = "memory plan: nvidia-smi"
    yield at_least(f"{what}: GPUs", len(before), torch.cuda.device_count(), unit="", against="torch", on="")
    if not before:
        return
    torch.ones(1, device="cuda")
    free, total = torch.cuda.mem_get_info()
    after = read_devices()[0]
    # Memory of other programs on the GPU would be counted too: run this on a GPU that nothing else uses.
    context = (before[0].free - after.free) / GIB
    yield at_most(f"{what}: CUDA's context", context, CONTEXT_BYTES / GIB, unit="GiB", on="bf16")
    yield at_most(f"{what}: total", _apart(after.total, total), 5, unit="% apart", against="CUDA", on="")
    yield at_most(f"{what}: free", abs(after.free - free) / GIB, 0.5, unit="GiB apart", against="CUDA", on="")
    block = torch.ones(BLOCK, dtype=torch.uint8, device="cuda")
    noticed = (after.free - read_devices()[0].free) / GIB
    yield at_most(f"{what}: a block of 1 GiB", abs(noticed - 1), 0.05, unit="GiB apart", on="")
    del block
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()


def _cache_bytes(backbone: Any, n_rows: int, n_tokens: int) -> int:
    """Bytes of the keys and values that transformers keeps in a forward pass."""
    ids = torch.ones(n_rows, n_tokens, dtype=torch.long, device=backbone.device)
    with torch.inference_mode():
        cache = backbone.model.model(input_ids=ids, use_cache=True).past_key_values
    kept = [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]
    return sum(tensor.numel() * tensor.element_size() for tensor in kept)


def _host_memory() -> DeviceMemory:
    page = os.sysconf("SC_PAGE_SIZE")
    return DeviceMemory(page * os.sysconf("SC_PHYS_PAGES"), page * os.sysconf("SC_AVPHYS_PAGES"))


def _apart(planned: float, real: float) -> float:
    """The difference in percent of ``real``."""
    return 100 * abs(planned - real) / real
