"""How fast a server is asked: headers read exactly, and the limit on requests at a time that follows from them."""

from __future__ import annotations

import email.utils
import time
from collections.abc import Iterator

import pytest
from chat_servers import ChatServer, Reply, after, asks, failed, said, serving

from cdner.llm.chat import ChatClient, Clock, Server
from cdner.llm.chat.pacing import (
    LONGEST_BACKOFF,
    LONGEST_REFILL,
    Allowance,
    Pace,
    allowance,
    backoff,
    duration,
    retry_after,
)
from cdner.types import Completion


def limits(
    remaining: int, reset: str = "60s", *, kind: str = "requests", limit: int | None = None
) -> dict[str, str]:
    headers = {f"x-ratelimit-remaining-{kind}": str(remaining), f"x-ratelimit-reset-{kind}": reset}
    return headers | ({f"x-ratelimit-limit-{kind}": str(limit)} if limit is not None else {})


# --- reading -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("12ms", 0.012), ("1s", 1.0), ("6m0s", 360.0), ("1h2m3.5s", 3723.5), ("1m0.25s", 60.25), ("17.4", 17.4),
        ("0", 0.0), (" 5 ", 5.0), ("250us", 0.00025), ("1d", 86400.0),
        ("", None), ("soon", None), ("-1", None), ("1s!", None), ("6m 0s", None), ("1e9", None), ("nan", None),
        ("9" * 400, None), (None, None),
    ],
)  # fmt: skip
def test_duration_of_a_reset_header(text: str | None, seconds: float | None) -> None:
    assert duration(text) == (None if seconds is None else pytest.approx(seconds))


def test_allowance_needs_to_be_stated() -> None:
    assert allowance(limits(7, "1s", limit=60), "requests") == Allowance(7, 60, 1.0)
    assert allowance(limits(7, "1s"), "requests") == Allowance(7, None, 1.0)
    assert allowance(limits(7, "1s"), "tokens") is None
    assert allowance(limits(-1, "0"), "requests") is None  # as Azure says what it does not know
    assert allowance(limits(7, "whenever"), "requests") is None


def test_refill_is_even_where_the_limit_is_known() -> None:
    assert Allowance(0, 60, 60.0).seconds_for(1) == pytest.approx(1.0)
    assert Allowance(40, 100, 30.0).seconds_for(30) == pytest.approx(15.0)
    assert Allowance(40, 100, 30.0).seconds_for(0) == 0.0
    assert Allowance(0, None, 60.0).seconds_for(1) == 60.0
    assert Allowance(9, None, 60.0).seconds_for(-8) == 0.0
    assert Allowance(0, 60, 60.0).seconds_for(999) == 60.0  # more than the limit ever gives


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "20"}, 20.0),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after-ms": "1500", "retry-after": "20"}, 1.5),
        ({"retry-after": email.utils.formatdate(0, usegmt=True)}, 0.0),  # long past
        ({"retry-after": "-5"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "Mon, 99 Foo 2026"}, None),
        ({"retry-after": ""}, None),
        ({}, None),
    ],
)
def test_retry_after(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers) == seconds


def test_retry_after_as_a_date_counts_from_now() -> None:
    moment = email.utils.formatdate(time.time() + 100, usegmt=True)
    assert retry_after({"retry-after": moment}) == pytest.approx(100, abs=5)


def test_backoff_doubles_with_jitter_up_to_a_bound() -> None:
    for n_failures, longest in ((1, 1.0), (2, 2.0), (4, 8.0), (9, LONGEST_BACKOFF), (5000, LONGEST_BACKOFF)):
        waits = [backoff(n_failures) for _ in range(200)]
        assert longest / 2 <= min(waits) < max(waits) <= longest
        assert len(set(waits)) > 100


# --- the limit ---------------------------------------------------------------------------------------------


def test_refusals_halve_the_limit_once_for_all_on_their_way() -> None:
    pace = Pace(8)
    for _ in range(8):  # all sent at 0, all refused at 1
        pace.congested(sent_at=0.0, now=1.0)
    assert pace.limit == 4
    for now in (2.0, 3.0, 4.0, 5.0):
        pace.congested(sent_at=now, now=now + 0.5)
    assert pace.limit == 1


def test_successes_raise_the_limit_by_one_a_round_up_to_the_setting() -> None:
    pace = Pace(4)
    for now in (1.0, 2.0):
        pace.congested(sent_at=now, now=now)
    assert pace.limit == 1
    pace.succeeded()
    assert pace.limit == 2
    for _ in range(3):
        pace.succeeded()
    assert pace.limit == 3
    for _ in range(100):
        pace.succeeded()
    assert pace.limit == 4


def test_headers_bound_how_many_may_follow() -> None:
    pace = Pace(8)
    first, second = pace.sent(0.0), pace.sent(0.0)
    pace.answered(first, limits(3, "60s", limit=60), tokens=1, now=1.0)
    assert pace.ready_at(1.0) == 1.0  # the second was one of the three
    pace.sent(1.0)
    pace.sent(1.0)
    assert pace.ready_at(1.0) > 1.0
    pace.answered(second, limits(9, "1s", limit=60), tokens=1, now=2.0)
    assert pace.ready_at(2.0) == 2.0


def test_an_older_answer_says_nothing_new() -> None:
    pace = Pace(8)
    first, second = pace.sent(0.0), pace.sent(0.0)
    pace.answered(second, limits(0, "30s", limit=60), tokens=1, now=1.0)
    pace.answered(first, limits(50, "1s", limit=60), tokens=1, now=1.1)
    assert pace.ready_at(1.2) > 1.2


def test_exhausted_limit_lets_one_through_per_refill() -> None:
    pace = Pace(8)
    pace.answered(pace.sent(0.0), limits(0, "60s", limit=60), tokens=1, now=10.0)
    assert pace.ready_at(10.0) == pytest.approx(11.0)
    pace.sent(11.0)
    assert pace.ready_at(11.0) == pytest.approx(12.0)


def test_tokens_bound_as_requests_do() -> None:
    pace = Pace(8)
    headers = limits(500, "1s", limit=500) | limits(2_000, "20s", kind="tokens", limit=10_000)
    pace.answered(pace.sent(0.0), headers, tokens=3_000, now=0.0)
    assert pace.ready_at(0.0) == pytest.approx(20 * 1_000 / 8_000)


def test_headers_that_foretell_hours_are_not_believed_so_long() -> None:
    pace = Pace(8)
    pace.answered(pace.sent(0.0), limits(0, "24h"), tokens=1, now=0.0)
    assert pace.ready_at(0.0) == LONGEST_REFILL


# --- over the wire -----------------------------------------------------------------------------------------


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ChatServer]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving() as state:
        yield state


def n_answered(server: ChatServer, n: int, *, speed: float, concurrency: int = 8) -> int:
    client = ChatClient(
        [Server(server.url)],
        model="m",
        concurrency=concurrency,
        timeout=900,
        prefix_first=False,
        clock=Clock(speed),
    )
    return sum(isinstance(outcome, Completion) for _, outcome in client.complete(asks(n)))


def test_server_that_takes_three_at_a_time_is_soon_asked_so(server: ChatServer) -> None:
    def reply(text: str, attempt: int) -> Reply:
        return after(0.05, failed(429, "busy") if server.n_together > 3 else said(text))

    server.reply = reply
    assert n_answered(server, 60, speed=40.0) == 60
    refused = len(server.seen) - 60
    assert refused < 25  # eight at a time would be refused for most of the way
    assert 1 <= sum(server.together[-20:]) / 20 <= 4.5


def test_stated_limit_of_requests_is_kept_without_a_refusal(server: ChatServer) -> None:
    """Four at once, then one a (scaled) second: a token bucket that states itself in its headers."""
    speed, bucket = 10.0, {"level": 4.0, "at": time.monotonic()}

    def reply(text: str, attempt: int) -> Reply:
        with server.lock:
            now = time.monotonic()
            bucket["level"] = min(4.0, bucket["level"] + (now - bucket["at"]) * speed)
            bucket["at"] = now
            if bucket["level"] < 1:
                return failed(429, "too fast")
            bucket["level"] -= 1
            answer = said(text)
            missing = 4 - bucket["level"]
            answer.headers = limits(int(bucket["level"]), f"{missing:.3f}s", limit=4)
            return answer

    server.reply = reply
    assert n_answered(server, 20, speed=speed, concurrency=2) == 20
    assert len(server.seen) - 20 <= 2  # rounding down what remains may cost one
    assert (server.times[-1] - server.times[0]) * speed >= 13


def test_limits_of_one_server_do_not_slow_the_other(server: ChatServer) -> None:
    with serving() as other:
        server.reply = lambda text, attempt: failed(429, "busy", Retry_After="250")
        client = ChatClient(
            [Server(server.url), Server(other.url)], model="m", concurrency=4, timeout=900, clock=Clock(20)
        )
        begun = time.monotonic()
        answers = dict(client.complete(asks(30)))
        assert all(isinstance(answer, Completion) for answer in answers.values())
        assert (time.monotonic() - begun) * 20 < 250 and len(other.seen) == 30
