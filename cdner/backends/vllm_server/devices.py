"""What NVIDIA GPUs there are and how much of their memory is free, by nvidia-smi: needs no torch.

Numbers only; what is asked for is computed in ``memory``.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass

_QUERY = ("nvidia-smi", "--query-gpu=index,uuid,memory.total,memory.free", "--format=csv,noheader,nounits")
_SECONDS = 30
MIB = 2**20


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """Bytes of one GPU."""

    total: int
    free: int
    index: str = "0"  # nvidia-smi's, in the order of the PCI bus


def read_devices() -> tuple[DeviceMemory, ...]:
    """The GPUs this process may use, in the order of CUDA_VISIBLE_DEVICES; empty without nvidia-smi or without any."""
    try:
        done = subprocess.run(_QUERY, capture_output=True, text=True, check=False, timeout=_SECONDS)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return ()
    if done.returncode != 0:  # a driver that does not answer
        return ()
    return visible_devices(done.stdout, os.environ.get("CUDA_VISIBLE_DEVICES"))


def visible_devices(listing: str, visible: str | None) -> tuple[DeviceMemory, ...]:
    """Lines ``index, uuid, total MiB, free MiB`` as devices; ``visible`` is CUDA_VISIBLE_DEVICES (None: all).

    As in CUDA, the first name that fits no device ends the list, and a UUID may be cut to its beginning.
    """
    listed: dict[tuple[str, str], DeviceMemory] = {}
    for line in listing.splitlines():
        cells = [cell.strip() for cell in line.split(",")]
        if len(cells) == 4 and cells[2].isdigit() and cells[3].isdigit():
            listed[cells[0], cells[1]] = DeviceMemory(int(cells[2]) * MIB, int(cells[3]) * MIB, cells[0])
    if visible is None:
        return tuple(listed.values())
    chosen = []
    for name in (part.strip() for part in visible.split(",")):
        fitting = [
            memory
            for (index, uuid), memory in listed.items()
            if name and (name == index or uuid.startswith(name))
        ]
        if not fitting:
            break
        chosen.append(fitting[0])
    return tuple(chosen)
