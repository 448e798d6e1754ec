"""What is read of a chat completion's answer, whole: the completion, or why there is none.

The shapes are ours, because the SDK passes a malformed body on unchecked.

One answer read as it is written, for somebody who watches: the same completion as from a whole body.

Knows nothing of when to try again; what a server does to the stream leaves as the errors that ``exchange`` reads.

One request over the wire and what came of it, through the official SDK with its retries off.

Whether to try again is decided in one place, by the client, which also knows the other servers, the budget and the
pace. Errors are values here: they cross a thread. No text that leaves this module holds a key.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, ValidationError

from cdner.errors import BackendError
from cdner.llm.chat.choice_dialogue import TOP
from cdner.llm.chat.pacing import retry_after
from cdner.types import Completion, Gap, ReasoningRequest

if TYPE_CHECKING:
    import openai


class _TokenDetails(BaseModel):
    cached_tokens: int | None = None


class Usage(BaseModel):
    """Tokens read and written; a server may leave out any of it."""

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
    choices: list[_Choice] = Field(min_length=1)
    usage: Usage | None = None


def read_body(text: str) -> Completion | Gap:
    """The completion in an answer's body; a gap for anything else that a server may send with status 200."""
    try:
        body = _Body.model_validate_json(text)
    except ValidationError as error:
        return malformed(error)
    choice = body.choices[0]
    refused = bool(choice.message.refusal)
    return completion_of(choice.message.content, choice.finish_reason, body.usage or Usage(), refused=refused)


def read_probed_body(text: str) -> Completion | Gap:
    """Like ``read_body``, for an answer that is asked for its log-probabilities: it may hold no text."""
    try:
        body = _Body.model_validate_json(text)
    except ValidationError as error:
        return malformed(error)
    choice = body.choices[0]
    refused = bool(choice.message.refusal)
    content = choice.message.content if refused else choice.message.content or ""
    return completion_of(content, choice.finish_reason, body.usage or Usage(), refused=refused)


def completion_of(
    text: str | None, finish_reason: str | None, usage: Usage, *, refused: bool
) -> Completion | Gap:
    """``text`` None: the server wrote nothing."""
    if text is None:
        return Gap("refused" if refused else f"no text, finish reason {finish_reason}")
    details = usage.prompt_tokens_details or _TokenDetails()
    return Completion(
        text=text,
        finish_reason=finish_reason or "unknown",
        input_tokens=usage.prompt_tokens or 0,
        cached_tokens=details.cached_tokens or 0,
        output_tokens=usage.completion_tokens or 0,
    )


def malformed(error: ValidationError) -> Gap:
    """Names the first thing that is not as it should be."""
    problem = error.errors()[0]
    where = ".".join(str(part) for part in problem["loc"])
    return Gap(f"malformed answer: {where or 'body'}: {problem['msg']}")


class _Delta(BaseModel):
    content: str | None = None
    refusal: str | None = None


class _StreamedChoice(BaseModel):
    delta: _Delta
    finish_reason: str | None = None


class _Chunk(BaseModel):
    choices: list[_StreamedChoice] = []
    usage: Usage | None = None


def read_chunks(chunks: Iterable[Any], on_text: Callable[[str], None]) -> Completion | Gap:
    """``chunks``: the SDK's, unchecked by it; the last one has the usage and no choice."""
    written: list[str] = []
    usage, finish_reason, refused = Usage(), None, False
    for raw in chunks:
        try:
            chunk = _Chunk.model_validate(raw.model_dump(warnings=False))
        except ValidationError as error:
            return malformed(error)
        usage = chunk.usage or usage
        for choice in chunk.choices[:1]:
            finish_reason = choice.finish_reason or finish_reason
            refused = refused or bool(choice.delta.refusal)
            if choice.delta.content:
                written.append(choice.delta.content)
                on_text(choice.delta.content)
    if finish_reason is None:
        return Gap("the answer ended without a finish reason: the stream was cut off")
    return completion_of("".join(written) if written else None, finish_reason, usage, refused=refused)


OFFICIAL_HOST = "api.openai.com"
CONNECT_SECONDS = 10.0  # a server that is there takes a connection at once
_NO_QUOTA = "insufficient_quota"
_FATAL_STATUS = frozenset({401, 402, 403, 404})  # key, payment, permission, model or address
_PASSING_STATUS = frozenset({408, 409, 429})  # and all from 500
_CONGESTED_STATUS = frozenset({408, 429, 503, 529})
_MAX_REASON = 300


@dataclass(frozen=True, slots=True)
class Server:
    """Where a model is served. ``base_url`` ends in /v1; the key is in no repr, "" is none."""

    base_url: str
    api_key: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Unreachable:
    """No connection: nothing was sent."""

    reason: str


@dataclass(frozen=True, slots=True)
class Passing:
    """A failure that may pass."""

    reason: str
    wait: float | None = None  # seconds the server asks for
    congested: bool = False  # too much at a time


TIMEOUT = Passing("timeout", congested=True)
Outcome = Completion | Gap | Passing | Unreachable | BackendError


@dataclass(frozen=True, slots=True)
class Exchange:
    outcome: Outcome
    headers: Mapping[str, str] = field(default_factory=dict)  # lower-case names
    billed: bool = False  # the server may have charged for an answer that nobody can use
    body: str = ""  # of an answer to a request with choices


def is_loopback(base_url: str) -> bool:
    """Whether the server is on this machine's loopback: localhost, 127.0.0.0/8 or ::1."""
    host = urlsplit(base_url).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Connection:
    """One server's client. ``timeout`` in real seconds, for each step of an exchange."""

    def __init__(self, server: Server, *, timeout: float, most: int) -> None:
        import httpx2
        import openai

        self.server = server
        self._redact = redaction(server.api_key)
        self.address = self._redact(server.base_url)
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=most)
        patience = httpx2.Timeout(timeout, connect=min(timeout, CONNECT_SECONDS))
        self._client = openai.OpenAI(
            api_key=server.api_key or "no-key",
            base_url=server.base_url,
            max_retries=0,
            timeout=patience,
            # A proxy of the environment is for servers elsewhere; it could not reach this machine's own.
            http_client=openai.DefaultHttpxClient(
                limits=limits, timeout=patience, trust_env=not is_loopback(server.base_url)
            ),
        )

    def close(self) -> None:
        self._client.close()

    def send(self, request: ReasoningRequest, *, model: str) -> Exchange:
        """Blocks until there is an outcome. Raises nothing a server can cause."""
        import openai

        try:
            arguments = chat_arguments(request, model=model, official=is_official(self.server.base_url))
            if request.on_text is not None:
                return self._streamed(arguments, request.on_text)
            answer = self._client.chat.completions.with_raw_response.create(**arguments)
            read, body = (read_probed_body, answer.text) if request.sampling.choices else (read_body, "")
            return Exchange(read(answer.text), dict(answer.headers), billed=True, body=body)
        except openai.APIStatusError as error:
            return Exchange(self._refusal(error), dict(error.response.headers))
        except openai.APIConnectionError as error:
            return self._lost(error)
        except openai.OpenAIError as error:
            return Exchange(Gap(self._redact(str(error))))
        except UnicodeEncodeError:
            return Exchange(Gap("the request holds half characters (lone surrogates), which no server takes"))

    def _streamed(self, arguments: dict[str, Any], on_text: Callable[[str], None]) -> Exchange:
        import httpx2

        answer = self._client.chat.completions.with_raw_response.create(
            **arguments, stream=True, stream_options={"include_usage": True}
        )
        try:
            outcome: Outcome = read_chunks(answer.parse(), on_text)
        except httpx2.TimeoutException:
            outcome = TIMEOUT
        except httpx2.TransportError as error:  # the SDK passes on what breaks a stream it has begun
            outcome = Passing(f"lost connection: {self._redact(str(error)) or type(error).__name__}")
        except ValueError as error:  # not JSON
            outcome = Gap(self._redact(f"malformed answer: {error}"))
        return Exchange(outcome, dict(answer.headers), billed=True)

    def _lost(self, error: openai.APIConnectionError) -> Exchange:
        import httpx2
        import openai

        cause = error.__cause__
        reason = self._redact(str(cause or error)) or type(cause or error).__name__
        if isinstance(cause, httpx2.ConnectError | httpx2.ConnectTimeout):
            return Exchange(Unreachable(reason))
        if isinstance(error, openai.APITimeoutError):
            return Exchange(TIMEOUT, billed=True)
        return Exchange(Passing(f"lost connection: {reason}"), billed=True)

    def _refusal(self, error: openai.APIStatusError) -> Outcome:
        line = self._redact(error.message)
        if error.status_code in _FATAL_STATUS or _NO_QUOTA in (error.code, error.type):
            return BackendError(f"The server refuses every request: {line}.")
        if error.status_code in _PASSING_STATUS or error.status_code >= 500:
            congested = error.status_code in _CONGESTED_STATUS
            return Passing(line, wait=retry_after(error.response.headers), congested=congested)
        return Gap(line)


def chat_arguments(request: ReasoningRequest, *, model: str, official: bool) -> dict[str, Any]:
    """The body of a chat completion request.

    ``official``: OpenAI itself, whose newer models refuse max_tokens; many other servers know nothing else. One of
    ``ChoiceDialogue`` asks for log-probabilities; a last message of the assistant in it is to be continued.
    """
    sampling = request.sampling
    arguments: dict[str, Any] = {
        "model": model,
        "messages": [{"role": message.role, "content": message.content} for message in request.messages],
        "max_completion_tokens" if official else "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "seed": sampling.seed,
    }
    if sampling.stop:
        arguments["stop"] = list(sampling.stop)
    if sampling.choices:
        arguments |= {"logprobs": True, "top_logprobs": TOP}
        if request.messages[-1].role == "assistant":
            arguments["extra_body"] = {"continue_final_message": True, "add_generation_prompt": False}
    if request.schema is not None:
        schema = {"name": "answer", "strict": True, "schema": json.loads(request.schema)}
        arguments["response_format"] = {"type": "json_schema", "json_schema": schema}
    return arguments


def is_official(base_url: str) -> bool:
    """Whether OpenAI itself is asked."""
    return urlsplit(base_url).hostname == OFFICIAL_HOST


def redaction(key: str) -> Callable[[str], str]:
    """Makes one bounded line without the key, or what a server echoes of it, or a password in an address."""

    def redact(text: str) -> str:  # a closure: the repr of a partial would show the key
        line = " ".join(text.split())[:_MAX_REASON]
        line = line.replace(key, "[key]") if key else line
        return re.sub(r"://[^/@\s]+@", "://", re.sub(r"\bsk-[\w*.-]+", "[key]", line)).rstrip(".")

    return redact
