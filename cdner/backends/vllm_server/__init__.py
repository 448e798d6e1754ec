"""A vLLM server that cdner starts, watches, puts to sleep and stops; and the ones ``cdner serve`` keeps running.

Knows vLLM as a program with options and HTTP endpoints and never imports it: it may live in another environment.
Knows nothing of requests and answers (``cdner.backends.vllm`` does). Importing this package imports nothing heavy.
"""

from __future__ import annotations

from cdner.backends.vllm_server.installation import VllmInstallation, find_vllm
from cdner.backends.vllm_server.placement import Placement, place
from cdner.backends.vllm_server.served import RunningServer, running_server
from cdner.backends.vllm_server.server import Report, VllmServer

__all__ = [
    "Placement",
    "Report",
    "RunningServer",
    "VllmInstallation",
    "VllmServer",
    "find_vllm",
    "place",
    "running_server",
]
