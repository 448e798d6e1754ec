"""The openai backend against a real HTTP server on this machine that speaks /chat/completions."""

from __future__ import annotations

import json
import logging
import time
import traceback
from collections.abc import Iterator
from typing import Any

import pytest
from chat_servers import ChatServer, Reply, after, ask, failed, said, serving

from cdner.config import Execution, Llm
from cdner.errors import BackendError
from cdner.llm import open_backend
from cdner.llm.chat import Budget, Clock
from cdner.llm.chat.call import HOPELESS_AFTER
from cdner.llm.openai import OpenAIBackend
from cdner.llm.openai import open_backend as open_openai
from cdner.types import Completion, Gap

KEY = "sk-verysecretkey0123456789"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ChatServer]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.delenv("CDNER_PRICES", raising=False)
    with serving() as state:
        yield state


def backend_for(
    server: ChatServer, *, n_retries: int = 2, concurrency: int = 4, timeout: float = 10.0, speed: float = 1.0
) -> OpenAIBackend:
    execution = Execution(base_urls=(server.url,), concurrency=concurrency, timeout_seconds=timeout)
    return open_openai(
        Llm(model="m"), execution, Budget.of(execution), n_retries=n_retries, clock=Clock(speed)
    )


def test_each_request_gets_its_own_answer_and_counts(server: ChatServer) -> None:
    server.reply = lambda text, attempt: after(0.05, said(text, prompt_tokens_details={"cached_tokens": 7}))
    texts = [f"text {number}" for number in range(20)]
    outcomes = dict(backend_for(server).complete([ask(text) for text in texts]))
    assert outcomes == {
        index: Completion(f"answer to {text}", "stop", input_tokens=11, cached_tokens=7, output_tokens=3)
        for index, text in enumerate(texts)
    }
    assert 1 < server.most_together <= 4


def test_request_is_sent_as_it_was_asked(server: ChatServer) -> None:
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


def test_answers_arrive_as_they_finish(server: ChatServer) -> None:
    server.reply = lambda text, attempt: after(1.0 if text == "slow" else 0.0, said(text))
    answers = backend_for(server).complete([ask("first"), ask("slow"), ask("quick")])
    begun = time.monotonic()
    assert [next(answers)[0], next(answers)[0]] == [0, 2]
    assert time.monotonic() - begun < 0.8
    assert [index for index, _ in answers] == [1]


def test_request_the_server_refuses_is_a_gap_without_retries(server: ChatServer) -> None:
    server.reply = lambda text, attempt: failed(400, "context too long") if text == "bad" else said(text)
    outcomes = dict(backend_for(server).complete([ask("good"), ask("bad")]))
    assert outcomes[1] == Gap("Error code: 400 - context too long")
    assert server.attempt("bad") == 1


MALFORMED = {
    "no json": "<html>busy</html>",
    "cut off": '{"choices": [{"mess',
    "no choices": "{}",
    "empty choices": '{"choices": []}',
    "nothing": "",
    "deep": "[" * 50_000,
}


@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED.keys())
@pytest.mark.parametrize("content_type", ["application/json", "text/html"])
def test_malformed_body_is_a_gap(server: ChatServer, body: str, content_type: str) -> None:
    server.reply = lambda text, attempt: Reply(200, body, {"Content-Type": content_type})
    ((_, outcome),) = backend_for(server, n_retries=0).complete([ask("one")])
    assert isinstance(outcome, Gap) and outcome.reason.startswith("malformed answer: ")


def test_text_that_no_server_takes_is_a_gap(server: ChatServer) -> None:
    outcomes = dict(backend_for(server).complete([ask("one"), ask("half \ud800"), ask("two")]))
    assert isinstance(outcomes[0], Completion) and isinstance(outcomes[2], Completion)
    assert outcomes[1] == Gap("the request holds half characters (lone surrogates), which no server takes")


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ({"content": None, "refusal": "I would rather not."}, "refused"),
        ({"content": None}, "refused"),
    ],
)
def test_answer_without_text_is_a_gap(server: ChatServer, message: dict[str, Any], reason: str) -> None:
    body = json.dumps({"choices": [{"message": message, "finish_reason": "content_filter"}]})
    server.reply = lambda text, attempt: Reply(200, body)
    ((_, outcome),) = backend_for(server).complete([ask("one")])
    assert outcome == Gap(reason)


def test_answer_cut_at_the_limit_is_a_completion_that_says_so(server: ChatServer) -> None:
    body = '{"choices": [{"message": {"content": "begin"}, "finish_reason": "length"}], "usage": null}'
    server.reply = lambda text, attempt: Reply(200, body)
    ((_, outcome),) = backend_for(server).complete([ask("one")])
    assert outcome == Completion("begin", "length", input_tokens=0, cached_tokens=0, output_tokens=0)


@pytest.mark.parametrize("status", [401, 402, 403, 404])
def test_error_that_meets_every_request_stops_at_once(server: ChatServer, status: int) -> None:
    server.reply = lambda text, attempt: failed(status, "you shall not pass")
    with pytest.raises(BackendError, match="you shall not pass"):
        list(backend_for(server, concurrency=2).complete([ask(f"text {number}") for number in range(50)]))
    assert len(server.seen) < 10


def test_empty_account_stops_at_once_without_retries(server: ChatServer) -> None:
    server.reply = lambda text, attempt: failed(
        429, "You exceeded your current quota", code="insufficient_quota"
    )
    with pytest.raises(BackendError, match="quota"):
        list(backend_for(server, concurrency=1).complete([ask("one"), ask("two")]))
    assert server.attempt("one") == 1


def test_answers_on_their_way_are_handed_over_before_stopping(server: ChatServer) -> None:
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


def test_hopeless_series_of_failures_stops(server: ChatServer) -> None:
    server.reply = lambda text, attempt: failed(400, "unknown parameter")
    received = []
    with pytest.raises(BackendError, match=r"No request succeeded.*unknown parameter"):
        for index, _ in backend_for(server, concurrency=2).complete(
            [ask(str(number)) for number in range(99)]
        ):
            received.append(index)
    assert HOPELESS_AFTER <= len(received) < HOPELESS_AFTER + 4


def test_caller_may_stop_listening(server: ChatServer) -> None:
    answers = backend_for(server, concurrency=1).complete([ask(str(number)) for number in range(50)])
    next(answers)
    answers.close()  # type: ignore[attr-defined]
    time.sleep(0.3)
    assert len(server.seen) < 10


def test_no_requests_need_no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = open_openai(Llm(model="m"), Execution(base_urls=("http://127.0.0.1:9/v1",)), Budget())
    assert list(backend.complete([])) == []


# --- the key -----------------------------------------------------------------------------------------------


def test_key_goes_to_the_server_and_nowhere_else(
    server: ChatServer, caplog: pytest.LogCaptureFixture
) -> None:
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


def test_own_server_needs_no_key(server: ChatServer, monkeypatch: pytest.MonkeyPatch) -> None:
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
        open_openai(Llm(model="m"), Execution(), Budget())


@pytest.mark.parametrize("key", ["sk-two words", "sk-line\nbreak", "sk-ünïcode"])
def test_unusable_key_is_refused_without_being_shown(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(BackendError) as caught:
        open_openai(Llm(model="m"), Execution(), Budget())
    assert key not in str(caught.value) and "sk-" not in str(caught.value)


def test_newline_behind_the_key_is_forgiven(server: ChatServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY + "\n")
    list(backend_for(server).complete([ask("one")]))
    assert server.authorizations == [f"Bearer {KEY}"]


@pytest.mark.parametrize(
    "url",
    [
        *("localhost:8000/v1", "ftp://host/v1", "http://", "/v1", "http://two words/v1"),
        *("http://host:port/v1", "http://host:99999/v1", "http://host:0/v1", "http://[::1/v1"),
    ],
)
def test_base_url_must_be_one(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with pytest.raises(BackendError, match="base URL"):
        open_openai(Llm(model="m"), Execution(base_urls=(url,)), Budget())


def test_registry_opens_it(server: ChatServer) -> None:
    backend = open_backend(Llm(backend="openai", model="m"), Execution(base_urls=(server.url,)), Budget())
    assert (backend.family, backend.model) == ("openai", "m")


@pytest.mark.parametrize("variable", [True, False])
def test_password_in_an_address_is_refused_without_being_shown(
    monkeypatch: pytest.MonkeyPatch, variable: bool
) -> None:
    url = "http://reader:pw12345@127.0.0.1:9/v1"
    monkeypatch.setenv("OPENAI_BASE_URL", url)
    with pytest.raises(BackendError, match=r"'http://127\.0\.0\.1:9/v1' holds a user name") as caught:
        open_openai(Llm(model="m"), Execution(base_urls=() if variable else (url,)), Budget())
    assert "pw12345" not in str(caught.value)
