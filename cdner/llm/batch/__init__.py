"""The openai backend through OpenAI's Batch API: half the price, within a day, across processes.

``backend`` what goes up when and what becomes of it · ``server`` one Batch API over HTTP · ``rows`` its files ·
``account`` what it costs · ``ledger`` what must be remembered beyond a process, handed in: this package knows no store.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from cdner.config import Execution, Llm
from cdner.errors import UsageError
from cdner.llm.batch.backend import Account, BatchBackend, Ledger
from cdner.llm.batch.server import ENDED, BatchServer, UnreachableError
from cdner.llm.chat import Budget, Server
from cdner.llm.chat.capabilities import capabilities_of, put
from cdner.llm.chat.exchange import chat_arguments, is_official, redaction
from cdner.llm.openai import DEFAULT_BASE_URL, URL_VARIABLE, check_base_url, key_for, known_price, read_key
from cdner.types import Progress, ReasoningRequest

__all__ = [
    "ENDED",
    "BatchBackend",
    "BatchServer",
    "Ledger",
    "UnreachableError",
    "open_batch",
    "open_server",
]

BACKEND = "openai"
MAX_RETRIES = 4  # the SDK's, for what may be sent twice; a batch is created by ``BatchServer`` with care


def open_batch(
    llm: Llm, execution: Execution, budget: Budget, *, ledger: Ledger, progress: Progress
) -> BatchBackend:
    """UsageError for a backend without a Batch API, BackendError without a key or with an unusable address."""
    if llm.backend != BACKEND:
        raise UsageError(
            f"The backend '{llm.backend}' has no Batch API. Leave out --batch (execution.batch), or use --backend "
            f"{BACKEND}."
        )
    where = _where(execution)
    official = is_official(where.base_url)
    capabilities = capabilities_of(llm.model, where.base_url, execution.capabilities)

    def arguments(request: ReasoningRequest) -> Mapping[str, Any]:
        return put(chat_arguments(request, model=llm.model, official=official), capabilities)

    return BatchBackend(
        open_server(execution),
        ledger,
        model=llm.model,
        arguments=arguments,
        redact=redaction(where.api_key),
        account=Account(
            budget,
            known_price(llm.model, [where.base_url], max_cost=execution.max_cost),
        ),
        progress=progress,
    )


def open_server(execution: Execution) -> BatchServer:
    """The Batch API of the server the openai backend would ask. BackendError as there."""
    import openai

    where = _where(execution)
    client = openai.OpenAI(
        api_key=where.api_key or "no-key",
        base_url=where.base_url,
        timeout=execution.timeout_seconds,
        max_retries=MAX_RETRIES,
    )
    return BatchServer(client, redact=redaction(where.api_key))


def _where(execution: Execution) -> Server:
    if len(execution.base_urls) > 1:
        raise UsageError("A batch goes to one server. Give one --base-url, or leave out --batch.")
    base_url = next(iter(execution.base_urls), None) or os.environ.get(URL_VARIABLE) or DEFAULT_BASE_URL
    check_base_url(base_url)
    return Server(base_url, key_for(base_url, read_key(required=base_url == DEFAULT_BASE_URL), execution))
