"""Which cores a vLLM server on a CPU computes on, as the value of vLLM's own setting.

Exists because vLLM by itself leaves one core to its engine process, which on two cores is half of the machine. One
hardware thread of each core, as vLLM counts them. On many cores that core is a small share, and vLLM's own choice,
which minds memory nodes too, stands.

What NVIDIA GPUs there are and how much of their memory is free, by nvidia-smi: needs no torch.

Numbers only; what is asked for is computed in ``memory``.

Where on this machine a vLLM server runs and with how much memory: from the settings, the model and the devices.

The arithmetic is in ``memory``; here its numbers are read.
"""

from __future__ import annotations

from dataclasses import dataclass

from cdner.config import Execution
from cdner.errors import BackendError, UsageError
from cdner.llm.vllm.arguments import value_given
from cdner.llm.vllm.devices import read_devices, usable_cores
from cdner.llm.vllm.installation import VllmInstallation
from cdner.llm.vllm.memory import CPU_CACHE_GIB, MemoryPlan, cpu_cache_gib, model_size, needs_of, plan_memory

_OWN_MEMORY = ("--gpu-memory-utilization", "--kv-cache-memory-bytes")
_SPLITS = ("--tensor-parallel-size", "--pipeline-parallel-size")
_CPU_SPLITS = (*_SPLITS, "--data-parallel-size")  # several workers: vLLM gives each its own cores
_SHORT_SPLITS = ("-tp", "-pp", "-dp")


@dataclass(frozen=True, slots=True)
class Placement:
    memory: MemoryPlan | None = None  # None: a CPU, or the user's own --vllm-arg says how much
    visible_devices: str = ""  # CUDA_VISIBLE_DEVICES for the server; "": as it is
    kv_cache_gib: int = CPU_CACHE_GIB  # used on CPUs
    cores: str = ""  # used on CPUs: vLLM computes on these, as "0-1"; "": its own choice


def place(
    installation: VllmInstallation, execution: Execution, *, model: str, max_model_len: int
) -> Placement:
    """``model``: a folder or a hub name. BackendError if too little GPU memory is free or a GPU is not there."""
    size = model_size(model)
    if installation.device == "cpu":
        gib = cpu_cache_gib(size, max_model_len=max_model_len, concurrency=execution.concurrency)
        return Placement(kv_cache_gib=gib, cores="" if _is_split(execution) else usable_cores())
    n_devices = 1
    for option in _SPLITS:
        n_devices *= _whole_number(option, value_given(execution.vllm_args, option) or "1")
    devices = read_devices()
    first = _first_device(execution.device)
    chosen = devices[first or 0 :][:n_devices]
    if len(chosen) < n_devices:
        raise BackendError(
            f"vLLM was to use {n_devices} GPU(s) from number {first or 0} on, but {len(devices)} are visible. "
            "Change --device, CUDA_VISIBLE_DEVICES or the --vllm-arg that splits the model."
        )
    visible = "" if first is None else ",".join(device.index for device in chosen)
    if any(value_given(execution.vllm_args, option) is not None for option in _OWN_MEMORY):
        return Placement(visible_devices=visible)
    needs = None
    if size is not None:
        needs = needs_of(
            size, max_model_len=max_model_len, concurrency=execution.concurrency, n_devices=n_devices
        )
    plan = plan_memory(chosen, needs, model=model, asked_gib=execution.gpu_memory)
    return Placement(memory=plan, visible_devices=visible)


def _is_split(execution: Execution) -> bool:
    arguments = execution.vllm_args
    return any(value_given(arguments, option) is not None for option in _CPU_SPLITS) or any(
        argument.startswith(_SHORT_SPLITS) for argument in arguments
    )


def _first_device(device: str) -> int | None:
    """The number in ``cuda:1``; None where no number is given."""
    kind, _, number = device.partition(":")
    return int(number) if kind == "cuda" and number.isdigit() else None


def _whole_number(option: str, text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise UsageError(f"--vllm-arg {option}: '{text}' is no number of GPUs.")
    return int(text)
