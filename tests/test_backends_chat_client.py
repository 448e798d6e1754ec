"""The chat client on one real HTTP server: what it tries again and when, and what ends everything."""

from __future__ import annotations

import email.utils
import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import pytest
from chat_servers import ChatServer, Reply, after, ask, asks, failed, said, serving

from cdner.errors import BackendError
from cdner.llm.chat import ChatClient, Clock, Server
from cdner.types import Completion, Gap, ReasoningRequest

SPEED = 50.0  # a minute is 1.2 seconds


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ChatServer]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving() as state:
        yield state


def outcomes(
    server: ChatServer,
    requests: Sequence[ReasoningRequest],
    *,
    speed: float = SPEED,
    concurrency: int = 4,
    timeout: float = 500.0,
    n_retries: int = 3,
) -> dict[int, Completion | Gap]:
    client = ChatClient(
        [Server(server.url)],
        model="m",
        concurrency=concurrency,
        timeout=timeout,
        n_retries=n_retries,
        clock=Clock(speed),
    )
    try:
        return dict(client.complete(requests))
    finally:
        client.close()


def first(reply: Callable[[], Reply], n_times: int = 1) -> Callable[[str, int], Reply]:
    """That reply the first times a text is asked, then an answer."""
    return lambda text, attempt: reply() if attempt <= n_times else said(text)


def waited(server: ChatServer) -> float:
    """Seconds of the client's clock between the first two requests."""
    return (server.times[1] - server.times[0]) * SPEED


# --- waiting -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "40"}, 40.0),
        ({"Retry-After": "0.5", "retry-after-ms": "60000"}, 60.0),
        ({"retry-after-ms": "bogus", "Retry-After": "40"}, 40.0),
    ],
)
def test_busy_server_is_asked_again_after_the_time_it_names(
    server: ChatServer, headers: dict[str, str], seconds: float
) -> None:
    server.reply = first(lambda: Reply(429, '{"error": {"message": "busy"}}', headers))
    (outcome,) = outcomes(server, [ask("one")]).values()
    assert isinstance(outcome, Completion) and len(server.seen) == 2
    assert waited(server) >= seconds


def test_busy_server_may_name_the_time_as_a_date(server: ChatServer) -> None:
    moment = email.utils.formatdate(time.time() + 40, usegmt=True)
    server.reply = first(lambda: failed(429, "busy", Retry_After=moment))
    outcomes(server, [ask("one")])
    assert waited(server) >= 30  # a date has whole seconds, and some have passed


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 504, 529])
def test_failure_that_names_no_time_is_tried_again_later_and_later(server: ChatServer, status: int) -> None:
    server.reply = first(lambda: failed(status, "busy"), 3)
    (outcome,) = outcomes(server, [ask("one")]).values()
    assert isinstance(outcome, Completion) and len(server.seen) == 4
    pauses = [(b - a) * SPEED for a, b in itertools.pairwise(server.times)]
    for pause, least in zip(pauses, (0.5, 1.0, 2.0), strict=True):
        assert pause >= least


def test_all_wait_while_the_server_asks_for_a_pause(server: ChatServer) -> None:
    refused: list[str] = []

    def reply(text: str, attempt: int) -> Reply:
        if text == "text 2" and not refused:
            refused.append(text)
            return failed(429, "busy", Retry_After="40")
        return said(text)

    server.reply = reply
    answers = outcomes(server, asks(8), concurrency=1)
    assert all(isinstance(answer, Completion) for answer in answers.values())
    assert (server.times[3] - server.times[2]) * SPEED >= 40  # the third was refused; nobody asked meanwhile


def test_server_that_asks_to_wait_for_an_hour_is_not_waited_for(server: ChatServer) -> None:
    server.reply = lambda text, attempt: failed(429, "daily limit", Retry_After="3600")
    with pytest.raises(BackendError, match=r"asks to wait for 3[56]\d\d seconds"):
        outcomes(server, asks(3))
    assert len(server.seen) == 1


# --- gaps --------------------------------------------------------------------------------------------------


def test_request_that_keeps_failing_is_a_gap_and_the_others_go_on(server: ChatServer) -> None:
    server.reply = lambda text, attempt: failed(500, "oops") if text == "bad" else said(text)
    answers = outcomes(server, [ask("good"), ask("bad"), ask("fine")], n_retries=2)
    assert answers[1] == Gap("Error code: 500 - oops")
    assert isinstance(answers[0], Completion) and isinstance(answers[2], Completion)
    assert server.attempt("bad") == 3


def test_silent_server_is_a_timeout_and_tried_again(server: ChatServer) -> None:
    server.reply = lambda text, attempt: after(1.2 if attempt == 1 else 0.0, said(text))
    (outcome,) = outcomes(server, [ask("one")], timeout=0.5 * SPEED).values()
    assert isinstance(outcome, Completion) and server.attempt("one") == 2


def test_request_that_always_times_out_is_a_gap(server: ChatServer) -> None:
    server.reply = lambda text, attempt: after(1.0 if text == "slow" else 0.0, said(text))
    answers = outcomes(server, [ask("quick"), ask("slow")], timeout=0.3 * SPEED, n_retries=1)
    assert answers[1] == Gap("timeout") and isinstance(answers[0], Completion)
    assert server.attempt("slow") == 2


def test_server_that_trickles_is_a_timeout_too(server: ChatServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every byte restarts the wire's own timeout; some servers send blanks while they think."""
    import chat_servers

    def trickle(handler: chat_servers._Handler, reply: Reply) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "100")
        handler.end_headers()
        for _ in range(30):
            handler.wfile.write(b" ")
            handler.wfile.flush()
            time.sleep(0.1)

    monkeypatch.setattr(chat_servers._Handler, "_answer", trickle)
    begun = time.monotonic()
    assert outcomes(server, [ask("one")], timeout=0.5 * SPEED, n_retries=0) == {0: Gap("timeout")}
    assert time.monotonic() - begun < 2.5


@pytest.mark.parametrize("reset", [True, False], ids=["reset", "end"])
@pytest.mark.parametrize("cut", [0, 1, 60])
def test_answer_that_breaks_off_is_asked_for_again(server: ChatServer, cut: int, reset: bool) -> None:
    def reply(text: str, attempt: int) -> Reply:
        answer = said(text)
        if attempt == 1:
            answer.cut, answer.reset = cut, reset
        return answer

    server.reply = reply
    (outcome,) = outcomes(server, [ask("one")]).values()
    assert isinstance(outcome, Completion) and outcome.text == "answer to one"
    assert server.attempt("one") == 2


def test_answer_that_always_breaks_off_is_a_gap(server: ChatServer) -> None:
    server.reply = lambda text, attempt: Reply(body=said(text).body, cut=20)
    (outcome,) = outcomes(server, [ask("one")], n_retries=1).values()
    assert isinstance(outcome, Gap) and outcome.reason.startswith("lost connection: ")


def test_malformed_body_is_a_gap_at_once(server: ChatServer) -> None:
    server.reply = lambda text, attempt: Reply(body='{"choices": [{"mess')
    (outcome,) = outcomes(server, [ask("one")]).values()
    assert isinstance(outcome, Gap) and outcome.reason.startswith("malformed answer: ")
    assert len(server.seen) == 1


# --- the end -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["code", "type"])
def test_empty_account_stops_at_once_although_it_looks_busy(server: ChatServer, field: str) -> None:
    body = f'{{"error": {{"message": "You exceeded your current quota", "{field}": "insufficient_quota"}}}}'
    server.reply = lambda text, attempt: Reply(429, body, {"Retry-After": "1"})
    with pytest.raises(BackendError, match="quota"):
        outcomes(server, asks(5))
    assert len(server.seen) == 1


def test_absent_server_is_tried_a_few_times_then_all_stops() -> None:
    client = ChatClient(
        [Server("http://127.0.0.1:9/v1", "sk-key1")],
        model="m",
        concurrency=3,
        timeout=60,
        n_retries=2,
        clock=Clock(SPEED),
    )
    begun = time.monotonic()
    with pytest.raises(BackendError, match=r"Cannot reach the server at http://127.0.0.1:9/v1: .*refused"):
        list(client.complete(asks(5)))
    assert (time.monotonic() - begun) * SPEED >= 1.5  # two pauses of at least 0.5 and 1 second


def test_server_that_comes_back_in_time_answers_all(server: ChatServer) -> None:
    port = int(server.url.rpartition(":")[2].removesuffix("/v1"))
    server.stop()
    client = ChatClient(
        [Server(server.url)], model="m", concurrency=2, timeout=60, n_retries=6, clock=Clock(5)
    )
    again: list[ChatServer] = []
    done = threading.Event()

    def come_back() -> None:
        time.sleep(0.5)
        with serving(port) as state:
            again.append(state)
            done.wait(20)

    thread = threading.Thread(target=come_back)
    thread.start()
    try:
        answers = dict(client.complete(asks(4)))
    finally:
        done.set()
        thread.join()
    assert all(isinstance(answer, Completion) for answer in answers.values()) and len(again[0].seen) == 4


def test_at_most_concurrency_answers_are_unacknowledged(server: ChatServer) -> None:
    """Whoever is killed while it stores an answer repeats no more than that."""
    client = ChatClient([Server(server.url)], model="m", concurrency=3, timeout=60)
    n_acknowledged = 0
    for _ in client.complete(asks(12)):
        time.sleep(0.05)  # those on their way arrive meanwhile
        assert len(server.seen) - n_acknowledged <= 3
        n_acknowledged += 1
    client.close()
    client.close()
    assert n_acknowledged == 12


def test_answers_at_hand_are_announced_so_that_they_can_be_stored_together(server: ChatServer) -> None:
    client = ChatClient([Server(server.url)], model="m", concurrency=4, timeout=60, prefix_first=False)
    assert client.n_ready == 0
    ready = []
    for _ in client.complete(asks(12)):
        ready.append(client.n_ready)
        if not client.n_ready:
            time.sleep(0.2)  # the others arrive meanwhile, and come together next
    assert max(ready) >= 1 and ready[-1] == 0
    assert all(after >= before - 1 for before, after in itertools.pairwise(ready))


def test_seconds_are_those_of_the_answered_attempt(server: ChatServer) -> None:
    server.reply = lambda text, attempt: failed(500, "no") if attempt == 1 else after(0.3, said(text))
    (outcome,) = outcomes(server, [ask("one")]).values()
    assert isinstance(outcome, Completion)
    assert 0.3 * SPEED <= outcome.seconds <= (server.times[1] - server.times[0] + 5) * SPEED
    assert outcome.cost_usd is None


def test_no_requests_need_no_server() -> None:
    client = ChatClient([Server("http://127.0.0.1:9/v1")], model="m", concurrency=2, timeout=60)
    assert list(client.complete([])) == []


def test_a_proxy_is_not_asked_for_a_server_on_this_machine(
    server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nobody listens there
    (answer,) = outcomes(server, [ask("text")]).values()
    assert isinstance(answer, Completion)
