"""The environment variables a vLLM server is started with: its key, no telemetry, no hub where none is needed.

The key travels here and not in the command line, which every user of the machine can read.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from cdner.backends.vllm_server.cores import BINDING_VARIABLE
from cdner.backends.vllm_server.installation import Device
from cdner.backends.vllm_server.placement import Placement

KEY_VARIABLE = "VLLM_API_KEY"
SLEEP_VARIABLE = "VLLM_SERVER_DEV_MODE"
_CPU_CACHE_VARIABLE = "VLLM_CPU_KVCACHE_SPACE"
_NOT_FOR_SERVERS = ("OPENAI_API_KEY", "OPENAI_BASE_URL")
_SECRETS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")  # a server needs them for gated models; its log does not


def server_environment(
    own: Mapping[str, str],
    *,
    api_key: str,
    folder: Path,
    device: Device,
    model: str,
    can_sleep: bool,
    placement: Placement,
) -> dict[str, str]:
    """``own`` (this process's) with what the server needs; what the user has set of the optional ones stays.

    ``folder`` is the server's private one.
    """
    environment = {name: value for name, value in own.items() if name not in _NOT_FOR_SERVERS}
    environment |= {
        KEY_VARIABLE: api_key,
        "TMPDIR": str(folder),  # its sockets and rendezvous files, else left in the common folder
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "NO_COLOR": "1",
        "PYTHONUNBUFFERED": "1",
        "PYTHONSAFEPATH": "1",  # python -m must import nothing from the current folder
    }
    if can_sleep:
        environment[SLEEP_VARIABLE] = "1"
    if device == "cpu":  # without it vLLM takes a share of all memory
        environment.setdefault(_CPU_CACHE_VARIABLE, str(placement.kv_cache_gib))
        if placement.cores:
            environment.setdefault(BINDING_VARIABLE, placement.cores)
    if placement.visible_devices:
        environment |= {
            "CUDA_DEVICE_ORDER": "PCI_BUS_ID",  # the order in which nvidia-smi counts
            "CUDA_VISIBLE_DEVICES": placement.visible_devices,
        }
    if Path(model).is_dir():
        environment.setdefault("HF_HUB_OFFLINE", "1")
    return environment


def binding_statement(own: Mapping[str, str], cores: str) -> str:
    """Which cores vLLM computes on, in words; ``cores`` as in ``Placement``, ``own`` this process's environment."""
    if (named := own.get(BINDING_VARIABLE)) is not None:
        return f"computes on the cores of {BINDING_VARIABLE} ({named})"
    return f"computes on cores {cores}" if cores else "computes on the cores it chooses itself"


def redacted(text: str, *, api_key: str) -> str:
    """``text`` without the server's key and the hub's."""
    for secret in (api_key, *(os.environ.get(name, "") for name in _SECRETS)):
        if secret:
            text = text.replace(secret, "***")
    return text
