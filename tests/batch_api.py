"""A Batch API on this machine: /files, /files/ID/content, /batches, /batches/ID, /batches/ID/cancel, over real HTTP.

A test decides what becomes of each request and each batch, and may hold the server at a gate: the client then waits
for an answer that does not come, and can be killed there.
"""

from __future__ import annotations

import email
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

KEY = "sk-verysecretkey0123456789"
LIFE = ("validating", "in_progress", "finalizing")  # then its fate; "cancelling" is outside
ANSWERED_FATES = ("completed", "expired", "cancelled")

Row = dict[str, Any] | str | None  # None: no row; text: a line as it is


@dataclass
class Gate:
    """Held: whoever comes waits until it is opened. ``reached`` tells that somebody has come."""

    is_open: threading.Event = field(default_factory=threading.Event)
    reached: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.is_open.set()

    def hold(self) -> None:
        self.reached.clear()
        self.is_open.clear()

    def open(self) -> None:
        self.is_open.set()

    def pass_through(self) -> None:
        self.reached.set()
        self.is_open.wait(60)


@dataclass
class BatchApi:
    """What the test decides, and what the server saw."""

    url: str = ""
    row: Callable[[int, str, dict[str, Any]], Row] = lambda n, name, body: said(name, body)
    fate: Callable[[int], str] = lambda n: "completed"  # of the n-th batch, from 1
    problem: Callable[[int], dict[str, Any] | None] = lambda n: None  # of a failed one
    refuse: Callable[[str, str], tuple[int, str] | None] = lambda method, path: None  # (status, body) instead
    life: tuple[str, ...] = LIFE[:1]  # of each batch before its fate
    lost_creations: list[tuple[int, str]] = field(default_factory=list)  # made, but this is the answer
    uploaded: Gate = field(default_factory=Gate)  # the file is stored, the client not told
    created: Gate = field(default_factory=Gate)  # the batch is made, the client not told
    looked: Gate = field(default_factory=Gate)
    fetched: Gate = field(default_factory=Gate)  # half of a file is sent
    files: dict[str, bytes] = field(default_factory=dict)
    batches: list[dict[str, Any]] = field(default_factory=list)
    paid: list[str] = field(default_factory=list)  # a custom id for each answer there was
    calls: list[str] = field(default_factory=list)
    authorizations: set[str | None] = field(default_factory=set)
    lock: threading.RLock = field(default_factory=threading.RLock)

    def lines_of(self, n: int) -> list[dict[str, Any]]:
        """The requests of the n-th batch, from 1."""
        return _lines(self.files[self.batches[n - 1]["input_file_id"]])

    def create(self, asked: dict[str, Any]) -> dict[str, Any]:
        assert asked["completion_window"] == "24h" and asked["endpoint"] == "/v1/chat/completions"
        with self.lock:
            n = len(self.batches) + 1
            batch = {
                "id": f"batch_{n}",
                "object": "batch",
                "status": "validating",
                "created_at": int(time.time()),
                "metadata": asked.get("metadata"),
                "input_file_id": asked["input_file_id"],
                "endpoint": asked["endpoint"],
                "completion_window": "24h",
                "request_counts": {"total": 0, "completed": 0, "failed": 0},
                "looks": 0,
            }
            self.batches.append(batch)
        return batch

    def look(self, batch: dict[str, Any]) -> dict[str, Any]:
        """One step of its life."""
        with self.lock:
            n = self.batches.index(batch) + 1
            if batch["status"] == "cancelling":
                self._end(batch, n, "cancelled")
            elif batch["status"] in LIFE:
                batch["looks"] += 1
                if batch["looks"] < len(self.life):
                    batch["status"] = self.life[batch["looks"]]
                else:
                    self._end(batch, n, self.fate(n))
        return batch

    def cancel(self, batch: dict[str, Any]) -> dict[str, Any]:
        with self.lock:
            if batch["status"] in LIFE:
                batch["status"] = "cancelling"
        return batch

    def _end(self, batch: dict[str, Any], n: int, fate: str) -> None:
        batch["status"] = fate
        batch[f"{fate}_at"] = batch["created_at"] + 90
        if fate == "failed":
            batch["errors"] = {"object": "list", "data": [self.problem(n)]}
        if fate not in ANSWERED_FATES:
            return
        output: list[str] = []
        errors: list[str] = []
        for line in self.lines_of(n):
            row = self.row(n, line["custom_id"], line["body"])
            for one in row if isinstance(row, list) else [row]:
                text = one if isinstance(one, str) else json.dumps(one, ensure_ascii=False)
                if isinstance(one, dict) and (one["error"] or one["response"]["status_code"] != 200):
                    errors.append(text)
                elif one is not None:
                    output.append(text)
                    self.paid.append(line["custom_id"])
        for kind, lines in (("output", output), ("error", errors)):
            if lines:
                name = f"file-{kind}-{n}"
                self.files[name] = "".join(f"{line}\n" for line in reversed(lines)).encode()
                batch[f"{kind}_file_id"] = name


def said(name: str, body: dict[str, Any], text: str = "", **usage: Any) -> dict[str, Any]:
    """An answered row."""
    asked = body["messages"][-1]["content"]
    if not text and "response_format" in body:
        keys = body["response_format"]["json_schema"]["schema"]["properties"]
        text = json.dumps({key: f"The {key} of a text of {len(asked)} letters." for key in keys})
    choice = {
        "message": {"role": "assistant", "content": text or f"answer to {asked}"},
        "finish_reason": "stop",
    }
    counts = {"prompt_tokens": 1000, "completion_tokens": 100} | usage
    return {
        "id": f"batch_req_{name}",
        "custom_id": name,
        "response": {"status_code": 200, "request_id": "1", "body": {"choices": [choice], "usage": counts}},
        "error": None,
    }


def refused(name: str, status: int, message: str) -> dict[str, Any]:
    """A row of the error file."""
    body = {"error": {"message": message, "type": "x", "code": None}}
    return {"custom_id": name, "response": {"status_code": status, "body": body}, "error": None}


def expired(name: str) -> dict[str, Any]:
    error = {"code": "batch_expired", "message": "This request could not be executed in time."}
    return {"custom_id": name, "response": None, "error": error}


@contextmanager
def serving(api: BatchApi) -> Iterator[BatchApi]:
    """The API at ``api.url`` until the end of the block."""
    handler = type("Handler", (_Handler,), {"api": api})
    http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    api.url = f"http://127.0.0.1:{http.server_port}/v1"
    try:
        yield api
    finally:
        for gate in (api.uploaded, api.created, api.looked, api.fetched):
            gate.open()
        http.shutdown()
        http.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    api: BatchApi

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = self._begin()
        if path is None:
            return
        if path == ["files"]:
            self._upload(content)
        elif path == ["batches"]:
            batch = self.api.create(json.loads(content))
            self.api.created.pass_through()
            status, body = self.api.lost_creations.pop() if self.api.lost_creations else (200, batch)
            self._send(status, body)
        elif len(path) == 3 and path[2] == "cancel" and (batch := self._batch(path[1])):
            self._send(200, self.api.cancel(batch))
        else:
            self._unknown()

    def do_GET(self) -> None:
        path = self._begin()
        if path is None:
            return
        if path == ["batches"]:
            self._list()
        elif path[0] == "batches" and (batch := self._batch(path[1])):
            self.api.looked.pass_through()
            self._send(200, self.api.look(batch))
        elif path[0] == "files" and path[1] in self.api.files:
            self._content(self.api.files[path[1]])
        else:
            self._unknown()

    def _begin(self) -> list[str] | None:
        path = urlsplit(self.path).path.removeprefix("/v1/")
        with self.api.lock:
            self.api.calls.append(f"{self.command} {path}")
            self.api.authorizations.add(self.headers.get("Authorization"))
            refusal = self.api.refuse(self.command, path)
        if refusal:
            self._send(refusal[0], refusal[1])
            return None
        return path.split("/")

    def _batch(self, batch_id: str) -> dict[str, Any] | None:
        return next((batch for batch in self.api.batches if batch["id"] == batch_id), None)

    def _upload(self, content: bytes) -> None:
        head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
        parts = {
            part.get_param("name", header="content-disposition"): part.get_payload(decode=True)
            for part in email.message_from_bytes(head + content).get_payload()  # type: ignore[union-attr]
        }
        assert parts["purpose"] == b"batch"
        with self.api.lock:
            name = f"file-{len(self.api.files) + 1}"
            self.api.files[name] = parts["file"]  # type: ignore[assignment]
        self.api.uploaded.pass_through()
        self._send(200, {"id": name, "object": "file", "bytes": len(parts["file"]), "purpose": "batch"})  # type: ignore[arg-type]

    def _list(self) -> None:
        """The latest first, as OpenAI does."""
        query = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
        listed = list(reversed(self.api.batches))
        if after := query.get("after"):
            ids = [batch["id"] for batch in listed]
            listed = listed[ids.index(after) + 1 :]
        page = listed[: int(query.get("limit", "20"))]
        self._send(200, {"object": "list", "data": page, "has_more": len(page) < len(listed)})

    def _content(self, content: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        half = len(content) // 2
        try:
            self.wfile.write(content[:half])
            self.wfile.flush()
            self.api.fetched.pass_through()
            self.wfile.write(content[half:])
        except OSError:
            self.close_connection = True  # the client was killed: that is what a test is about

    def _unknown(self) -> None:
        self._send(404, {"error": {"message": f"No such thing: {self.path}", "code": None}})

    def _send(self, status: int, body: Any) -> None:
        payload = (body if isinstance(body, str) else json.dumps(body)).encode()
        try:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)
        except OSError:
            self.close_connection = True

    def log_message(self, *arguments: Any) -> None:
        """Quiet."""


def _lines(content: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in content.splitlines()]


def hasten() -> None:
    """Look at the server every few hundredths of a second; for the child process of a test."""
    from cdner.llm.batch import backend, server

    backend.FIRST_PAUSE, backend.LONGEST_PAUSE = 0.02, 0.05
    server.PAUSE = 0.02
