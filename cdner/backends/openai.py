"""Any server that speaks OpenAI's chat completions, through the official SDK: concurrent, with its retries.

A request that fails for good is a gap; what would fail every request alike (key, quota, model, address) stops
the call at once. The key comes from OPENAI_API_KEY, and no message or error text holds it. Knows nothing of
prompts.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, ValidationError

from cdner.config import Execution, Llm
from cdner.errors import BackendError
from cdner.types import Completion, Gap, ReasoningRequest

if TYPE_CHECKING:
    import httpx2
    import openai

KEY_VARIABLE = "OPENAI_API_KEY"
URL_VARIABLE = "OPENAI_BASE_URL"
DEFAULT_BASE_URL = "https://api.openai.com/v1"
MAX_RETRIES = 4  # the SDK's, for 408, 409, 429, 5xx, timeouts and lost connections; Retry-After is honoured
HOPELESS_AFTER = 20  # gaps without one success: the remaining requests would not fare better
UNREACHABLE = "cannot reach the server"
_NO_QUOTA = "insufficient_quota"
_FATAL_STATUS = frozenset({401, 402, 403, 404})  # key, payment, permission, model or address
_MAX_REASON = 300


class _TokenDetails(BaseModel):
    cached_tokens: int | None = None


class _Usage(BaseModel):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _TokenDetails | None = None


class _Message(BaseModel):
    content: str | None = None
    refusal: str | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None


class _Body(BaseModel):
    """What is read of an answer. Ours, because the SDK passes a malformed body on unchecked."""

    choices: list[_Choice] = Field(min_length=1)
    usage: _Usage | None = None


class OpenAIBackend:
    """Threads around one client; ``redact`` makes an error text safe to show."""

    family = "openai"

    def __init__(
        self, client: openai.OpenAI, *, model: str, concurrency: int, redact: Callable[[str], str]
    ) -> None:
        self._client = client
        self._model = model
        self._concurrency = concurrency
        self._redact = redact

    @property
    def model(self) -> str:
        return self._model

    def rest(self) -> None:
        """The server is somebody else's."""

    def close(self) -> None:
        self._client.close()

    def complete(self, requests: Sequence[ReasoningRequest]) -> Iterator[tuple[int, Completion | Gap]]:
        """Yields as answers arrive; those on their way when a BackendError comes up are yielded before it."""
        pool = ThreadPoolExecutor(self._concurrency, thread_name_prefix="openai")
        waiting: dict[Future[Completion | Gap | BackendError], int] = {
            pool.submit(self._ask, request): index for index, request in enumerate(requests)
        }
        stopped: BackendError | None = None
        n_completed = n_gaps = 0
        try:
            for future in as_completed(waiting):
                if future.cancelled():
                    continue
                outcome = future.result()
                if isinstance(outcome, Completion):
                    n_completed += 1
                    yield waiting[future], outcome
                elif isinstance(outcome, Gap):
                    n_gaps += 1
                    yield waiting[future], outcome
                    if not n_completed and _is_hopeless(outcome, n_gaps):
                        outcome = BackendError(f"No request succeeded; the last one: {outcome.reason}.")
                if isinstance(outcome, BackendError) and stopped is None:
                    stopped = outcome
                    for other in waiting:
                        other.cancel()
            if stopped is not None:
                raise stopped
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _ask(self, request: ReasoningRequest) -> Completion | Gap | BackendError:
        """One request with the SDK's retries. Errors are values here: they cross a thread."""
        import openai

        try:
            answer = self._client.chat.completions.with_raw_response.create(**self._arguments(request))
            return _read_body(answer.text)
        except openai.APITimeoutError:
            return Gap("timeout")
        except openai.APIConnectionError as error:
            return Gap(f"{UNREACHABLE}: {self._redact(str(error.__cause__ or error))}")
        except openai.APIStatusError as error:
            return self._refused(error)
        except openai.OpenAIError as error:
            return Gap(self._redact(str(error)))

    def _arguments(self, request: ReasoningRequest) -> dict[str, Any]:
        sampling = request.sampling
        # Newer OpenAI models refuse max_tokens; many other servers know nothing else.
        official = self._client.base_url.host == urlsplit(DEFAULT_BASE_URL).hostname
        arguments: dict[str, Any] = {
            "model": self._model,
            "messages": [{"role": message.role, "content": message.content} for message in request.messages],
            "max_completion_tokens" if official else "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": sampling.seed,
        }
        if sampling.stop:
            arguments["stop"] = list(sampling.stop)
        if request.schema is not None:
            schema = {"name": "answer", "strict": True, "schema": json.loads(request.schema)}
            arguments["response_format"] = {"type": "json_schema", "json_schema": schema}
        return arguments

    def _refused(self, error: openai.APIStatusError) -> Gap | BackendError:
        line = self._redact(error.message)
        if error.status_code in _FATAL_STATUS or error.code == _NO_QUOTA:
            return BackendError(f"The server refuses every request: {line}.")
        return Gap(line)


def open_backend(
    llm: Llm,
    execution: Execution,
    *,
    max_retries: int = MAX_RETRIES,
) -> OpenAIBackend:
    """BackendError without a key (a base URL of one's own needs none) or with an unusable one or address."""
    import openai

    base_url = next(iter(execution.base_urls), None) or os.environ.get(URL_VARIABLE) or DEFAULT_BASE_URL
    if urlsplit(base_url).scheme not in {"http", "https"} or not urlsplit(base_url).hostname:
        raise BackendError(
            f"'{_redact(base_url, key='')}' is no base URL. Give one like http://localhost:8000/v1."
        )
    key = _key(required=base_url == DEFAULT_BASE_URL)

    def redact(text: str) -> str:  # a closure: the repr of a partial would show the key
        return _redact(text, key=key)

    client = openai.OpenAI(
        api_key=key or "no-key",
        base_url=base_url,
        timeout=execution.timeout_seconds,
        max_retries=max_retries,
        http_client=openai.DefaultHttpxClient(event_hooks={"response": [_spare_retries_without_quota]}),
    )
    return OpenAIBackend(client, model=llm.model, concurrency=execution.concurrency, redact=redact)


def _key(*, required: bool) -> str:
    """The key without surrounding blanks; "" if there is none and none is required."""
    key = os.environ.get(KEY_VARIABLE, "").strip()
    if required and not key:
        raise BackendError(f"The backend 'openai' needs a key. Set {KEY_VARIABLE}, or give another base URL.")
    if not all("!" <= character <= "~" for character in key):
        raise BackendError(f"{KEY_VARIABLE} holds blanks or characters that no key has. Set it again.")
    return key


def _redact(text: str, *, key: str) -> str:
    """One bounded line without the key, or what a server echoes of it, or a password in an address."""
    line = " ".join(text.split())[:_MAX_REASON]
    line = line.replace(key, "[key]") if key else line
    return re.sub(r"://[^/@\s]+@", "://", re.sub(r"\bsk-[\w*.-]+", "[key]", line)).rstrip(".")


def _spare_retries_without_quota(response: httpx2.Response) -> None:
    """An empty account answers 429 like a busy server, but waiting does not fill it."""
    if response.status_code == 429 and _NO_QUOTA.encode() in response.read():
        response.headers["x-should-retry"] = "false"


def _is_hopeless(gap: Gap, n_gaps: int) -> bool:
    """Whether the remaining requests would fare no better, given that none has succeeded so far."""
    return n_gaps >= HOPELESS_AFTER or gap.reason.startswith(UNREACHABLE)


def _read_body(text: str) -> Completion | Gap:
    """The completion in an answer's body; a gap for anything else that a server may send with status 200."""
    try:
        body = _Body.model_validate_json(text)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"])
        return Gap(f"malformed answer: {where or 'body'}: {problem['msg']}")
    choice, usage = body.choices[0], body.usage or _Usage()
    if choice.message.content is None:
        return Gap("refused" if choice.message.refusal else f"no text, finish reason {choice.finish_reason}")
    details = usage.prompt_tokens_details or _TokenDetails()
    return Completion(
        text=choice.message.content,
        finish_reason=choice.finish_reason or "unknown",
        input_tokens=usage.prompt_tokens or 0,
        cached_tokens=details.cached_tokens or 0,
        output_tokens=usage.completion_tokens or 0,
    )
