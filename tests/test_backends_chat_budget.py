"""Budgets: exactly so many requests, never more dollars than allowed, and a gap that says why."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from chat_servers import ChatServer, Reply, after, ask, asks, failed, said, serving

from cdner.annotate.worker import Silent
from cdner.config import Execution, Llm, parse_experiment
from cdner.errors import BackendError
from cdner.llm import open_backend
from cdner.llm.chat import Budget, ChatClient, Clock, Server
from cdner.llm.chat.budget import estimated_input_tokens
from cdner.llm.prices import Price
from cdner.matrix import cells
from cdner.steps.context import open_context
from cdner.types import Completion, Gap, Message, ReasoningRequest, Sampling

PRICE = Price(input=1.0, cached_input=0.1, output=100.0)  # dear, so that the figures are easy to see


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ChatServer]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-x")
    monkeypatch.delenv("CDNER_PRICES", raising=False)
    with serving() as state:
        yield state


def client_of(
    server: ChatServer,
    budget: Budget,
    *,
    price: Price | None = PRICE,
    concurrency: int = 4,
    timeout: float = 500.0,
) -> ChatClient:
    return ChatClient(
        [Server(server.url)],
        model="m",
        concurrency=concurrency,
        timeout=timeout,
        n_retries=2,
        budget=budget,
        price=price,
        clock=Clock(50),
    )


def count(answers: dict[int, Completion | Gap]) -> tuple[int, int]:
    n_gaps = sum(isinstance(answer, Gap) for answer in answers.values())
    return len(answers) - n_gaps, n_gaps


# --- requests ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("concurrency", [1, 4, 16])
def test_exactly_so_many_requests_are_sent_and_the_rest_are_gaps(
    server: ChatServer, concurrency: int
) -> None:
    server.reply = lambda text, attempt: after(0.02, said(text))
    client = client_of(server, Budget(max_requests=7), concurrency=concurrency)
    answers = dict(client.complete(asks(20)))
    assert count(answers) == (7, 13) and len(server.seen) == 7
    assert {answer for answer in answers.values() if isinstance(answer, Gap)} == {
        Gap("budget of 7 requests (--max-requests) is used up")
    }


def test_budget_counts_over_all_calls_of_a_command(server: ChatServer) -> None:
    client = client_of(server, Budget(max_requests=5))
    assert count(dict(client.complete(asks(3)))) == (3, 0)
    assert count(dict(client.complete(asks(3)))) == (2, 1)
    assert count(dict(client.complete(asks(3)))) == (0, 3)
    assert len(server.seen) == 5


def test_attempts_count_as_requests(server: ChatServer) -> None:
    """The limit is a promise about what leaves this machine."""
    server.reply = lambda text, attempt: failed(500, "no") if attempt == 1 else said(text)
    answers = dict(client_of(server, Budget(max_requests=5), concurrency=1).complete(asks(10)))
    assert len(server.seen) == 5
    assert sum(count(answers)) == 10 and count(answers)[0] <= 2


def test_unreachable_server_takes_nothing_from_the_budget(server: ChatServer) -> None:
    budget = Budget(max_requests=3, max_cost=1.0)
    client = ChatClient(
        [Server("http://127.0.0.1:9/v1"), Server(server.url)],
        model="m",
        concurrency=2,
        timeout=60,
        budget=budget,
        price=PRICE,
    )
    assert count(dict(client.complete(asks(3)))) == (3, 0)
    assert budget.n_requests == 3
    assert budget.spent == pytest.approx(3 * (11 * 1 + 3 * 100) / 1e6)


# --- dollars -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("concurrency", [1, 8])
def test_cost_never_exceeds_the_budget_however_many_are_on_their_way(
    server: ChatServer, concurrency: int
) -> None:
    """Answers as long as allowed: what was reserved is what they cost, but for the input's estimate."""
    server.reply = lambda text, attempt: after(0.02, said(text, prompt_tokens=11, completion_tokens=9))
    each = (11 * 1.0 + 9 * 100.0) / 1e6
    reserved = (estimated_input_tokens(ask("text 0")) + 900) / 1e6
    budget = Budget(max_cost=6.5 * reserved)
    answers = dict(client_of(server, budget, concurrency=concurrency).complete(asks(20)))
    n_completed, n_gaps = count(answers)
    assert n_completed == 6 and n_gaps == 14 and len(server.seen) == 6
    assert budget.spent == pytest.approx(6 * each) and budget.spent <= 6.5 * reserved
    assert all(
        answer.cost_usd == pytest.approx(each)
        for answer in answers.values()
        if isinstance(answer, Completion)
    )
    assert any(
        "US dollars (--max-cost)" in answer.reason for answer in answers.values() if isinstance(answer, Gap)
    )


def test_cheap_answers_free_what_was_reserved_for_dear_ones(server: ChatServer) -> None:
    server.reply = lambda text, attempt: after(0.01, said(text, prompt_tokens=10, completion_tokens=1))
    each, reserved = (10 + 100) / 1e6, (estimated_input_tokens(ask("text 0")) + 900) / 1e6
    budget = Budget(max_cost=2 * reserved)  # two at a time, but a good many in all
    answers = dict(client_of(server, budget, concurrency=8).complete(asks(40)))
    assert count(answers)[0] == math.floor((2 * reserved - reserved) / each) + 1
    assert budget.spent <= 2 * reserved


def test_cached_input_is_counted_at_its_price(server: ChatServer) -> None:
    server.reply = lambda text, attempt: said(
        text, prompt_tokens=1000, completion_tokens=10, prompt_tokens_details={"cached_tokens": 900}
    )
    (answer,) = dict(client_of(server, Budget()).complete([ask("one")])).values()
    assert isinstance(answer, Completion)
    assert answer.cost_usd == pytest.approx((100 * 1.0 + 900 * 0.1 + 10 * 100.0) / 1e6)


@pytest.mark.parametrize(
    ("reply", "billed"),
    [
        (lambda: after(1.0, said("slow")), True),  # the server went on writing
        (lambda: Reply(body=said("x").body, cut=9), True),
        (lambda: Reply(body="{}"), True),
        (lambda: failed(500, "oops"), False),
        (lambda: failed(400, "no"), False),
    ],
    ids=["timeout", "cut", "malformed", "500", "400"],
)
def test_what_may_have_been_billed_unseen_counts_as_spent(server: ChatServer, reply, billed: bool) -> None:  # type: ignore[no-untyped-def]
    server.reply = lambda text, attempt: reply()
    budget = Budget(max_cost=1.0)
    client = client_of(server, budget, timeout=0.3 * 50)
    ((_, outcome),) = client.complete([ask("one")])
    assert isinstance(outcome, Gap)
    assert (budget.spent > 0) == billed
    assert budget.reserve(1.0 - budget.spent)  # nothing stays reserved


def test_budget_gap_is_no_failure_of_the_server(server: ChatServer) -> None:
    """Twenty gaps without a success end a call, but not if the budget made them."""
    assert count(dict(client_of(server, Budget(max_cost=1e-9)).complete(asks(30)))) == (0, 30)
    assert server.seen == []


# --- the command's -----------------------------------------------------------------------------------------


def test_backends_share_the_budget_they_are_given(server: ChatServer) -> None:
    execution = Execution(base_urls=(server.url,), max_requests=4)
    budget = Budget.of(execution)
    describing, reasoning = (open_backend(Llm(model=name), execution, budget) for name in ("small", "large"))
    assert count(dict(describing.complete(asks(3)))) == (3, 0)
    assert count(dict(reasoning.complete(asks(3)))) == (1, 2)
    assert count(dict(open_backend(Llm(model="m"), execution).complete(asks(3)))) == (3, 0)


def test_cells_of_a_matrix_that_varies_the_model_spend_one_budget(server: ChatServer, tmp_path: Path) -> None:
    table = {
        "name": "e",
        "vary": [{"name": "llm", "keys": ["reason.model"], "values": ["small", "large"]}],
        "execution": {"base_urls": [server.url], "max_requests": 4},
    }
    experiment = parse_experiment(table, where="here")
    with open_context(tmp_path / "s.duckdb", experiment, progress=Silent()) as context:
        found = [
            count(dict(replace(context, experiment=cell).llms.open(cell.reason).complete(asks(3))))
            for cell in cells(experiment)
        ]
    assert found == [(3, 0), (1, 2)]
    assert len(server.seen) == 4


def test_limit_on_costs_needs_a_price(server: ChatServer, monkeypatch: pytest.MonkeyPatch) -> None:
    own = Execution(base_urls=(server.url,), max_cost=1.0)
    with pytest.raises(
        BackendError, match=r"--max-cost needs a price.*'gpt-4o-mini'.*CDNER_PRICES.*--max-requests"
    ):
        open_backend(Llm(model="gpt-4o-mini"), own)  # at a server of one's own that name means nothing
    with pytest.raises(BackendError, match="'gpt-unheard-of'"):
        open_backend(Llm(model="gpt-unheard-of"), Execution(max_cost=1.0))
    open_backend(Llm(model="gpt-4o-mini"), Execution(max_cost=1.0))
    open_backend(Llm(model="gpt-unheard-of"), Execution(max_requests=1))


def test_own_price_file_prices_ones_own_server(
    server: ChatServer, monkeypatch: pytest.MonkeyPatch, tmp_path
) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "prices.toml"
    path.write_text('[models."m"]\ninput = 2.0\noutput = 4.0\n', encoding="utf-8")
    monkeypatch.setenv("CDNER_PRICES", str(path))
    backend = open_backend(Llm(model="m"), Execution(base_urls=(server.url,), max_cost=1.0))
    ((_, outcome),) = backend.complete([ask("one")])
    assert isinstance(outcome, Completion) and outcome.cost_usd == pytest.approx((11 * 2 + 3 * 4) / 1e6)


@pytest.mark.parametrize(
    "text",
    ["Angela Merkel met Barack Obama . " * 40, "默克尔在柏林会见了奥巴马。" * 40, json.dumps({"a": 1})],
)
def test_estimated_tokens_are_rather_too_many(text: str) -> None:
    request = ReasoningRequest((Message("user", text),), Sampling(max_tokens=1))
    n_words = len(text.split()) if " " in text else len(text) * 0.6
    assert estimated_input_tokens(request) >= n_words
