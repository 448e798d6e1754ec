"""Chooses device and number format, and lists what torch finds on this machine.

fp16 is never chosen: T5 overflows in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from cdner.errors import ModelError, UsageError

DtypeName = Literal["auto", "bfloat16", "float32"]


def choose_device(name: str) -> torch.device:
    """``auto`` is CUDA if torch finds it, else the CPU.

    Raises UsageError for an unknown name, ModelError if the device is absent.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"No device named '{name}'. Known: auto, cpu, cuda, cuda:<n>.") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ModelError(f"Device '{name}' was asked for, but torch sees no CUDA here. Use --device cpu.")
    return device


def choose_dtype(name: DtypeName, device: torch.device) -> torch.dtype:
    """``auto`` is bf16 on CUDA and on CPUs with AVX512-BF16 or AMX, where it is twice as fast, else fp32."""
    if name != "auto":
        return torch.bfloat16 if name == "bfloat16" else torch.float32
    fast = device.type == "cuda" or (device.type == "cpu" and _cpu_has_bf16())
    return torch.bfloat16 if fast else torch.float32


def _cpu_has_bf16() -> bool:
    # These functions are not public in torch. A version without them computes in fp32, the safe choice.
    queries = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(query() for name in queries if (query := getattr(torch.cpu, name, None)) is not None)


@dataclass(frozen=True, slots=True)
class Gpu:
    name: str
    total_gib: float
    free_gib: float
    bf16: bool


@dataclass(frozen=True, slots=True)
class Devices:
    torch: str  # version
    cuda: str  # the version torch was built for, "" for a build without CUDA
    gpus: tuple[Gpu, ...]
    cpu_bf16: bool  # in hardware
    n_threads: int


def find_devices() -> Devices:
    """The devices that torch finds. Without CUDA nothing is initialised."""
    gpus = tuple(_gpu(index) for index in range(torch.cuda.device_count()))
    return Devices(
        torch=str(torch.__version__),
        cuda=torch.version.cuda or "",
        gpus=gpus,
        cpu_bf16=choose_dtype("auto", torch.device("cpu")) == torch.bfloat16,
        n_threads=torch.get_num_threads(),
    )


def _gpu(index: int) -> Gpu:
    free, total = torch.cuda.mem_get_info(index)
    major, _ = torch.cuda.get_device_capability(index)
    name = torch.cuda.get_device_name(index)
    return Gpu(name, total / 2**30, free / 2**30, bf16=major >= 8)  # Ampere is the first with bf16
