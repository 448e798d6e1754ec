"""The chat client on several real HTTP servers: who is asked, in which order, and what a server's death costs."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from chat_servers import ChatServer, Reply, after, ask, asked, asks, failed, said, serving

from cdner.config import Execution, Llm
from cdner.errors import BackendError
from cdner.llm import open_backend
from cdner.llm.chat import ChatClient, Clock, Server
from cdner.types import Completion, Gap

GONE = Server("http://127.0.0.1:9/v1")
SPEED = 20.0


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[ChatServer, ChatServer]]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving() as first, serving() as second:
        yield first, second


def client_of(*servers: ChatServer | Server, concurrency: int = 4, **options: Any) -> ChatClient:
    found = [server if isinstance(server, Server) else Server(server.url) for server in servers]
    terms = {"timeout": 500.0, "n_retries": 2, "clock": Clock(SPEED)} | options
    return ChatClient(found, model="m", concurrency=concurrency, **terms)


def all_answered(answers: dict[int, Completion | Gap], n: int) -> bool:
    return answers.keys() == set(range(n)) and all(isinstance(one, Completion) for one in answers.values())


# --- who is asked ------------------------------------------------------------------------------------------


def test_two_servers_share_the_requests_and_each_is_asked_once(two: tuple[ChatServer, ChatServer]) -> None:
    for server in two:
        server.reply = lambda text, attempt: after(0.02, said(text))
    answers = dict(client_of(*two).complete(asks(40)))
    assert all_answered(answers, 40)
    assert sorted(asked(body) for server in two for body in server.seen) == sorted(
        request.messages[-1].content for request in asks(40)
    )
    assert min(len(server.seen) for server in two) >= 10


def test_the_server_with_fewest_requests_on_their_way_is_asked(two: tuple[ChatServer, ChatServer]) -> None:
    slow, quick = two
    slow.reply = lambda text, attempt: after(0.4, said(text))
    quick.reply = lambda text, attempt: after(0.02, said(text))
    answers = dict(client_of(*two, concurrency=4).complete(asks(40)))
    assert all_answered(answers, 40)
    assert slow.most_together <= 2  # taking turns would pile up four there
    assert len(quick.seen) > 2 * len(slow.seen)


def test_concurrency_counts_over_all_servers(two: tuple[ChatServer, ChatServer]) -> None:
    lock, now, most = threading.Lock(), [0], [0]

    def reply(text: str, attempt: int) -> Reply:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        time.sleep(0.03)
        with lock:
            now[0] -= 1
        return said(text)

    for server in two:
        server.reply = reply
    dict(client_of(*two, concurrency=3).complete(asks(20)))
    assert most == [3]


def test_base_urls_of_the_settings_are_used_side_by_side(
    two: tuple[ChatServer, ChatServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-shared")
    execution = Execution(base_urls=tuple(server.url for server in two), concurrency=4)
    assert all_answered(dict(open_backend(Llm(model="m"), execution).complete(asks(12))), 12)
    assert all(server.seen for server in two)
    assert {key for server in two for key in server.authorizations} == {"Bearer sk-shared"}


# --- prefix first ------------------------------------------------------------------------------------------


def test_first_request_is_answered_before_the_others_are_sent(two: tuple[ChatServer, ChatServer]) -> None:
    server, _ = two
    server.reply = lambda text, attempt: after(0.3 if text == "text 0" else 0.1, said(text))
    client = client_of(server)
    assert all_answered(dict(client.complete(asks(8))), 8)
    assert server.together[0] == 1 and server.times[1] - server.times[0] >= 0.3
    assert server.most_together == 4
    n_before = len(server.seen)
    dict(client.complete(asks(8)))  # a new call may bring a new prefix
    assert server.times[n_before + 1] - server.times[n_before] >= 0.3


def test_each_server_gets_a_first_request_of_its_own(two: tuple[ChatServer, ChatServer]) -> None:
    for server in two:
        server.reply = lambda text, attempt: after(0.6, said(text))
    dict(client_of(*two, concurrency=8).complete(asks(30)))
    for server in two:
        assert server.times[1] - server.times[0] >= 0.6
        assert server.most_together > 1
    assert abs(two[0].times[0] - two[1].times[0]) < 0.6  # both at once


def test_failed_first_request_leaves_the_next_one_alone(two: tuple[ChatServer, ChatServer]) -> None:
    server, _ = two
    server.reply = lambda text, attempt: (
        failed(500, "no") if len(server.seen) == 1 else after(0.2, said(text))
    )
    assert all_answered(dict(client_of(server).complete(asks(6))), 6)
    assert server.times[2] - server.times[1] >= 0.2


def test_prefix_first_can_be_left_to_others(two: tuple[ChatServer, ChatServer]) -> None:
    server, _ = two
    server.reply = lambda text, attempt: after(0.2, said(text))
    dict(client_of(server, prefix_first=False).complete(asks(4)))
    assert server.most_together == 4


# --- servers that are gone ---------------------------------------------------------------------------------


def test_absent_server_is_set_aside_and_the_other_answers_all(two: tuple[ChatServer, ChatServer]) -> None:
    server, _ = two
    assert all_answered(dict(client_of(GONE, server).complete(asks(20))), 20)
    assert len(server.seen) == 20


def test_server_that_dies_hands_its_requests_to_the_other(two: tuple[ChatServer, ChatServer]) -> None:
    dying, other = two
    deaths: list[threading.Thread] = []

    def reply(text: str, attempt: int) -> Reply:
        if len(dying.seen) >= 5 and not deaths:
            deaths.append(threading.Thread(target=dying.stop))
            deaths[0].start()
        return after(0.05, said(text))

    dying.reply = reply
    other.reply = lambda text, attempt: after(0.05, said(text))
    answers = dict(client_of(dying, other, n_retries=4).complete(asks(40)))
    assert deaths and all_answered(answers, 40)
    assert len(other.seen) >= 30 > len(dying.seen)


def test_all_servers_gone_ends_the_call_and_names_them(two: tuple[ChatServer, ChatServer]) -> None:
    for server in two:
        server.stop()
    with pytest.raises(BackendError) as caught:
        list(client_of(*two, n_retries=1).complete(asks(5)))
    for server in two:
        assert server.url in str(caught.value)


def test_server_set_aside_gets_another_chance(two: tuple[ChatServer, ChatServer]) -> None:
    steady, absent = two
    port = int(absent.url.rpartition(":")[2].removesuffix("/v1"))
    absent.stop()
    steady.reply = lambda text, attempt: after(0.05, said(text))
    client = client_of(steady, Server(absent.url), n_retries=50)
    with contextlib.ExitStack() as stack:
        answers: dict[int, Completion | Gap] = {}
        back: ChatServer | None = None
        for index, outcome in client.complete(asks(200)):
            answers[index] = outcome
            back = back or stack.enter_context(serving(port))
            if back.seen:
                break
        assert back is not None and back.seen


# --- a server of our own -----------------------------------------------------------------------------------


def test_hook_brings_a_replacement_and_nothing_is_lost(two: tuple[ChatServer, ChatServer]) -> None:
    dying, fresh = two
    fresh.reply = lambda text, attempt: after(0.1, said(text))
    deaths: list[threading.Thread] = []
    called: list[Server] = []

    def reply(text: str, attempt: int) -> Reply:
        if len(dying.seen) >= 5 and not deaths:
            deaths.append(threading.Thread(target=dying.stop))
            deaths[0].start()
        return after(0.1, said(text))

    def restart(server: Server) -> Server:
        called.append(server)
        return Server(fresh.url, "sk-new")

    dying.reply = reply
    client = client_of(Server(dying.url, "sk-old"), on_unreachable=restart)
    assert all_answered(dict(client.complete(asks(20))), 20)
    assert called == [Server(dying.url, "sk-old")]  # once, though four requests were on their way
    assert set(fresh.authorizations) == {"Bearer sk-new"}
    assert fresh.times[1] - fresh.times[0] >= 0.1  # its cache is empty: the first one alone again


def test_hook_without_a_replacement_ends_the_call(two: tuple[ChatServer, ChatServer]) -> None:
    with pytest.raises(BackendError, match="Cannot reach"):
        list(client_of(GONE, n_retries=0, on_unreachable=lambda server: None).complete(asks(3)))


def test_error_of_the_hook_is_the_calls_error(two: tuple[ChatServer, ChatServer]) -> None:
    def restart(server: Server) -> Server:
        raise BackendError("The child died three times.")

    with pytest.raises(BackendError, match="three times"):
        list(client_of(GONE, on_unreachable=restart).complete([ask("one")]))


def test_key_is_in_no_repr() -> None:
    server = Server("http://127.0.0.1:9/v1", "sk-secret")
    assert "sk-secret" not in repr(server) + repr(client_of(server)) + str(vars(client_of(server)))
