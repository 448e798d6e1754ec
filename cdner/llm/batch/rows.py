"""The two file formats of a Batch API: lines of requests that go up, lines of answers that come down in any order.

Knows no server and no ledger.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError

from cdner.files import canonical_json
from cdner.types import Completion, Gap

ENDPOINT = "/v1/chat/completions"
MAX_REQUESTS = 50_000  # in one batch (the API's reference, as the SDK 3.54 quotes it)
MAX_BYTES = 200_000_000  # of one input file
_WORTH_ANOTHER_TRY = frozenset({408, 409, 429})  # and 5xx: what a client would try again


@dataclass(frozen=True, slots=True)
class Failure:
    """No answer in this batch. ``again``: whether another batch may bring one."""

    reason: str
    again: bool = True


Row = Completion | Gap | Failure


class _Error(BaseModel):
    code: str | None = None
    message: str | None = None


class _Response(BaseModel):
    status_code: int
    body: Any = None


class _Row(BaseModel):
    custom_id: str
    response: _Response | None = None
    error: _Error | None = None


class _Refusal(BaseModel):
    error: _Error


def request_line(name: str, body: Mapping[str, Any]) -> bytes:
    """One line of an input file. ASCII: some server splits lines at other marks than the newline."""
    row = {"custom_id": name, "method": "POST", "url": ENDPOINT, "body": body}
    return json.dumps(row, ensure_ascii=True, separators=(",", ":")).encode() + b"\n"


def portions(
    sizes: Iterable[tuple[str, int]], *, max_requests: int, max_bytes: int = MAX_BYTES
) -> Iterator[list[str]]:
    """Names in order, as many a batch as it may hold; ``sizes`` are of their lines in bytes."""
    portion: list[str] = []
    n_bytes = 0
    for name, size in sizes:
        if portion and (len(portion) == max_requests or n_bytes + size > max_bytes):
            yield portion
            portion, n_bytes = [], 0
        portion.append(name)
        n_bytes += size
    if portion:
        yield portion


def read_rows(
    files: Iterable[bytes], *, read_body: Callable[[str], Completion | Gap], redact: Callable[[str], str]
) -> dict[str, Row]:
    """Custom id -> what came of it. Unreadable lines are left out: their requests are as good as missing.

    The first answer to a request counts, and an answer counts more than an error.
    """
    found: dict[str, Row] = {}
    for file in files:
        for line in file.split(b"\n"):  # not splitlines: a raw U+2028 is no end of line
            row = _parsed(line)
            if row is None:
                continue
            outcome = _outcome(row, read_body=read_body, redact=redact)
            if row.custom_id not in found or (
                isinstance(found[row.custom_id], Failure) and not isinstance(outcome, Failure)
            ):
                found[row.custom_id] = outcome
    return found


def _parsed(line: bytes) -> _Row | None:
    try:
        return _Row.model_validate(json.loads(line))
    except (ValueError, RecursionError):  # a ValidationError is a ValueError
        return None


def _outcome(row: _Row, *, read_body: Callable[[str], Completion | Gap], redact: Callable[[str], str]) -> Row:
    if row.response is None or row.error is not None:
        error = row.error or _Error(message="a row without response")
        return Failure(redact(f"batch: {error.code or 'error'}: {error.message or 'no message'}"))
    status = row.response.status_code
    if status == 200:
        return read_body(json.dumps(row.response.body))
    again = status in _WORTH_ANOTHER_TRY or status >= 500
    return Failure(redact(f"Error code: {status} - {_message(row.response.body)}"), again=again)


def _message(body: Any) -> str:
    try:
        return _Refusal.model_validate(body).error.message or "no message"
    except ValidationError:
        return canonical_json(body)
