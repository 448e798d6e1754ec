"""One request over the wire, through the official SDK with its retries off, and what came of it.

``reply`` reads what the server sent. Whether to try again is decided in ``call``, which also knows the other servers,
the budget and the pace. Errors are values here, because they cross a thread. No text that leaves this module holds a
key.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from cdner.config import Capabilities
from cdner.errors import BackendError
from cdner.llm.chat.capabilities import SETTING, Dialect, put
from cdner.llm.chat.choice_dialogue import TOP
from cdner.llm.chat.pacing import retry_after
from cdner.llm.chat.reply import (
    ErrorClass,
    Reply,
    ServerError,
    Usage,
    as_outcome,
    read_message,
    read_reply,
    read_reply_object,
    read_usage,
    server_error,
)
from cdner.types import Completion, Gap, ReasoningRequest

if TYPE_CHECKING:
    import openai


def read_body(text: str) -> Completion | Gap:
    """The completion in an answer's body; a gap for anything else that a server may send with status 200."""
    return as_outcome(read_reply(text))


def read_chunks(chunks: Iterable[Any], on_text: Callable[[str], None]) -> Completion | Gap | ServerError:
    """``chunks``: the SDK's, unchecked by it; the last one has the usage and no choice."""
    written: list[str] = []
    thoughts: list[str] = []
    usage: object = None
    finish, refused = "", False
    for raw in chunks:
        chunk = raw.model_dump(warnings=False) if hasattr(raw, "model_dump") else raw
        if not isinstance(chunk, Mapping):
            return Gap(f"malformed answer: a streamed event is a {type(chunk).__name__}, not an object")
        if chunk.get("error"):
            error = read_reply_object({"error": chunk["error"]})
            return error if isinstance(error, ServerError) else Gap("malformed answer: a streamed error")
        usage = chunk.get("usage") or usage
        choices = chunk.get("choices")
        if choices is not None and not isinstance(choices, list):
            return Gap("malformed answer: choices of a streamed event is not a list")
        for choice in (choices or [])[:1]:
            delta = choice.get("delta") if isinstance(choice, Mapping) else None
            if not isinstance(delta, Mapping):
                return Gap("malformed answer: a streamed choice has no delta")
            word = choice.get("finish_reason")
            finish = word if isinstance(word, str) and word else finish
            part = read_message(delta, finish=finish, usage=Usage(), is_part=True)
            refused = refused or part.finish == "refused" or bool(delta.get("refusal"))
            thoughts.append(part.thoughts)
            if part.answer:
                written.append(part.answer)
                on_text(part.answer)
    if not finish:
        return Gap("the answer ended without a finish reason: the stream was cut off")
    message = {"content": "".join(written), "reasoning": "".join(thoughts), "refusal": refused}
    return as_outcome(read_message(message, finish=finish, usage=read_usage(usage)))


OFFICIAL_HOST = "api.openai.com"
CONNECT_SECONDS = 10.0  # a server that is there takes a connection at once
OVERDUE = 1.1  # of the timeout: the wire's own sees a silent server, not one that trickles
_CONGESTED_STATUS = frozenset({408, 429, 503, 529})
_MAX_REASON = 300
_LEAST_KEY = 8


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


@dataclass(frozen=True, slots=True)
class Reworded:
    """The server refused how the request was put; it is sent again in the way that the refusal taught."""


TIMEOUT = Passing("timeout", congested=True)
Outcome = Completion | Gap | Passing | Unreachable | Reworded | BackendError


@dataclass(frozen=True, slots=True)
class Exchange:
    outcome: Outcome
    headers: Mapping[str, str] = field(default_factory=dict)  # lower-case names
    billed: bool = False  # the server may have charged for an answer that nobody can use
    body: str = ""  # of an answer to a request with choices
    n_repaired: int = 0  # token counts of the usage that could not be right


def is_loopback(base_url: str) -> bool:
    """Whether the server is on this machine's loopback: localhost, 127.0.0.0/8 or ::1."""
    host = urlsplit(base_url).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Connection:
    """One server's client. ``timeout`` in real seconds, for each step of an exchange."""

    def __init__(self, server: Server, *, timeout: float, most: int, dialect: Dialect | None = None) -> None:
        import httpx2
        import openai

        from cdner.llm.chat.bounded import BoundedTransport, Bounds

        self.server = server
        self._dialect = dialect or Dialect(Capabilities())
        self._timeout = timeout
        self._bounds = Bounds()
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
                limits=limits,
                timeout=patience,
                trust_env=not is_loopback(server.base_url),
                follow_redirects=False,
            ),
            default_headers={"Accept-Encoding": "identity"},
        )
        http = self._client._client
        http._transport = BoundedTransport(http._transport, self._bounds)
        for pattern, transport in list(http._mounts.items()):
            if transport is not None:
                http._mounts[pattern] = BoundedTransport(transport, self._bounds)

    def close(self) -> None:
        self._client.close()

    def send(self, request: ReasoningRequest, *, model: str) -> Exchange:
        """Blocks until there is an outcome. Raises nothing a server can cause."""
        import openai

        from cdner.llm.chat.bounded import byte_limit

        spoken = self._dialect.now
        official = is_official(self.server.base_url)
        arguments = put(chat_arguments(request, model=model, official=official), spoken)
        self._bounds.most_bytes = byte_limit(request.sampling.max_tokens)
        self._bounds.deadline = time.monotonic() + OVERDUE * self._timeout
        try:
            if request.on_text is not None:
                return self._streamed(arguments, request.on_text)
            answer = self._client.chat.completions.with_raw_response.create(**arguments)
            return self._heard(read_reply(answer.text), answer, keep_body=bool(request.sampling.choices))
        except openai.APIStatusError as error:
            return self._refusal(error, spoken, arguments)
        except openai.APIConnectionError as error:
            return self._lost(error)
        except openai.OpenAIError as error:
            return Exchange(Gap(self._redact(str(error))))
        except UnicodeEncodeError:
            return Exchange(Gap("the request holds half characters (lone surrogates), which no server takes"))

    def _heard(self, reply: Reply | ServerError, answer: Any, *, keep_body: bool) -> Exchange:
        headers = dict(answer.headers)
        if isinstance(reply, ServerError):
            return Exchange(self._outcome_of(reply, answer.headers), headers, billed=not reply.status)
        return Exchange(
            reply.as_completion() if keep_body else as_outcome(reply),
            headers,
            billed=True,
            body=answer.text if keep_body else "",
            n_repaired=reply.usage.n_repaired,
        )

    def _streamed(self, arguments: dict[str, Any], on_text: Callable[[str], None]) -> Exchange:
        import httpx2

        answer = self._client.chat.completions.with_raw_response.create(
            **arguments, stream=True, stream_options={"include_usage": True}
        )
        try:
            read = read_chunks(answer.parse(), on_text)
            outcome: Outcome = (
                self._outcome_of(read, answer.headers) if isinstance(read, ServerError) else read
            )
        except httpx2.TimeoutException:
            outcome = TIMEOUT
        except httpx2.TransportError as error:  # the SDK passes on what breaks a stream it has begun
            outcome = Passing(f"lost connection: {self._redact(str(error)) or type(error).__name__}")
        except (ValueError, TypeError, AttributeError, RecursionError) as error:  # not JSON, or not an object
            outcome = Gap(self._redact(f"malformed answer: {error}"))
        return Exchange(outcome, dict(answer.headers), billed=True)

    def _lost(self, error: openai.APIConnectionError) -> Exchange:
        import httpx2
        import openai

        cause = error.__cause__
        reason = self._redact(str(cause or error)) or type(cause or error).__name__
        if isinstance(cause, httpx2.ConnectError | httpx2.ConnectTimeout):
            return Exchange(Unreachable(reason))
        from cdner.llm.chat.bounded import TooLargeError

        if isinstance(cause, TooLargeError):
            return Exchange(Gap(reason), billed=True)
        if isinstance(error, openai.APITimeoutError):
            return Exchange(TIMEOUT, billed=True)
        return Exchange(Passing(f"lost connection: {reason}"), billed=True)

    def _refusal(
        self, error: openai.APIStatusError, spoken: Capabilities, arguments: Mapping[str, Any]
    ) -> Exchange:
        headers = error.response.headers
        found = server_error(error.status_code, error.response.text)
        if self._dialect.learn(spoken, arguments, found, shown=self._redact(found.words)):
            return Exchange(Reworded(), dict(headers))
        return Exchange(self._outcome_of(found, headers), dict(headers))

    def _outcome_of(self, error: ServerError, headers: Mapping[str, str]) -> Outcome:
        line = self._redact(error.words)
        if error.status:
            line = f"Error code: {error.status} - {line}"
        if error.status // 100 == 3:
            where = self._redact(headers.get("location", "elsewhere"))
            return BackendError(
                f"The server {self.address} redirects to {where}, and prompts do not follow redirects. "
                "If you trust that address, give it as the base URL."
            )
        if error.kind is ErrorClass.STOP:
            return BackendError(f"The server refuses every request: {line}.{self._hint(error)}")
        if error.kind is ErrorClass.WAIT:
            congested = error.status in _CONGESTED_STATUS
            return Passing(line, wait=retry_after(headers), congested=congested)
        return Gap(line + self._hint(error))

    def _hint(self, error: ServerError) -> str:
        """Which setting may help."""
        words = error.words.lower()
        if (
            error.status == 404
            and "model" not in words
            and not self.server.base_url.rstrip("/").endswith("/v1")
        ):
            return f" Does the address end in /v1? It is {self.address}."
        if "context" in words and "token" in words:
            return ". Lower reason.n_examples or reason.max_tokens"
        if error.kind is ErrorClass.GIVE_UP and re.search(
            r"parameter|unsupported|not supported|unknown", words
        ):
            return f". {SETTING} can leave it out or rename it"
        return ""


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
    """Makes one bounded line without the key, or what a server echoes of it, or a password in an address.

    A key of fewer than eight characters stands for none ("x", "EMPTY"): it is taken out only as a word of its own.
    """
    whole = re.escape(key) if len(key) >= _LEAST_KEY else rf"(?<!\w){re.escape(key)}(?!\w)"

    def redact(text: str) -> str:  # a closure: the repr of a partial would show the key
        line = re.sub(whole, "[key]", text) if key else text  # first: a key that is cut would not be found
        line = " ".join(re.sub(r"\bsk-[\w*.-]+", "[key]", line).split())
        return re.sub(r"://[^/@\s]+@", "://", line)[:_MAX_REASON].rstrip(".")

    return redact
