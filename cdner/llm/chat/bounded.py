"""An HTTP transport that bounds what a server may send: bytes after decompression, and seconds until the last byte.

The official SDK reads a whole answer into memory before anybody can look at it, and a timeout of the HTTP library
starts again with every byte. Redirects are not followed: a prompt goes to the address that the user gave.
"""

from __future__ import annotations

import threading
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import httpx2

from cdner.errors import CdnerError

LEAST_BYTES = 2**20  # for headers, log-probabilities of one token, an error page
BYTES_PER_TOKEN = 4096  # of max_tokens: a streamed token comes in an object of its own


class TooLargeError(httpx2.TransportError, CdnerError):
    """The answer has more bytes than the tokens that were asked for can take."""


def byte_limit(max_tokens: int) -> int:
    """Most bytes of an answer of so many tokens."""
    return LEAST_BYTES + BYTES_PER_TOKEN * max_tokens


@dataclass(slots=True)
class Bounds(threading.local):
    """What holds for the request that this thread sends."""

    most_bytes: int = LEAST_BYTES
    deadline: float = field(default=float("inf"))  # of time.monotonic()


class BoundedTransport(httpx2.BaseTransport):
    def __init__(self, inner: httpx2.BaseTransport, bounds: Bounds) -> None:
        self._inner = inner
        self._bounds = bounds

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        response = self._inner.handle_request(request)
        encoding = response.headers.get("content-encoding", "identity").strip().lower()
        if encoding not in {"identity", "", "gzip", "x-gzip", "deflate"}:
            response.close()
            raise httpx2.TransportError(
                f"the answer is encoded as {encoding[:20]!r}, which was not asked for"
            )
        stream = response.stream
        if not isinstance(stream, httpx2.SyncByteStream):
            return response
        packed = encoding not in {"identity", ""}
        kept = [
            (k, v)
            for k, v in response.headers.raw
            if not (packed and k.lower() in (b"content-encoding", b"content-length"))
        ]
        return httpx2.Response(
            response.status_code,
            headers=kept,
            stream=_Bounded(stream, self._bounds.most_bytes, self._bounds.deadline, packed=packed),
            extensions=response.extensions,
        )

    def close(self) -> None:
        self._inner.close()


class _Bounded(httpx2.SyncByteStream):
    def __init__(self, stream: httpx2.SyncByteStream, most: int, deadline: float, *, packed: bool) -> None:
        self._stream = stream
        self._most = most
        self._deadline = deadline
        self._unpacker = zlib.decompressobj(wbits=47) if packed else None  # 47: gzip or zlib, by its header

    def __iter__(self) -> Iterator[bytes]:
        left = self._most
        for chunk in self._stream:
            if time.monotonic() > self._deadline:
                raise httpx2.ReadTimeout("the answer did not end in time")
            part = self._unpacked(chunk, left + 1)
            left -= len(part)
            if left < 0:
                raise TooLargeError(f"the answer has more than {self._most} bytes, too many for max_tokens")
            yield part

    def close(self) -> None:
        self._stream.close()

    def _unpacked(self, chunk: bytes, most: int) -> bytes:
        if self._unpacker is None:
            return chunk
        try:
            return self._unpacker.decompress(chunk, most)
        except zlib.error as error:
            raise httpx2.TransportError(f"the answer cannot be decompressed: {error}") from error
