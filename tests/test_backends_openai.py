"""The openai backend against a real HTTP server on this machine that speaks /chat/completions."""

from __future__ import annotations

import json
import logging
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from cdner.backends import open_backend
from cdner.backends.openai import HOPELESS_AFTER, OpenAIBackend
from cdner.backends.openai import open_backend as open_openai
from cdner.config import Execution, Llm
from cdner.errors import BackendError
from cdner.types import Completion, Gap, Message, ReasoningRequest, Sampling

KEY = "sk-verysecretkey0123456789"


@dataclass
class Reply:
    status: int = 200
    body: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0


@dataclass
class Server:
    """What the test decides (``reply``) and what the server saw."""

    url: str = ""
    reply: Callable[[str, int], Reply] = lambda text, attempt: said(text)
    seen: list[dict[str, Any]] = field(default_factory=list)
    authorizations: list[str | None] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    n_together: int = 0
    most_together: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def attempt(self, text: str) -> int:
        return sum(body["messages"][-1]["content"] == text for body in self.seen)


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


def failed(status: int, message: str, *, code: str = "", **headers: str) -> Reply:
    return Reply(status, json.dumps({"error": {"message": message, "code": code, "type": "x"}}), headers)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            text = body["messages"][-1]["content"]
            with state.lock:
                state.seen.append(body)
                state.authorizations.append(self.headers.get("Authorization"))
                state.times.append(time.monotonic())
                state.n_together += 1
                state.most_together = max(state.most_together, state.n_together)
                reply = state.reply(text, state.attempt(text))
            time.sleep(reply.delay)
            with state.lock:
                state.n_together -= 1
            payload = reply.body.encode()
            try:
                self.send_response(reply.status)
                for name, value in ({"Content-Type": "application/json"} | reply.headers).items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(payload)))
                self.end_headers()
                self.wfile.write(payload)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True  # the client gave up waiting: that is what a test is about

        def log_message(self, *arguments: Any) -> None:
            """Quiet."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{http.server_port}/v1"
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    yield state
    http.shutdown()
    http.server_close()
    thread.join()


def backend_for(
    server: Server, *, max_retries: int = 2, concurrency: int = 4, timeout: float = 10.0
) -> OpenAIBackend:
    execution = Execution(base_urls=(server.url,), concurrency=concurrency, timeout_seconds=timeout)
    return open_openai(Llm(model="m"), execution, max_retries=max_retries)


def ask(text: str, *, schema: str | None = None, stop: tuple[str, ...] = ()) -> ReasoningRequest:
    messages = (Message("system", "fixed"), Message("user", text))
    return ReasoningRequest(messages, Sampling(max_tokens=9, temperature=0.0, seed=4, stop=stop), schema)


def test_each_request_gets_its_own_answer_and_counts(server: Server) -> None:
    server.reply = lambda text, attempt: said(text, prompt_tokens_details={"cached_tokens": 7})
    texts = [f"text {number}" for number in range(20)]
    outcomes = dict(backend_for(server).complete([ask(text) for text in texts]))
    assert outcomes == {
        index: Completion(f"answer to {text}", "stop", input_tokens=11, cached_tokens=7, output_tokens=3)
        for index, text in enumerate(texts)
    }
    assert 1 < server.most_together <= 4


def test_request_is_sent_as_it_was_asked(server: Server) -> None:
    schema = '{"type":"object","properties":{"z":{"type":"string"},"a":{"type":"string"}}}'
    list(backend_for(server).complete([ask("one", schema=schema, stop=("<text>",))]))
    (body,) = server.seen
    assert body["messages"] == [{"role": "system", "content": "fixed"}, {"role": "user", "content": "one"}]
    assert (body["model"], body["max_tokens"], body["temperature"], body["seed"]) == ("m", 9, 0.0, 4)
    assert body["stop"] == ["<text>"]
    asked = body["response_format"]["json_schema"]
    assert asked["strict"] is True and list(asked["schema"]["properties"]) == ["z", "a"]
    list(backend_for(server).complete([ask("two")]))
    assert "response_format" not in server.seen[1] and "stop" not in server.seen[1]


def test_answers_arrive_as_they_finish(server: Server) -> None:
    def reply(text: str, attempt: int) -> Reply:
        answer = said(text)
        answer.delay = 1.0 if text == "slow" else 0.0
        return answer

    server.reply = reply
    answers = backend_for(server).complete([ask("slow"), ask("quick")])
    begun = time.monotonic()
    assert next(answers)[0] == 1
    assert time.monotonic() - begun < 0.8
    assert [index for index, _ in answers] == [0]


def test_busy_server_is_asked_again_after_the_time_it_names(server: Server) -> None:
    server.reply = lambda text, attempt: (
        failed(429, "busy", **{"Retry-After": "1.2"}) if attempt == 1 else said(text)
    )
    ((_, outcome),) = backend_for(server).complete([ask("one")])
    assert isinstance(outcome, Completion)
    assert len(server.times) == 2
    assert server.times[1] - server.times[0] >= 1.2


def test_server_error_is_tried_again(server: Server) -> None:
    server.reply = lambda text, attempt: failed(500, "oops") if attempt == 1 else said(text)
    ((_, outcome),) = backend_for(server).complete([ask("one")])
    assert isinstance(outcome, Completion) and len(server.seen) == 2


def test_request_that_keeps_failing_is_a_gap_and_the_others_go_on(server: Server) -> None:
    server.reply = lambda text, attempt: failed(500, "oops") if text == "bad" else said(text)
    outcomes = dict(backend_for(server, max_retries=1).complete([ask("good"), ask("bad"), ask("fine")]))
    assert outcomes[1] == Gap("Error code: 500 - oops")
    assert isinstance(outcomes[0], Completion) and isinstance(outcomes[2], Completion)
    assert server.attempt("bad") == 2


def test_request_the_server_refuses_is_a_gap_without_retries(server: Server) -> None:
    server.reply = lambda text, attempt: failed(400, "context too long") if text == "bad" else said(text)
    outcomes = dict(backend_for(server).complete([ask("good"), ask("bad")]))
    assert outcomes[1] == Gap("Error code: 400 - context too long")
    assert server.attempt("bad") == 1


def test_timeout_is_a_gap(server: Server) -> None:
    def reply(text: str, attempt: int) -> Reply:
        answer = said(text)
        answer.delay = 1.5 if text == "slow" else 0.0
        return answer

    server.reply = reply
    outcomes = dict(backend_for(server, max_retries=0, timeout=0.4).complete([ask("slow"), ask("quick")]))
    assert outcomes[0] == Gap("timeout")
    assert isinstance(outcomes[1], Completion)


MALFORMED = {
    "no json": "<html>busy</html>",
    "cut off": '{"choices": [{"mess',
    "no choices": "{}",
    "empty choices": '{"choices": []}',
    "error with status 200": '{"error": {"message": "no"}}',
    "content is a list": '{"choices": [{"message": {"content": [1]}}]}',
    "nothing": "",
    "deep": "[" * 50_000,
}


@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED.keys())
@pytest.mark.parametrize("content_type", ["application/json", "text/html"])
def test_malformed_body_is_a_gap(server: Server, body: str, content_type: str) -> None:
    server.reply = lambda text, attempt: Reply(200, body, {"Content-Type": content_type})
    ((_, outcome),) = backend_for(server, max_retries=0).complete([ask("one")])
    assert isinstance(outcome, Gap) and outcome.reason.startswith("malformed answer: ")


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ({"content": None, "refusal": "I would rather not."}, "refused"),
        ({"content": None}, "no text, finish reason content_filter"),
    ],
)
def test_answer_without_text_is_a_gap(server: Server, message: dict[str, Any], reason: str) -> None:
    body = json.dumps({"choices": [{"message": message, "finish_reason": "content_filter"}]})
    server.reply = lambda text, attempt: Reply(200, body)
    ((_, outcome),) = backend_for(server).complete([ask("one")])
    assert outcome == Gap(reason)


def test_answer_cut_at_the_limit_is_a_completion_that_says_so(server: Server) -> None:
    body = '{"choices": [{"message": {"content": "begin"}, "finish_reason": "length"}], "usage": null}'
    server.reply = lambda text, attempt: Reply(200, body)
    ((_, outcome),) = backend_for(server).complete([ask("one")])
    assert outcome == Completion("begin", "length", input_tokens=0, cached_tokens=0, output_tokens=0)


@pytest.mark.parametrize("status", [401, 402, 403, 404])
def test_error_that_meets_every_request_stops_at_once(server: Server, status: int) -> None:
    server.reply = lambda text, attempt: failed(status, "you shall not pass")
    with pytest.raises(BackendError, match="you shall not pass"):
        list(backend_for(server, concurrency=2).complete([ask(f"text {number}") for number in range(50)]))
    assert len(server.seen) < 10


def test_empty_account_stops_at_once_without_retries(server: Server) -> None:
    server.reply = lambda text, attempt: failed(
        429, "You exceeded your current quota", code="insufficient_quota"
    )
    with pytest.raises(BackendError, match="quota"):
        list(backend_for(server, concurrency=1).complete([ask("one"), ask("two")]))
    assert server.attempt("one") == 1


def test_answers_on_their_way_are_handed_over_before_stopping(server: Server) -> None:
    def reply(text: str, attempt: int) -> Reply:
        if text == "fatal":
            return failed(401, "revoked")
        answer = said(text)
        answer.delay = 0.6
        return answer

    server.reply = reply
    requests = [ask("paid 1"), ask("paid 2"), ask("fatal"), *[ask(f"later {number}") for number in range(20)]]
    received: list[int] = []
    with pytest.raises(BackendError, match="revoked"):
        for index, outcome in backend_for(server, concurrency=3).complete(requests):
            assert isinstance(outcome, Completion)
            received.append(index)
    assert {0, 1} <= set(received) and len(received) < 6


def test_hopeless_series_of_failures_stops(server: Server) -> None:
    server.reply = lambda text, attempt: failed(400, "unknown parameter")
    received = []
    with pytest.raises(BackendError, match=r"No request succeeded.*unknown parameter"):
        for index, _ in backend_for(server, concurrency=2).complete(
            [ask(str(number)) for number in range(99)]
        ):
            received.append(index)
    assert HOPELESS_AFTER <= len(received) < HOPELESS_AFTER + 4


def test_absent_server_stops_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    execution = Execution(base_urls=("http://user:pw12345@127.0.0.1:9/v1",), concurrency=1)
    backend = open_openai(Llm(model="m"), execution, max_retries=0)
    with pytest.raises(BackendError, match=r"cannot reach the server.*refused") as caught:
        list(backend.complete([ask("one"), ask("two")]))
    assert "pw12345" not in str(caught.value)


def test_caller_may_stop_listening(server: Server) -> None:
    answers = backend_for(server, concurrency=1).complete([ask(str(number)) for number in range(50)])
    next(answers)
    answers.close()  # type: ignore[attr-defined]
    time.sleep(0.3)
    assert len(server.seen) < 10


def test_no_requests_need_no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = open_openai(Llm(model="m"), Execution(base_urls=("http://127.0.0.1:9/v1",)))
    assert list(backend.complete([])) == []


# --- the key -----------------------------------------------------------------------------------------------


def test_key_goes_to_the_server_and_nowhere_else(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    echo = f"Incorrect API key provided: {KEY} (or sk-very*********6789)"
    server.reply = lambda text, attempt: failed(400, echo) if text == "gap" else failed(401, echo)
    backend = backend_for(server, concurrency=1)
    texts = []
    try:
        for _, outcome in backend.complete([ask("gap"), ask("fatal")]):
            assert isinstance(outcome, Gap)
            texts.append(outcome.reason)
    except BackendError:
        texts.append(traceback.format_exc())
    assert set(server.authorizations) == {f"Bearer {KEY}"}
    assert len(texts) == 2
    for text in [*texts, caplog.text, repr(backend), str(vars(backend))]:
        assert KEY not in text and "6789" not in text
    assert "[key]" in texts[0] and "[key]" in texts[1]
    assert KEY not in json.dumps(server.seen)


def test_own_server_needs_no_key(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    ((_, outcome),) = backend_for(server).complete([ask("one")])
    assert isinstance(outcome, Completion)
    assert server.authorizations == ["Bearer no-key"]


@pytest.mark.parametrize("key", [None, "", "  "])
def test_openai_itself_needs_a_key(monkeypatch: pytest.MonkeyPatch, key: str | None) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    if key is not None:
        monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(BackendError, match="OPENAI_API_KEY"):
        open_openai(Llm(model="m"), Execution())


@pytest.mark.parametrize("key", ["sk-two words", "sk-line\nbreak", "sk-ünïcode"])
def test_unusable_key_is_refused_without_being_shown(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(BackendError) as caught:
        open_openai(Llm(model="m"), Execution())
    assert key not in str(caught.value) and "sk-" not in str(caught.value)


def test_newline_behind_the_key_is_forgiven(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY + "\n")
    list(backend_for(server).complete([ask("one")]))
    assert server.authorizations == [f"Bearer {KEY}"]


@pytest.mark.parametrize("url", ["localhost:8000/v1", "ftp://host/v1", "http://", "/v1"])
def test_base_url_must_be_one(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with pytest.raises(BackendError, match="base URL"):
        open_openai(Llm(model="m"), Execution(base_urls=(url,)))


def test_registry_opens_it(server: Server) -> None:
    backend = open_backend(Llm(backend="openai", model="m"), Execution(base_urls=(server.url,)))
    assert (backend.family, backend.model) == ("openai", "m")
