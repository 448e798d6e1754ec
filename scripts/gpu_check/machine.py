"""The device that is checked: its clock, its peak speed, and the memory that this process uses on it."""

from __future__ import annotations

import resource
import time
from dataclasses import dataclass

import torch

GIB = 2**30


@dataclass(frozen=True, slots=True)
class Machine:
    device: str  # "cpu" or "cuda": the one GPU that this process sees
    small: bool
    peak_tflops: float | None = None  # measured with a large bf16 product; None: not measured
    total_gib: float | None = None  # of the GPU; None: no limit is known

    @property
    def cuda(self) -> bool:
        return self.device == "cuda"

    def now(self) -> float:
        """The time in seconds, after all work on the device has finished."""
        if self.cuda:
            torch.cuda.synchronize()
        return time.perf_counter()

    def peak_gib(self) -> float:
        """Peak memory of this process: its tensors on a GPU, the whole process on a CPU."""
        if self.cuda:
            return torch.cuda.max_memory_allocated() / GIB
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20

    def share(self, flops: float, seconds: float) -> float | None:
        """Percent of the peak speed."""
        return None if not self.peak_tflops else 100 * flops / seconds / (self.peak_tflops * 1e12)


def measured_peak(machine: Machine) -> float:
    """TFLOP/s of products of large square bf16 matrices: the best of ten, after two to warm up."""
    n = 512 if machine.small else 8192
    left, right = (torch.randn(n, n, device=machine.device, dtype=torch.bfloat16) for _ in range(2))
    seconds = []
    for _ in range(12):
        started = machine.now()
        left @ right
        seconds.append(machine.now() - started)
    return 2 * n**3 / min(seconds[2:]) / 1e12
