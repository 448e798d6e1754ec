"""What torch can compute on here: for people who want to know before they train. Imports torch."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from cdner.backbone.precision import choose_dtype


@dataclass(frozen=True, slots=True)
class Gpu:
    name: str
    total_gib: float
    free_gib: float
    bf16: bool


@dataclass(frozen=True, slots=True)
class Devices:
    torch: str  # version
    cuda: str  # the version torch was built for, "" for a build without
    gpus: tuple[Gpu, ...]
    cpu_bf16: bool  # in hardware
    n_threads: int


def find_devices() -> Devices:
    """Asks torch; on a machine without CUDA this starts nothing."""
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
