"""A vLLM server that cdner starts, watches, puts to sleep and stops; and the ones ``cdner serve`` keeps running.

Knows vLLM as a program with options and HTTP endpoints and never imports it: it may live in another environment.
Knows nothing of requests and answers (``cdner.llm.vllm.backend`` does). Importing this package imports nothing heavy.
"""

from __future__ import annotations

from cdner.llm.vllm.installation import VllmInstallation, find_vllm
from cdner.llm.vllm.placement import Placement, place
from cdner.llm.vllm.served import RunningServer, running_server
from cdner.llm.vllm.server import Report, VllmServer

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
