"""An answer that somebody watches: heard piece by piece, and the same completion as any other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from chat_servers import ChatServer, Reply, ask, said, serving, streamed

from cdner.llm.chat import ChatClient, Clock, Server
from cdner.types import Completion, Gap

PIECES = ("Paris ", "is a ", "city.")


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with serving() as state:
        yield state


def watched(server: ChatServer, *, n_retries: int = 1) -> tuple[Completion | Gap, list[str]]:
    """The outcome of one request, and what was heard of it."""
    heard: list[str] = []
    client = ChatClient(
        [Server(server.url)], model="m", concurrency=2, timeout=60, n_retries=n_retries, clock=Clock(50.0)
    )
    try:
        ((_, outcome),) = client.complete([replace(ask("one"), on_text=heard.append)])
    finally:
        client.close()
    return outcome, heard


def test_each_piece_is_heard_and_the_completion_is_whole(server: ChatServer) -> None:
    server.reply = lambda text, attempt: streamed(*PIECES)
    outcome, heard = watched(server)
    assert heard == list(PIECES)
    assert outcome == Completion("".join(PIECES), "stop", input_tokens=11, cached_tokens=7, output_tokens=3)
    (asked,) = server.seen
    assert asked["stream"] is True and asked["stream_options"] == {"include_usage": True}


def test_nobody_watching_asks_for_the_answer_whole(server: ChatServer) -> None:
    client = ChatClient([Server(server.url)], model="m", concurrency=2, timeout=60)
    ((_, outcome),) = client.complete([ask("one")])
    client.close()
    assert isinstance(outcome, Completion) and "stream" not in server.seen[0]


@pytest.mark.parametrize("cut", [0, 150, 400])
def test_a_stream_that_breaks_off_is_asked_for_again(server: ChatServer, cut: int) -> None:
    def reply(text: str, attempt: int) -> Reply:
        return replace(streamed(*PIECES), cut=cut) if attempt == 1 else streamed(*PIECES)

    server.reply = reply
    outcome, heard = watched(server)
    assert isinstance(outcome, Completion) and outcome.text == "".join(PIECES)
    assert heard[-3:] == list(PIECES) and server.attempt("one") == 2


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("data: {oops\n\n", "malformed answer: "),
        ('data: {"choices": [{"delta": 5}]}\n\n', "malformed answer: a streamed choice has no delta"),
        ('data: {"error": {"message": "out of memory"}}\n\n', "out of memory"),
        (streamed(*PIECES, finish_reason=None).body, "the answer ended without a finish reason"),
    ],
)
def test_what_is_no_answer_is_a_gap_with_its_reason(server: ChatServer, body: str, reason: str) -> None:
    server.reply = lambda text, attempt: Reply(body=body, headers={"Content-Type": "text/event-stream"})
    outcome, _ = watched(server)
    assert isinstance(outcome, Gap) and outcome.reason.startswith(reason)


def test_a_busy_server_is_asked_again_before_anything_is_heard(server: ChatServer) -> None:
    busy = Reply(429, '{"error": {"message": "busy"}}', {"Retry-After": "1"})
    server.reply = lambda text, attempt: busy if attempt == 1 else streamed(*PIECES)
    outcome, heard = watched(server)
    assert isinstance(outcome, Completion) and heard == list(PIECES)


def test_an_answer_that_is_no_stream_is_a_gap(server: ChatServer) -> None:
    server.reply = lambda text, attempt: said(text)  # one JSON object, not a stream
    outcome, heard = watched(server)
    assert isinstance(outcome, Gap) and heard == []


def test_an_answer_without_text_that_was_paid_is_booked(server: ChatServer) -> None:
    body = streamed().body
    server.reply = lambda text, attempt: Reply(body=body, headers={"Content-Type": "text/event-stream"})
    outcome, _ = watched(server)
    assert isinstance(outcome, Completion)
    assert (outcome.text, outcome.output_tokens) == ("", 3)
