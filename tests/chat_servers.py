"""A real HTTP server on this machine that speaks /chat/completions, for the tests of everything that asks one."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from cdner.types import Message, ReasoningRequest, Sampling


@dataclass
class Reply:
    status: int = 200
    body: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    cut: int = -1  # bytes of the body after which the connection ends; -1: none
    reset: bool = False  # ended by a reset instead of an orderly end


@dataclass
class ChatServer:
    """What the test decides (``reply``: text of the last message and how often it was sent) and what was seen."""

    url: str = ""
    reply: Callable[[str, int], Reply] = lambda text, attempt: said(text)
    seen: list[dict[str, Any]] = field(default_factory=list)
    authorizations: list[str | None] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    n_together: int = 0
    most_together: int = 0
    together: list[int] = field(default_factory=list)  # on their way when each one arrived, itself counted
    lock: threading.Lock = field(default_factory=threading.Lock)
    connections: list[socket.socket] = field(default_factory=list)
    stop: Callable[[], None] = lambda: None

    def attempt(self, text: str) -> int:
        return sum(asked(body) == text for body in self.seen)


def asked(body: dict[str, Any]) -> str:
    content: str = body["messages"][-1]["content"]
    return content


def said(text: str, **usage: Any) -> Reply:
    message = {"role": "assistant", "content": f"answer to {text}"}
    body = {
        "id": "1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 11, "completion_tokens": 3, "total_tokens": 14} | usage,
    }
    return Reply(body=json.dumps(body))


def streamed(*pieces: str, finish_reason: str | None = "stop", done: bool = True) -> Reply:
    """Server-sent events: a chunk a piece, the finish reason, the usage, the end mark."""
    deltas: list[tuple[dict[str, str], str | None]] = [({"content": piece}, None) for piece in pieces]
    chunks: list[dict[str, Any]] = [
        {"choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}
        for delta, reason in [({"role": "assistant"}, None), *deltas, ({}, finish_reason)]
    ]
    details = {"prompt_tokens": 11, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 7}}
    chunks.append({"choices": [], "usage": details})
    shared = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    events = [f"data: {json.dumps(shared | chunk)}\n\n" for chunk in chunks]
    return Reply(
        body="".join(events) + ("data: [DONE]\n\n" if done else ""),
        headers={"Content-Type": "text/event-stream"},
    )


def failed(status: int, message: str, *, code: str = "", **headers: str) -> Reply:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status, json.dumps({"error": {"message": message, "code": code, "type": "x"}}), named)


def after(seconds: float, reply: Reply) -> Reply:
    reply.delay = seconds
    return reply


def ask(text: str, *, schema: str | None = None, stop: tuple[str, ...] = ()) -> ReasoningRequest:
    messages = (Message("system", "fixed"), Message("user", text))
    return ReasoningRequest(messages, Sampling(max_tokens=9, temperature=0.0, seed=4, stop=stop), schema)


def asks(n: int) -> list[ReasoningRequest]:
    return [ask(f"text {number}") for number in range(n)]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: ChatServer

    def setup(self) -> None:
        super().setup()
        self.state.connections.append(self.connection)

    def do_POST(self) -> None:
        state = self.state
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with state.lock:
            state.seen.append(body)
            state.authorizations.append(self.headers.get("Authorization"))
            state.times.append(time.monotonic())
            state.n_together += 1
            state.most_together = max(state.most_together, state.n_together)
            state.together.append(state.n_together)
            attempt = state.attempt(asked(body))
        reply = state.reply(asked(body), attempt)
        time.sleep(reply.delay)
        with state.lock:
            state.n_together -= 1
        with contextlib.suppress(
            BrokenPipeError, ConnectionResetError
        ):  # a client that gave up is a test's point
            self._answer(reply)

    def _answer(self, reply: Reply) -> None:
        payload = reply.body.encode("utf-8", "surrogatepass")
        self.send_response(reply.status)
        for name, value in ({"Content-Type": "application/json"} | reply.headers).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload[: reply.cut] if reply.cut >= 0 else payload)
        self.wfile.flush()
        if reply.reset:  # closing with a linger time of 0 sends a reset instead of an orderly end
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if reply.cut >= 0:
            self.close_connection = True

    def log_message(self, *arguments: Any) -> None:
        """Quiet."""


@contextlib.contextmanager
def serving(port: int = 0) -> Iterator[ChatServer]:
    """A server of its own; ``stop`` ends it early: open connections break, and its port takes no new one."""
    state = ChatServer()
    handler = type("Handler", (_Handler,), {"state": state})
    http = ThreadingHTTPServer(("127.0.0.1", port), handler)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    stopped = threading.Event()

    def stop() -> None:
        if not stopped.is_set():
            stopped.set()
            http.shutdown()
            http.server_close()
            thread.join()
            for connection in state.connections:
                with contextlib.suppress(OSError):  # most have ended already
                    connection.shutdown(socket.SHUT_RDWR)

    state.url, state.stop = f"http://127.0.0.1:{http.server_port}/v1", stop
    try:
        yield state
    finally:
        stop()
