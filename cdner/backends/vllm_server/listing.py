"""What is served right now: by ``cdner serve`` on this machine, and at base URLs somewhere.

Only asks, with one request each; a server that does not answer is a row too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from cdner.backends.chat.exchange import redaction
from cdner.backends.openai import check_base_url, read_key
from cdner.backends.vllm_server.endpoints import Endpoints
from cdner.backends.vllm_server.served import running_servers

_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Listed:
    model: str  # "" if the server did not say
    max_model_len: int | None
    base_url: str
    state: str  # "serves", or why it does not
    pid: int | None = None  # of the ``cdner serve`` that keeps it


def listed_here() -> list[Listed]:
    """Models of this machine's ``cdner serve``; one that is just starting again does not answer."""
    rows = []
    for server in running_servers():
        models = Endpoints(urlsplit(server.base_url).port or 0, server.api_key).models()
        rows += [
            Listed(model.name, model.max_model_len, server.base_url, "serves", server.pid) for model in models
        ]
        if not models:
            rows.append(Listed(server.served_name, None, server.base_url, "does not answer", server.pid))
    return rows


def listed_at(base_urls: Sequence[str]) -> list[Listed]:
    """Models of OpenAI-compatible servers, asked with OPENAI_API_KEY. BackendError for an unusable address."""
    rows: list[Listed] = []
    for base_url in base_urls:
        check_base_url(base_url)
        rows += _ask(base_url, read_key(required=False))
    return rows


def _ask(base_url: str, key: str) -> list[Listed]:
    import openai

    shown = redaction(key)(base_url)
    with openai.OpenAI(api_key=key or "no-key", base_url=base_url, timeout=_SECONDS, max_retries=0) as client:
        try:
            models = list(client.models.list())
        except openai.APIStatusError as error:
            return [Listed("", None, shown, f"refuses: status {error.status_code}")]
        except openai.OpenAIError:  # no connection, no answer in time, no list
            return [Listed("", None, shown, "does not answer")]
    return [Listed(model.id, _length(model.model_extra), shown, "serves") for model in models]


def _length(extra: dict[str, object] | None) -> int | None:
    """vLLM's addition to the list."""
    length = (extra or {}).get("max_model_len")
    return length if isinstance(length, int) else None
