"""Reads a server's reply: the answer, the thoughts, the finish reason and the usage; or an error in the server's words.

Servers that speak chat completions differ in almost every detail: thoughts stand in the content or in one of several
other fields, the content is a text or a list of parts, errors come with status 200. This module is the only place
that knows these shapes. It never raises on any reply. It knows no HTTP and decides nothing about retries beyond the
class of an error.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from cdner.thoughts import separate_thoughts
from cdner.types import Completion, Gap

LARGEST_COUNT = 2**31 - 1  # tokens; the store's columns are 32-bit integers
_FATAL_STATUS = frozenset({401, 402, 403, 404})  # key, payment, permission, model or address
_PASSING_STATUS = frozenset({408, 409, 425, 429})  # and all from 500
_STATUS_OF_NAME = {
    "insufficient_quota": 402,
    "invalid_api_key": 401,
    "authentication_error": 401,
    "unauthenticated": 401,
    "permission_denied": 403,
    "permission_error": 403,
    "model_not_found": 404,
    "not_found": 404,
    "not_found_error": 404,
    "rate_limit_exceeded": 429,
    "rate_limit_error": 429,
    "resource_exhausted": 429,
    "overloaded": 503,
    "overloaded_error": 503,
    "unavailable": 503,
    "server_error": 500,
    "internal_error": 500,
    "internal_server_error": 500,
    "api_error": 500,
    "timeout": 504,
    "deadline_exceeded": 504,
}
_CUT_OFF = re.compile(
    r"length|max_?(?:output_|completion_)?tokens|token_?limit|incomplete|truncated", re.IGNORECASE
)
_ENDED = re.compile(
    r"stop|stop_sequence|eos(?:_token)?|end(?:_turn|_of_text)?|complete[d]?|tool_calls?|function_call|tool_use",
    re.IGNORECASE,
)
_REFUSED = re.compile(
    r"content_?filter|refus(?:al|ed)|safety|blocked|prohibited_content|recitation", re.IGNORECASE
)
_THINKING_PARTS = frozenset(
    {"thinking", "thought", "reasoning", "reasoning_text", "redacted_thinking", "summary_text"}
)
_THOUGHT_FIELDS = (
    "reasoning_content",
    "reasoning",
    "thinking",
    "thoughts",
    "reasoning_text",
    "reasoning_details",
)
_BOUND = 20_000  # characters of an error; whoever shows it takes the key out first, and cuts then
_DEEPEST = 8  # levels of lists of parts


class ErrorClass(Enum):
    """What to do after an error."""

    WAIT = "try again later"
    GIVE_UP = "give up on this request"
    STOP = "stop the run"


@dataclass(frozen=True, slots=True)
class ServerError:
    """``words`` are the server's own, not yet redacted; ``status`` is 0 where none is known."""

    words: str
    kind: ErrorClass
    status: int = 0
    code: str = ""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens as the server counted them; 0 where it does not say. ``n_repaired``: counts that cannot be right."""

    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    thought_tokens: int = 0  # among the output tokens
    n_repaired: int = 0


@dataclass(frozen=True, slots=True)
class Reply:
    answer: str  # without thoughts; "" if there is none
    thoughts: str
    finish: str  # "stop", "length", "refused", or the server's own word; "unknown" where it has none
    usage: Usage

    def as_completion(self) -> Completion:
        return Completion(
            text=self.answer,
            finish_reason=self.finish,
            input_tokens=self.usage.input_tokens,
            cached_tokens=self.usage.cached_tokens,
            output_tokens=self.usage.output_tokens,
            thoughts=self.thoughts,
            thought_tokens=self.usage.thought_tokens,
        )


def read_reply(text: str) -> Reply | ServerError:
    """``text``: the body of a reply with status 200."""
    try:
        body = json.loads(text)
    except (ValueError, RecursionError) as error:
        return ServerError(
            f"malformed answer: not JSON ({type(error).__name__}): {text[:_BOUND]}", ErrorClass.GIVE_UP
        )
    return read_reply_object(body)


def read_reply_object(body: object) -> Reply | ServerError:
    """The same for a body that is parsed already."""
    if isinstance(body, list) and len(body) == 1:
        body = body[0]
    if not isinstance(body, Mapping):
        return ServerError(f"malformed answer: the body is {_kind(body)}, not an object", ErrorClass.GIVE_UP)
    choice = _choice(body)
    if choice is None:
        return _error_in(body)
    message = _first_mapping(choice.get("message"), choice.get("delta")) or choice
    return read_message(
        message,
        finish=_first_text(choice.get("finish_reason"), choice.get("stop_reason"), choice.get("done_reason")),
        usage=read_usage(body.get("usage")),
    )


def read_message(message: Mapping[str, Any], *, finish: str, usage: Usage, is_part: bool = False) -> Reply:
    """The parts of one message; ``finish`` is the server's own word, "" for none.

    ``is_part``: of a stream. Its marks are left in the text, because a mark may be cut in two.
    """
    answers, thoughts, refused = _parts(message.get("content", message.get("text")))
    if not refused:
        refused = bool(message.get("refusal"))
    joined = "".join(answers)
    if is_part:
        hidden = [_flat(message.get(name)) for name in _THOUGHT_FIELDS]
        own = list(dict.fromkeys(filter(None, hidden)))
        return Reply(joined, "".join(thoughts) + "".join(own), "refused" if refused else finish, usage)
    written = separate_thoughts(joined)
    thoughts += [written.thoughts]
    for name in _THOUGHT_FIELDS:
        found = _flat(message.get(name))
        if found and found not in thoughts:  # some servers send the same thoughts under two names
            thoughts.append(found)
    answer = written.answer or (separate_thoughts(_arguments(message)).answer if not refused else "")
    reason = _finish(finish)
    if refused or reason == "refused":
        answer, reason = "", "refused"  # a part of an answer that a filter ended is not an answer
    return Reply(answer, "\n".join(filter(None, thoughts)), reason, usage)


def read_usage(usage: object) -> Usage:
    """Counts that are not whole numbers from 0 to ``LARGEST_COUNT`` are clamped, and counted."""
    if not isinstance(usage, Mapping):
        return Usage()
    n_repaired = 0

    def count(*places: object) -> int:
        nonlocal n_repaired
        value = next((place for place in places if place is not None), None)
        clamped = _clamped(value)
        n_repaired += value is not None and clamped != value
        return clamped

    read, written = _mapping(usage, "prompt_tokens_details"), _mapping(usage, "completion_tokens_details")
    n_input = count(usage.get("prompt_tokens"), usage.get("input_tokens"))
    n_output = count(usage.get("completion_tokens"), usage.get("output_tokens"))
    n_cached = count(read.get("cached_tokens"), usage.get("prompt_cache_hit_tokens"))
    n_thoughts = count(written.get("reasoning_tokens"), usage.get("reasoning_tokens"))
    return Usage(n_input, min(n_cached, n_input), n_output, min(n_thoughts, n_output), n_repaired)


def server_error(status: int, text: str) -> ServerError:
    """The error in a reply with another status than 200, whatever the shape of its body."""
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        body = text
    code, words = _code_and_words(body)
    words = words or "no message"
    named = _STATUS_OF_NAME.get(code.lower(), 0)
    return ServerError(words, ErrorClass.STOP if named == 402 else class_of(status), status, code)


def class_of(status: int) -> ErrorClass:
    """What a status says of the requests to come."""
    if status in _FATAL_STATUS:
        return ErrorClass.STOP
    if status in _PASSING_STATUS or status >= 500:
        return ErrorClass.WAIT
    return ErrorClass.GIVE_UP


def as_outcome(reply: Reply | ServerError) -> Completion | Gap:
    """For callers that cannot try again. A reply that holds nothing and cost nothing is a gap."""
    if isinstance(reply, ServerError):
        return Gap(reply.words)
    if reply.answer or reply.thoughts or reply.usage.output_tokens:
        return reply.as_completion()
    return Gap("refused" if reply.finish == "refused" else f"no text, finish reason {reply.finish}")


# --- errors ------------------------------------------------------------------------------------------------


def _error_in(body: Mapping[str, Any]) -> ServerError:
    """A body without an answer: the error it names, or that it has none."""
    code, words = _code_and_words(body)
    if not words and not code:
        is_empty = "choices" in body and not body["choices"]
        what = "choices is null or empty" if is_empty else "choices is missing or has no message"
        return ServerError(f"malformed answer: {what}", ErrorClass.WAIT if is_empty else ErrorClass.GIVE_UP)
    status = int(code) if re.fullmatch(r"[1-5]\d\d", code) else _STATUS_OF_NAME.get(code.lower(), 0)
    return ServerError(words or code, class_of(status), status, code)


def _code_and_words(body: object, depth: int = 0) -> tuple[str, str]:
    """The error's code ("" if it has none) and its message ("" if nothing reads like one)."""
    if isinstance(body, str):
        return "", _plain(body)
    if isinstance(body, list):
        found = [_code_and_words(part, depth + 1) for part in body[:3]] if depth < _DEEPEST else []
        return next(((code, words) for code, words in found if words), ("", ""))
    if not isinstance(body, Mapping):
        return "", ""
    code = _first_text(*(_as_code(body.get(name)) for name in ("code", "status_code", "status", "type")))
    for name in ("error", "errors", "message", "detail", "details", "msg", "error_message", "title"):
        inner_code, words = (
            _code_and_words(body[name], depth + 1) if body.get(name) and depth < _DEEPEST else ("", "")
        )
        if words or (name == "error" and inner_code):
            return inner_code or code, words
    return code if depth else "", ""


def _as_code(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, int | str):
        return ""
    return str(value)[:_BOUND]


def _plain(text: str) -> str:
    """A page's title or text without its tags; JSON in a text is read, too."""
    if text.lstrip()[:1] in ("{", "["):
        try:
            return _code_and_words(json.loads(text))[1] or text
        except (ValueError, RecursionError):
            return text
    if "<" not in text:
        return text.strip()
    title = re.search(r"<title>([^<]{1,200})</title>", text[:_BOUND], re.IGNORECASE)
    return " ".join((title.group(1) if title else re.sub(r"<[^<>]{0,2000}>", " ", text[:_BOUND])).split())


# --- shapes ------------------------------------------------------------------------------------------------


def _choice(body: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What holds the message: a choice, or the body of a server that answers in its own format."""
    choices = body.get("choices")
    if isinstance(choices, list) and choices and isinstance(choices[0], Mapping):
        choice: Mapping[str, Any] = choices[0]
        has_message = any(isinstance(choice.get(name), Mapping) for name in ("message", "delta"))
        return choice if has_message or isinstance(choice.get("text"), str) else None
    if "choices" in body or body.get("error"):
        return None
    if isinstance(body.get("message"), Mapping):  # Ollama's own API
        return body
    if isinstance(body.get("content"), list):  # Anthropic's
        return body
    output = body.get("output")
    if isinstance(output, list):  # OpenAI's Responses
        parts = [
            item if item.get("type") == "reasoning" else {"type": "text", "text": item.get("content")}
            for item in output
            if isinstance(item, Mapping)
        ]
        return {"content": parts, "finish_reason": body.get("status")}
    return None


def _parts(content: object, depth: int = 0) -> tuple[list[str], list[str], bool]:
    """Texts of the answer, texts of thoughts, and whether a part is a refusal."""
    if isinstance(content, str):
        return [content], [], False
    if isinstance(content, Mapping):
        kind = str(content.get("type", "")).lower()
        if kind in _THINKING_PARTS or content.get("thought") is True:
            return [], [_flat({key: value for key, value in content.items() if key != "type"})], False
        if kind == "refusal":
            return [], [], True
        inner = next(
            (content[name] for name in ("text", "content", "value") if content.get(name) is not None), None
        )
        return _parts(inner, depth + 1) if depth < _DEEPEST else ([], [], False)
    answers: list[str] = []
    thoughts: list[str] = []
    refused = False
    for part in content if isinstance(content, list) and depth < _DEEPEST else ():
        more, hidden, is_refusal = _parts(part, depth + 1)
        answers += more
        thoughts += hidden
        refused |= is_refusal
    return answers, thoughts, refused


def _flat(value: object, depth: int = 0) -> str:
    """All texts of a field that holds thoughts."""
    if isinstance(value, str):
        return value
    if depth >= _DEEPEST or not isinstance(value, Mapping | list):
        return ""
    names = ("thinking", "reasoning", "summary", "text", "content", "thought", "value")
    inner: Iterable[object] = (
        value if isinstance(value, list) else [value[name] for name in names if name in value]
    )
    return "\n".join(filter(None, (_flat(part, depth + 1) for part in inner)))


def _arguments(message: Mapping[str, Any]) -> str:
    """The arguments of the first call: some models answer a schema by calling a function."""
    calls = message.get("tool_calls")
    call = calls[0] if isinstance(calls, list) and calls else {"function": message.get("function_call")}
    function = call.get("function") if isinstance(call, Mapping) else None
    arguments = function.get("arguments") if isinstance(function, Mapping) else None
    if isinstance(arguments, Mapping):
        try:
            return json.dumps(arguments, ensure_ascii=False)
        except (RecursionError, ValueError):
            return ""
    return arguments if isinstance(arguments, str) else ""


def _finish(word: str) -> str:
    for pattern, reason in ((_CUT_OFF, "length"), (_REFUSED, "refused"), (_ENDED, "stop")):
        if (pattern.search if reason == "length" else pattern.fullmatch)(word):
            return reason
    return word or "unknown"


def _clamped(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
        return 0
    return int(min(max(value, 0), LARGEST_COUNT))


def _mapping(table: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = table.get(name)
    return value if isinstance(value, Mapping) else {}


def _first_mapping(*values: object) -> Mapping[str, Any] | None:
    return next((value for value in values if isinstance(value, Mapping)), None)


def _first_text(*values: object) -> str:
    return next((value for value in values if isinstance(value, str) and value), "")


def _kind(value: object) -> str:
    return "null" if value is None else f"a {type(value).__name__}"
