"""Asking: stored before counted, found before asked, asked again where an answer is of no use."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from cdner.config import Execution, Experiment, Llm
from cdner.errors import BackendError
from cdner.steps import asking
from cdner.steps.asking import Answer, Meter, complete, reasons_in_words, retried, to_send
from cdner.steps.context import Context
from cdner.steps.step import Step
from cdner.store import Store
from cdner.store.llm_log import load_completions, load_request
from cdner.store.runs import run_spec
from cdner.types import Completion, Gap, Message, ReasoningRequest, Sampling

STEP = Step("reason:full/test", "reason", run_spec("reason", 1, {}, ()), {})
LLM = Llm(backend="scripted", model="m", retries=2)
Reply = Callable[[str, int], Completion | Gap]  # of a text and of how often it was asked again


def request(text: str, *, temperature: float = 0.0) -> ReasoningRequest:
    messages = (Message("system", "fixed"), Message("user", text))
    return ReasoningRequest(messages, Sampling(9, temperature=temperature, seed=5))


def written(text: str, finish_reason: str = "stop") -> Completion:
    return Completion(text, finish_reason, 10, 5, 3, 0.5, 0.25)


def defects(completion: Completion) -> int:
    """As many as the text has question marks."""
    return completion.text.count("?")


@dataclass
class Backend:
    """Answers by ``reply``; ``rounds`` holds (text, seed) of every call of ``complete``."""

    reply: Reply
    store: Store
    n_at_hand: int = 0
    dies_after: int = 1000
    family: str = "scripted"
    model: str = "m"
    rounds: list[list[tuple[str, int]]] = field(default_factory=list)
    n_ready: int = 0

    def complete(self, requests: Sequence[ReasoningRequest]) -> Iterator[tuple[int, Completion | Gap]]:
        self.rounds.append([(one.messages[-1].content, one.sampling.seed) for one in requests])
        for index, one in enumerate(requests):
            if index == self.dies_after:
                raise BackendError("no quota")
            self.n_ready = min(self.n_at_hand - index % (self.n_at_hand + 1), len(requests) - index - 1)
            text, n_retries = one.messages[-1].content, one.sampling.seed - 5
            yield index, self.reply(text, n_retries)

    def rest(self) -> None: ...

    def close(self) -> None: ...


@dataclass
class Bar:
    """A progress that looks into the store whenever it is told that something is done."""

    store: Store
    n_done: int = 0
    notes: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    lacking: list[int] = field(default_factory=list)

    def start(self, label: str, total: int | None = None) -> None:
        self.labels.append(f"{label} {total}")

    def advance(self, n: int = 1, note: str = "") -> None:
        self.n_done += n
        self.notes.append(note)
        with self.store.reading() as connection:
            (n_stored,) = connection.execute("SELECT count(*) FROM completion").fetchone() or (0,)
        self.lacking.append(self.n_done - n_stored)


@dataclass
class Asked:
    """One command: a context over the store and what its backend saw."""

    store: Store
    reply: Reply
    execution: Execution = field(default_factory=Execution)
    n_at_hand: int = 0
    dies_after: int = 1000
    backend: Backend = field(init=False)
    bar: Bar = field(init=False)
    context: Context = field(init=False)

    def __post_init__(self) -> None:
        self.backend = Backend(self.reply, self.store, self.n_at_hand, self.dies_after)
        self.bar = Bar(self.store)
        self.context = Context(self.store, Experiment(name="e", execution=self.execution), self.bar)
        self.context.llms._backends["scripted", "m"] = self.backend

    def __call__(self, *texts: str) -> list[Completion | Gap]:
        return [answer.outcome for answer in self.answers(*map(request, texts))]

    def answers(self, *requests: ReasoningRequest) -> list[Answer]:
        return complete(STEP, self.context, LLM, requests, defects=defects)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "s.duckdb")


def improving(text: str, n_retries: int) -> Completion:
    """ "a1" is good when asked again once, "b9" never."""
    return written(f"{text} at {n_retries}" + "?" * max(0, int(text[1]) - n_retries))


def test_what_has_defects_is_asked_again_a_round_a_call_with_another_seed(store: Store) -> None:
    asked = Asked(store, improving)
    outcomes = asked("a0", "b1", "c9", "d2")
    assert asked.backend.rounds == [
        [("a0", 5), ("b1", 5), ("c9", 5), ("d2", 5)],
        [("b1", 6), ("c9", 6), ("d2", 6)],
        [("c9", 7), ("d2", 7)],
    ]
    texts = [outcome.text for outcome in outcomes if isinstance(outcome, Completion)]
    assert texts == ["a0 at 0", "b1 at 1", "c9 at 2???????", "d2 at 2"]
    assert asked.bar.labels == [
        "reason:full/test 4",
        "reason:full/test (retry 1) 3",
        "reason:full/test (retry 2) 2",
    ]


def test_a_retry_is_not_greedy_and_keeps_a_temperature_that_is_set() -> None:
    greedy, warm = request("a"), request("a", temperature=0.8)
    assert retried(greedy, 0) is greedy
    assert (retried(greedy, 2).sampling.seed, retried(greedy, 2).sampling.temperature) == (7, 0.3)
    assert (retried(warm, 1).sampling.seed, retried(warm, 1).sampling.temperature) == (6, 0.8)
    assert retried(greedy, 1).messages is greedy.messages


def test_the_answer_with_the_fewest_defects_is_used_and_of_equals_the_earliest(store: Store) -> None:
    table = list(itertools.product(range(4), repeat=3))  # defects of the answer and of its two retries

    def reply(text: str, n_retries: int) -> Completion:
        return written(f"{n_retries}" + "?" * table[int(text)][n_retries])

    found = Asked(store, reply, n_at_hand=100)(*map(str, range(len(table))))
    for row, outcome in zip(table, found, strict=True):
        tried = row[: row.index(0) + 1] if 0 in row else row
        expected = min(range(len(tried)), key=lambda n: (tried[n], n))
        assert outcome == written(f"{expected}" + "?" * row[expected])


def test_a_rerun_and_a_replay_walk_the_same_chain_without_a_call(store: Store) -> None:
    requests = [request(text) for text in ("a0", "b1", "c9", "b1")]
    first = Asked(store, improving).answers(*requests)
    for execution in (Execution(), Execution(replay=True)):
        again = Asked(store, improving, execution)
        assert again.answers(*requests) == first
        assert again.backend.rounds == []
        assert again.bar.labels == []
    assert to_send(again.context, LLM, requests, defects=defects) == []


def test_equal_requests_are_one_call(store: Store) -> None:
    asked = Asked(store, improving)
    first, second, third = asked("b1", "a0", "b1")
    assert first == third != second
    assert [len(calls) for calls in asked.backend.rounds] == [2, 1]


def test_a_retry_that_fails_is_a_gap_and_the_next_run_goes_on_there(store: Store) -> None:
    def reply(text: str, n_retries: int) -> Completion | Gap:
        return Gap("busy") if n_retries else improving(text, 0)

    assert [type(outcome) for outcome in Asked(store, reply)("a0", "b1")] == [Completion, Gap]
    again = Asked(store, improving)
    due = to_send(again.context, LLM, [request("a0"), request("b1")], defects=defects)
    assert due == [retried(request("b1"), 1)]
    assert Asked(store, improving)("a0", "b1")[1] == improving("b1", 1)
    forgotten = asking._request_ids(again.context, LLM, due)
    with store.transaction() as connection:
        connection.execute("DELETE FROM completion WHERE request_id = ?", forgotten)
    refused = Asked(store, improving, Execution(replay=True))
    with pytest.raises(BackendError, match=r"\(retry 1\): 1 of 1 completions .* \(number 2\)"):
        refused("a0", "a0", "b1")


def test_every_request_is_in_the_store_before_it_is_sent(store: Store) -> None:
    def reply(text: str, n_retries: int) -> Completion:
        key = asking._request_ids(asked.context, LLM, [retried(request(text), n_retries)])[0]
        assert load_request(store, key)[2] == retried(request(text), n_retries)
        return improving(text, n_retries)

    asked = Asked(store, reply)
    assert len(asked("b1", "a0")) == 2


@pytest.mark.parametrize("n_at_hand", [0, 3])
def test_an_answer_counts_as_done_only_when_it_is_in_the_store(store: Store, n_at_hand: int) -> None:
    asked = Asked(store, improving, n_at_hand=n_at_hand)
    asked(*(f"{letter}0" for letter in "abcdefghij"))
    assert asked.bar.n_done == 10
    assert max(asked.bar.lacking) == 0
    n_transactions = {0: 10, 3: 3}[n_at_hand]
    assert len(asked.bar.lacking) == n_transactions
    assert asked.bar.notes[-1].endswith("50 % cached, $2.5000")


def test_no_transaction_waits_for_more_than_its_largest_group(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "LARGEST_GROUP", 4)
    asked = Asked(store, improving, n_at_hand=100)
    asked(*(f"{letter}0" for letter in "abcdefghij"))
    assert len(asked.bar.lacking) == 3


def test_what_arrived_before_a_backend_gives_up_is_stored(store: Store) -> None:
    asked = Asked(store, improving, n_at_hand=100, dies_after=3)
    with pytest.raises(BackendError, match="no quota"):
        asked("a0", "b0", "c0", "d0")
    again = Asked(store, improving)
    again("a0", "b0", "c0", "d0")
    assert again.backend.rounds == [[("d0", 5)]]


def test_an_interrupt_right_after_storing_stores_nothing_twice(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = Asked(store, improving, n_at_hand=1)
    presses = iter([KeyboardInterrupt])

    def interrupted(n: int = 1, note: str = "") -> None:
        for press in presses:
            raise press

    monkeypatch.setattr(asked.bar, "advance", interrupted)
    with pytest.raises(KeyboardInterrupt):
        asked("a0", "b0", "c0")
    with store.reading() as connection:
        counts = connection.execute("SELECT count(*), count(DISTINCT request_id) FROM completion").fetchall()
    assert counts == [(2, 2)]


def test_what_was_not_answered_at_all_is_a_gap(store: Store) -> None:
    def silent(requests: Sequence[ReasoningRequest]) -> Iterator[tuple[int, Completion | Gap]]:
        yield 1, written("only this")

    asked = Asked(store, improving)
    asked.backend.complete = silent  # type: ignore[method-assign]
    assert asked("a0", "b0") == [Gap("the backend gave no answer"), written("only this")]
    assert len(load_completions(store, asking._request_ids(asked.context, LLM, [request("b0")]))) == 1


def test_reasons_are_grouped_and_the_most_frequent_comes_first() -> None:
    gaps = [Gap(reason) for reason in ("b", "a", "a", "c", "c", "c", "d", "e", "a")]
    assert reasons_in_words(gaps) == "a (3), c (3), b (1), 2 other reasons (2)"


def test_the_meter_tells_what_is_known() -> None:
    now = iter((0.0, 2.0, 4.0, 5.0))
    meter = Meter(lambda: next(now))
    meter.add(Completion("t", "stop", 0, 0, 100))
    assert meter.note() == "50 tokens/s"
    meter.add(Completion("t", "stop", 1000, 940, 100, 1.0, 0.0125))
    assert meter.note() == "50 tokens/s, 94 % cached, $0.0125"
    meter.add(Gap("timeout"))
    assert meter.note() == "40 tokens/s, 94 % cached, $0.0125, 1 gap (last: timeout)"
