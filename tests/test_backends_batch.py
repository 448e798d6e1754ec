"""The openai backend through a Batch API: a real HTTP server on this machine, and a ledger in a real store."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from batch_api import KEY, BatchApi, expired, hasten, refused, said, serving

from cdner.config import Execution, Llm
from cdner.errors import BackendError, UsageError
from cdner.llm.batch import BatchBackend, open_batch
from cdner.llm.batch import backend as backend_module
from cdner.llm.batch import server as server_module
from cdner.llm.batch.backend import MAX_ROUNDS
from cdner.llm.batch.rows import portions, request_line
from cdner.llm.chat import Budget
from cdner.store import Store, batches
from cdner.store.batches import BatchLedger, list_batches
from cdner.store.llm_log import save_completions, save_requests
from cdner.types import Completion, Gap, Message, ReasoningRequest, Sampling

MODEL = "gpt-4o-mini"
LLM = Llm(model=MODEL)


class Spoken:
    """What a Progress was told."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def start(self, label: str, total: int | None = None) -> None:
        self.said.append(label)

    def advance(self, n: int = 1, note: str = "") -> None:
        self.said.append(note)


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[BatchApi]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("CDNER_PRICES", raising=False)
    for module, names in ((backend_module, ("FIRST_PAUSE", "LONGEST_PAUSE")), (server_module, ("PAUSE",))):
        for name in names:
            monkeypatch.setattr(module, name, getattr(module, name))  # restored after hasten()
    hasten()
    with serving(BatchApi()) as served:
        yield served


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "s.duckdb")


def ask(text: str, seed: int = 0) -> ReasoningRequest:
    return ReasoningRequest((Message("system", "fixed"), Message("user", text)), Sampling(9, seed=seed))


def texts(n: int) -> list[ReasoningRequest]:
    return [ask(f"text {number}") for number in range(n)]


def backend_for(
    api: BatchApi, store: Store, *, spoken: Spoken | None = None, **execution: Any
) -> BatchBackend:
    settings = Execution(base_urls=(api.url,), timeout_seconds=10.0, batch=True, **execution)
    ledger = BatchLedger(store, "openai", MODEL)
    return open_batch(LLM, settings, Budget.of(settings), ledger=ledger, progress=spoken or Spoken())


def complete(
    api: BatchApi, store: Store, requests: Sequence[ReasoningRequest], **options: Any
) -> dict[int, Completion | Gap]:
    """As the pipeline does it: requests stored before, completions after."""
    ids = save_requests(store, "openai", MODEL, requests)
    backend = backend_for(api, store, **options)
    found: dict[int, Completion | Gap] = {}
    for index, outcome in backend.complete(requests):
        assert index not in found
        found[index] = outcome
    answers = [(ids[index], outcome) for index, outcome in found.items() if isinstance(outcome, Completion)]
    save_completions(store, "a run", answers)
    backend.close()
    return found


def reasons(outcomes: Mapping[int, Completion | Gap]) -> list[str]:
    return [outcome.reason for outcome in outcomes.values() if isinstance(outcome, Gap)]


# --- what goes up and comes down ---------------------------------------------------------------------------


def test_each_request_gets_its_own_answer_whatever_the_order_of_the_rows(api: BatchApi, store: Store) -> None:
    api.row = lambda n, name, body: said(name, body, prompt_tokens_details={"cached_tokens": 512})
    outcomes = complete(api, store, texts(12))
    assert outcomes == {
        number: Completion(f"answer to text {number}", "stop", 1000, 512, 100) for number in range(12)
    }
    assert {outcome.seconds for outcome in outcomes.values() if isinstance(outcome, Completion)} == {90.0}
    assert len(api.batches) == 1 and len(api.paid) == 12


def test_a_request_is_sent_as_a_direct_one_would_be(api: BatchApi, store: Store) -> None:
    schema = '{"type":"object","properties":{"z":{"type":"string"},"a":{"type":"string"}}}'
    request = ReasoningRequest(
        (Message("user", "Zürich\u2028東京"),), Sampling(9, temperature=0.3, seed=4, stop=("<end>",)), schema
    )
    complete(api, store, [request])
    (line,) = api.lines_of(1)
    assert (line["method"], line["url"]) == ("POST", "/v1/chat/completions")
    assert line["custom_id"] == BatchLedger(store, "openai", MODEL).name(request)
    body = line["body"]
    assert body["messages"] == [{"role": "user", "content": "Zürich\u2028東京"}]
    sampling = ("model", "max_tokens", "temperature", "seed", "stop")
    assert [body[key] for key in sampling] == [MODEL, 9, 0.3, 4, ["<end>"]]
    asked = body["response_format"]["json_schema"]["schema"]
    assert list(asked["properties"]) == ["z", "a"]


def test_a_line_separator_in_an_answer_ends_no_row(api: BatchApi, store: Store) -> None:
    (outcome,) = complete(api, store, [ask("one\u2028two\x85three")]).values()
    assert isinstance(outcome, Completion) and outcome.text == "answer to one\u2028two\x85three"


def test_equal_requests_are_one_line_and_each_gets_the_answer(api: BatchApi, store: Store) -> None:
    outcomes = complete(api, store, [ask("same"), ask("other"), ask("same")])
    assert outcomes[0] == outcomes[2] and len(api.paid) == 2


def test_probabilities_of_choices_are_refused_before_anything_is_sent(api: BatchApi, store: Store) -> None:
    judged = replace(ask("b"), sampling=Sampling(1, choices=(" a", " b")))
    with pytest.raises(BackendError, match="Leave out --batch"):
        complete(api, store, [ask("a"), judged])
    assert not api.batches


def test_no_requests_need_no_server(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = BatchLedger(store, "openai", MODEL)
    with store.transaction():
        pass
    execution = Execution(base_urls=("http://127.0.0.1:9/v1",), batch=True)
    assert (
        list(open_batch(LLM, execution, Budget.of(execution), ledger=ledger, progress=Spoken()).complete([]))
        == []
    )


def test_a_batch_holds_no_more_than_it_may() -> None:
    sizes = [(str(number), 10) for number in range(7)]
    assert list(portions(sizes, max_requests=3)) == [["0", "1", "2"], ["3", "4", "5"], ["6"]]
    assert [len(names) for names in portions(sizes, max_requests=50, max_bytes=20)] == [2, 2, 2, 1]
    assert list(portions([("large", 99)], max_requests=50, max_bytes=20)) == [["large"]]
    assert list(portions([], max_requests=50)) == []


def test_many_requests_are_several_batches(
    api: BatchApi, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend_module, "MAX_REQUESTS", 4)
    outcomes = complete(api, store, texts(10))
    assert sorted(outcomes) == list(range(10)) and reasons(outcomes) == []
    assert sorted(len(api.lines_of(n)) for n in (1, 2, 3)) == [2, 4, 4]
    assert len(api.paid) == len(set(api.paid)) == 10


# --- rows that are no answers ------------------------------------------------------------------------------


def test_rows_without_an_answer_are_sent_again_in_a_new_batch(api: BatchApi, store: Store) -> None:
    def row(n: int, name: str, body: dict[str, Any]) -> Any:
        asked = body["messages"][-1]["content"]
        broken = {
            "text 1": refused(name, 500, "oops"),
            "text 2": expired(name),
            "text 3": None,
            "text 4": '{"custom_id": "' + name + '", "response": {"stat',
            "text 5": "[" * 50_000,
            "text 6": '{"custom_id": 7}',
        }
        return broken[asked] if n == 1 and asked in broken else said(name, body)

    api.row = row
    outcomes = complete(api, store, texts(8))
    assert reasons(outcomes) == [] and len(outcomes) == 8
    again = {line["body"]["messages"][-1]["content"] for line in api.lines_of(2)}
    assert again == {f"text {number}" for number in range(1, 7)}
    first, second = sorted(list_batches(store), key=lambda batch: batch.round)
    assert (first.round, first.n_requests, first.n_failed) == (1, 8, 6)
    assert (second.round, second.n_requests, second.n_failed, second.n_answered) == (2, 6, 0, 6)


def test_a_row_that_comes_twice_counts_once_and_an_answer_more_than_an_error(
    api: BatchApi, store: Store
) -> None:
    api.row = lambda n, name, body: [  # type: ignore[return-value]
        said(name, body),
        said(name, body),
        refused(name, 500, "oops"),
        said("a stranger", body),
    ]
    assert reasons(complete(api, store, texts(3))) == []
    assert len(api.batches) == 1


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (lambda name, body: refused(name, 400, "context too long"), "Error code: 400 - context too long"),
        (lambda name, body: refused(name, 401, f"bad key {KEY}"), "Error code: 401 - bad key [key]"),
    ],
)
def test_a_request_the_server_refuses_is_a_gap_at_once(
    api: BatchApi, store: Store, row: Any, reason: str
) -> None:
    api.row = lambda n, name, body: row(name, body)
    assert reasons(complete(api, store, texts(2))) == [reason, reason]
    assert len(api.batches) == 1


def test_an_answer_without_text_is_the_gap_it_is_when_asked_directly(api: BatchApi, store: Store) -> None:
    def row(n: int, name: str, body: dict[str, Any]) -> Any:
        answer = said(name, body)
        message = {"content": None, "refusal": "I would rather not."}
        broken = {"text 0": {"choices": []}, "text 1": {"choices": [{"message": message}]}}
        text = body["messages"][-1]["content"]
        answer["response"]["body"] = broken.get(text, answer["response"]["body"])
        return answer

    api.row = row
    outcomes = complete(api, store, texts(3))
    assert outcomes[1] == Gap("refused")
    assert isinstance(outcomes[0], Gap) and outcomes[0].reason.startswith("malformed answer: choices")
    assert isinstance(outcomes[2], Completion) and len(api.batches) == 1


def test_a_cut_answer_says_so(api: BatchApi, store: Store) -> None:
    def row(n: int, name: str, body: dict[str, Any]) -> Any:
        answer = said(name, body)
        answer["response"]["body"]["choices"][0]["finish_reason"] = "length"
        return answer

    api.row = row
    (outcome,) = complete(api, store, texts(1)).values()
    assert isinstance(outcome, Completion) and outcome.finish_reason == "length"


# --- batches that fail -------------------------------------------------------------------------------------


@pytest.mark.parametrize("fate", ["failed", "expired", "cancelled"])
def test_a_batch_that_ends_badly_is_sent_again_without_what_it_has_answered(
    api: BatchApi, store: Store, fate: str
) -> None:
    api.fate = lambda n: fate if n == 1 else "completed"
    api.problem = lambda n: {"code": "server_error", "message": "try again"}
    api.row = lambda n, name, body: (
        None if n == 1 and body["messages"][-1]["content"] != "text 0" else said(name, body)
    )
    assert reasons(complete(api, store, texts(4))) == []
    assert len(api.lines_of(2)) == (4 if fate == "failed" else 3)
    assert len(api.paid) == 4


def test_what_keeps_failing_is_a_gap_after_the_last_round_and_is_sent_anew_by_the_next_command(
    api: BatchApi, store: Store
) -> None:
    api.row = lambda n, name, body: refused(name, 500, "oops")
    assert reasons(complete(api, store, texts(2))) == ["Error code: 500 - oops"] * 2
    assert len(api.batches) == MAX_ROUNDS
    api.row = lambda n, name, body: said(name, body)
    assert reasons(complete(api, store, texts(2))) == []
    assert [batch.round for batch in list_batches(store)] == [1, *range(MAX_ROUNDS, 0, -1)]


def test_a_failed_batch_says_why(api: BatchApi, store: Store) -> None:
    api.fate = lambda n: "failed"
    api.problem = lambda n: {"code": "model_not_found", "message": "No such model", "line": 1}
    (reason,) = reasons(complete(api, store, texts(1)))
    assert reason == f"batch_{MAX_ROUNDS} failed: No such model"


def test_a_full_queue_is_filled_with_smaller_batches_one_by_one(api: BatchApi, store: Store) -> None:
    running: list[int] = []
    api.fate = lambda n: "failed" if len(api.lines_of(n)) > 3 else "completed"
    api.problem = lambda n: {"code": "token_limit_exceeded", "message": "Enqueued token limit reached"}
    api.refuse = lambda method, path: (
        running.append(sum(batch["status"] in api.life for batch in api.batches))  # type: ignore[func-returns-value]
        if (method, path) == ("POST", "batches")
        else None
    )
    assert reasons(complete(api, store, texts(10))) == []
    assert [len(api.lines_of(n)) for n in range(1, len(api.batches) + 1)] == [10, 5, 5, 2, 2, 1, 2, 2, 1]
    assert set(running) == {0}, "none was made while another was waiting"


def test_files_that_the_server_no_longer_keeps_are_sent_again(api: BatchApi, store: Store) -> None:
    api.refuse = lambda method, path: (
        (404, '{"error": {"message": "No such File object"}}')
        if path == "files/file-output-1/content"
        else None
    )
    assert reasons(complete(api, store, texts(2))) == []
    assert len(api.batches) == 2


# --- a server that is not well -----------------------------------------------------------------------------


@pytest.mark.parametrize("instead", [(200, "{}"), (500, "oops"), (409, "busy")])
def test_a_creation_whose_answer_was_lost_is_looked_for_before_it_is_tried_again(
    api: BatchApi, store: Store, instead: tuple[int, str]
) -> None:
    api.lost_creations.append(instead)
    assert reasons(complete(api, store, texts(3))) == []
    assert len(api.batches) == 1 and len(api.paid) == 3


def test_a_refused_creation_is_tried_again_with_the_same_file(api: BatchApi, store: Store) -> None:
    api.refuse = _first((503, "busy"), "POST", "batches")
    assert reasons(complete(api, store, texts(3))) == []
    assert [call for call in api.calls if call.startswith("POST")] == [
        "POST files",
        "POST batches",
        "POST batches",
    ]


def test_an_upload_that_is_tried_again_is_whole(api: BatchApi, store: Store) -> None:
    api.refuse = _first((500, "oops"), "POST", "files")
    assert reasons(complete(api, store, texts(3))) == []
    assert len(api.lines_of(1)) == 3


def test_looking_goes_on_while_the_server_does_not_answer(
    api: BatchApi, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    n_looks: list[int] = []

    def refuse(method: str, path: str) -> tuple[int, str] | None:
        if path == "batches/batch_1":
            n_looks.append(1)
            return (503, "busy") if len(n_looks) < 12 else None
        return None

    api.refuse = refuse
    monkeypatch.setattr("cdner.llm.batch.MAX_RETRIES", 0)
    spoken = Spoken()
    assert reasons(complete(api, store, texts(2), spoken=spoken)) == []
    assert any("no answer of the server" in line for line in spoken.said)
    monkeypatch.setattr(backend_module, "PATIENCE", 0.0)
    api.refuse = lambda method, path: (503, "busy") if path == "batches/batch_2" else None
    with pytest.raises(BackendError, match=r"Cannot reach.*batch_2.*Run the same command again"):
        complete(api, store, [ask("another")])


@pytest.mark.parametrize("path", ["files", "batches"])
def test_a_refused_key_stops_at_once(api: BatchApi, store: Store, path: str) -> None:
    api.refuse = lambda method, called: (
        (401, json.dumps({"error": {"message": f"Incorrect API key: {KEY}"}})) if called == path else None
    )
    with pytest.raises(BackendError, match=r"Incorrect API key: \[key\]") as caught:
        complete(api, store, texts(2))
    assert KEY not in str(caught.value)


def test_a_server_without_a_batch_api_is_named_as_such(api: BatchApi, store: Store) -> None:
    api.refuse = lambda method, path: (404, '{"detail": "Not Found"}')
    with pytest.raises(BackendError, match=r"no Batch API.*Leave out --batch"):
        complete(api, store, texts(2))


# --- money -------------------------------------------------------------------------------------------------


@pytest.fixture
def prices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "prices.toml"
    file.write_text(
        f'[models."{MODEL}"]\ninput = 1.0\ncached_input = 0.5\noutput = 2.0\nbatch_factor = 0.5\n'
    )
    monkeypatch.setenv("CDNER_PRICES", str(file))


def test_an_answer_costs_half(api: BatchApi, store: Store, prices: None) -> None:
    api.row = lambda n, name, body: said(name, body, prompt_tokens_details={"cached_tokens": 400})
    (outcome,) = complete(api, store, texts(1)).values()
    assert isinstance(outcome, Completion)
    assert outcome.cost_usd == pytest.approx(0.5 * (600 * 1.0 + 400 * 0.5 + 100 * 2.0) / 1e6)


def test_too_many_requests_or_too_high_a_cost_sends_nothing(
    api: BatchApi, store: Store, prices: None
) -> None:
    spoken = Spoken()
    with pytest.raises(BackendError, match=r"Nothing was sent.*5 requests.*--max-requests"):
        complete(api, store, texts(5), max_requests=4)
    with pytest.raises(BackendError, match=r"Nothing was sent.*\$0\.0001.*--max-cost"):
        complete(api, store, texts(5), max_cost=0.00001)
    assert api.calls == []
    assert reasons(complete(api, store, texts(5), max_requests=5, max_cost=1.0, spoken=spoken)) == []
    assert spoken.said[0].startswith("batch: 5 requests, about 95 input tokens, at most about $0.0001")


def test_the_limits_hold_over_all_batches_of_a_command(api: BatchApi, store: Store) -> None:
    save_requests(store, "openai", MODEL, [*texts(5), *[ask("x", n) for n in range(3)]])
    backend = backend_for(api, store, max_requests=6)
    assert len(list(backend.complete(texts(5)))) == 5
    with pytest.raises(BackendError, match="Nothing was sent"):
        list(backend.complete([ask("x", n) for n in range(3)]))


# --- other commands ----------------------------------------------------------------------------------------


def test_answers_not_stored_are_fetched_again_and_not_paid_for_again(api: BatchApi, store: Store) -> None:
    requests = texts(6)
    save_requests(store, "openai", MODEL, requests)
    backend = backend_for(api, store)
    assert len(list(backend.complete(requests))) == 6  # and nobody stores them
    assert reasons(complete(api, store, requests[:4])) == []
    assert reasons(complete(api, store, requests)) == []
    assert len(api.paid) == 6 and len(api.batches) == 1


def test_a_batch_cancelled_by_the_user_is_not_sent_again_by_the_command_that_waits(
    api: BatchApi, store: Store
) -> None:
    api.row = lambda n, name, body: (
        said(name, body) if n > 1 or "0" in body["messages"][-1]["content"] else None
    )
    api.looked.hold()
    found: dict[int, Completion | Gap] = {}
    waiting = threading.Thread(target=lambda: found.update(complete(api, store, texts(3))))
    waiting.start()
    assert api.looked.reached.wait(20)
    (batch,) = list_batches(store)
    batches.record_status(store, batch.submission_id, batch.status, cancel_asked=True)
    api.cancel(api.batches[0])
    api.looked.open()
    waiting.join(20)
    assert isinstance(found[0], Completion) and reasons(found) == ["batch_1 cancelled"] * 2
    assert len(api.batches) == 1
    assert reasons(complete(api, store, texts(3)[1:])) == []
    assert len(api.batches) == 2 and len(api.paid) == 3


@pytest.mark.parametrize("is_there", [True, False])
def test_a_batch_whose_id_nobody_stored_is_found_in_the_server_s_list(
    api: BatchApi, store: Store, is_there: bool
) -> None:
    requests = texts(3)
    save_requests(store, "openai", MODEL, requests)
    ledger, server = BatchLedger(store, "openai", MODEL), backend_for(api, store)._server
    names = [ledger.name(request) for request in requests]
    submission = ledger.announce(names, server=server.identity, round_n=1)
    if is_there:
        lines = [request_line(name, {"messages": [{"content": name}]}) for name in names]
        server.hand_over(submission.submission_id, lines)
    for number in range(230):  # younger ones of somebody else: three pages
        api.batches.append(_stranger(number))
    assert reasons(complete(api, store, requests)) == []
    assert len(api.paid) == 3
    assert sum(call == "POST batches" for call in api.calls) == 1
    assert [batch.is_named for batch in list_batches(store)] == [True]


def test_requests_that_another_process_is_handing_over_are_waited_for(api: BatchApi, store: Store) -> None:
    requests = texts(3)
    save_requests(store, "openai", MODEL, requests)
    ledger = BatchLedger(store, "openai", MODEL)
    here = backend_for(api, store)
    submission = ledger.announce(
        [ledger.name(request) for request in requests], server=here._server.identity, round_n=1
    )
    with store.transaction() as connection:  # by the process that started this one, which lives
        connection.execute("UPDATE batch SET pid = ?, process_start = ''", [os.getppid()])
    spoken, found = Spoken(), {}
    waiting = threading.Thread(target=lambda: found.update(complete(api, store, requests, spoken=spoken)))
    waiting.start()
    deadline = time.monotonic() + 20
    while not spoken.said and time.monotonic() < deadline:
        time.sleep(0.02)
    assert "waiting: another process" in spoken.said[0]
    assert api.calls == []
    lines = [
        request_line(ledger.name(request), {"model": MODEL, "messages": [{"content": "x"}]})
        for request in requests
    ]
    batch = here._server.hand_over(submission.submission_id, lines)
    ledger.record(submission.submission_id, batch_id=batch.id, input_file_id="", status=batch.status)
    waiting.join(20)
    assert len(found) == 3 and reasons(found) == [] and len(api.batches) == 1


def test_a_batch_at_another_server_is_not_asked_for_here(api: BatchApi, store: Store) -> None:
    requests = texts(2)
    save_requests(store, "openai", MODEL, requests)
    list(backend_for(api, store).complete(requests))
    with serving(BatchApi()) as other:
        assert reasons(complete(other, store, requests)) == []
        assert len(other.paid) == 2
    assert {batch.server_hash for batch in list_batches(store)} != {list_batches(store)[0].server_hash}


def test_a_batch_the_server_does_not_know_is_an_error_that_says_the_way_out(
    api: BatchApi, store: Store
) -> None:
    requests = texts(2)
    save_requests(store, "openai", MODEL, requests)
    list(backend_for(api, store).complete(requests))
    api.batches.clear()
    with pytest.raises(BackendError, match=r"knows no batch batch_1.*another key.*cancel batch_1 --yes"):
        complete(api, store, requests)


# --- who may ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["vllm", "local", "scripted"])
def test_only_openai_has_batches(store: Store, name: str) -> None:
    ledger = BatchLedger(store, name, "m")
    with pytest.raises(UsageError, match=f"'{name}' has no Batch API.*--batch"):
        open_batch(
            Llm(backend=name, model="m"), Execution(batch=True), Budget(), ledger=ledger, progress=Spoken()
        )


def test_a_batch_goes_to_one_server(store: Store) -> None:
    execution = Execution(batch=True, base_urls=("http://a/v1", "http://b/v1"))
    ledger = BatchLedger(store, "openai", MODEL)
    with pytest.raises(UsageError, match="one server"):
        open_batch(LLM, execution, Budget.of(execution), ledger=ledger, progress=Spoken())


def test_the_key_goes_to_the_server_and_nowhere_else(
    api: BatchApi, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    api.row = lambda n, name, body: refused(name, 400, f"bad key {KEY} or sk-very*******6789")
    spoken = Spoken()
    said_of = reasons(complete(api, store, texts(2), spoken=spoken))
    assert api.authorizations == {f"Bearer {KEY}"}
    assert len(said_of) == 2
    for text in [*said_of, *spoken.said, caplog.text]:
        assert KEY not in text and "6789" not in text
    assert KEY.encode() not in store.path.read_bytes()


def _stranger(number: int) -> dict[str, Any]:
    return {
        "id": f"other_{number}",
        "status": "completed",
        "created_at": 4_000_000_000,
        "metadata": {"a": "b"},
    }


def _first(answer: tuple[int, str], method: str, path: str) -> Any:
    """Refuse the first such call only."""
    left = [answer]
    return lambda called, where: left.pop() if (called, where) == (method, path) and left else None
