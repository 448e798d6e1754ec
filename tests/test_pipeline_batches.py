"""``cdner ... --batch`` as real processes against a Batch API on this machine: killed anywhere, paid for once."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from batch_api import KEY, BatchApi, hasten, said, serving
from pipeline_experiments import (
    CALLS,
    N_SENTENCES,
    N_TYPES,
    cdner,
    copy_of,
    ended,
    finished_store,
    sql,
    start_cdner,
    write_experiment,
)

MODEL = "gpt-4o-mini"
LONG = 240.0  # seconds a process may take to start on a loaded machine
GATES = ("uploaded", "created", "looked", "fetched")


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[BatchApi]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv(CALLS, str(tmp_path / "calls"))
    monkeypatch.setattr("cdner.llm.batch.backend.FIRST_PAUSE", 0.02)
    monkeypatch.setattr("cdner.llm.batch.server.PAUSE", 0.02)
    with serving(BatchApi()) as served:
        served.row = lambda n, name, body: said(name, body, f"A thing described as number {name[:6]}.")
        monkeypatch.setenv("OPENAI_BASE_URL", served.url)
        yield served


def describing(*more: str) -> tuple[str, ...]:
    """A command that asks an LLM and needs no trained model."""
    llm = ("--backend", "openai", "--model", MODEL, "--batch")
    return ("describe", "--source", "newsdesk", "--target", "film", *llm, *more)


def start_describing(store: Path, api: BatchApi, log: Path) -> int:
    """The command as a process that has come to the gate that is held; its exit code after ``kill``."""
    environment = {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": api.url, "NO_PROXY": "127.0.0.1"}
    return start_cdner(store, *describing(), log=log, patch=hasten, **environment)  # type: ignore[return-value]


def n_completions(store: Path) -> int:
    ((n,),) = sql(store, "SELECT count(*) FROM completion")
    return int(n)


@pytest.mark.slow
def test_a_command_killed_anywhere_is_started_again_and_pays_once(api: BatchApi, tmp_path: Path) -> None:
    for name in GATES:
        n_paid, n_batches = len(api.paid), len(api.batches)
        store, log, gate = tmp_path / name / "s.duckdb", tmp_path / f"{name}.log", getattr(api, name)
        gate.hold()
        process = start_describing(store, api, log)
        assert gate.reached.wait(LONG), (name, log.read_text())
        os.kill(process.pid, signal.SIGKILL)  # type: ignore[attr-defined]
        assert ended(process) == -signal.SIGKILL  # type: ignore[arg-type]
        gate.open()
        assert n_completions(store) == 0, name
        again = cdner(store, *describing())
        assert again.code == 0, (name, again.err)
        assert n_completions(store) == N_TYPES, name
        assert len(api.batches) == n_batches + 1, f"{name}: a second batch"
        assert len(api.paid) == n_paid + N_TYPES, f"{name}: paid twice"
        assert cdner(store, "store", "verify").code == 0, name
        calls = len(api.calls)
        assert cdner(store, *describing()).code == 0
        assert len(api.calls) == calls, f"{name}: a finished run asks again"


@pytest.mark.slow
def test_ctrl_c_says_that_the_batch_goes_on_and_how_to_get_at_it(api: BatchApi, tmp_path: Path) -> None:
    store, log = tmp_path / "s.duckdb", tmp_path / "log"
    api.life = ("in_progress",) * 100_000
    process = start_describing(store, api, log)
    assert api.looked.reached.wait(LONG)
    os.kill(process.pid, signal.SIGINT)  # type: ignore[attr-defined]
    assert ended(process) == 130  # type: ignore[arg-type]
    said_last = " ".join(log.read_text().split())
    assert "interrupted" in said_last and "going on at the server: batch_1" in said_last
    assert "Run the same command again" in said_last and "cdner batches cancel batch_1 --yes" in said_last
    assert "Traceback" not in said_last
    (row,) = cdner(store, "batches", "--json").rows
    assert (row["batch_id"], row["model"], row["n_requests"], row["n_answered"]) == (
        "batch_1",
        MODEL,
        N_TYPES,
        0,
    )
    assert row["status"] in ("validating", "in_progress")
    api.life = ("in_progress",)
    assert cdner(store, *describing()).code == 0
    assert (len(api.batches), len(api.paid)) == (1, N_TYPES)
    (row,) = cdner(store, "batches", "--json").rows
    assert (row["status"], row["n_answered"], row["n_failed"]) == ("completed", N_TYPES, 0)


@pytest.mark.slow
def test_reasoning_texts_come_by_batch_as_they_come_directly(api: BatchApi, tmp_path: Path) -> None:
    store = copy_of(finished_store("seq2seq"), tmp_path / "copy")
    experiment = write_experiment(tmp_path, settings=("full",))
    llm = ("--set", "reason.backend=openai", "--set", f"reason.model={MODEL}")
    command = ("run", experiment, "--until", "reason", *llm, "--batch")
    api.row = lambda n, name, body: said(name, body)
    ran = cdner(store, *command, "--json")
    assert ran.code == 0, ran.err
    assert "batch: " in ran.err and "no price known" in ran.err
    n_asked = len({line["custom_id"] for n in range(1, len(api.batches) + 1) for line in api.lines_of(n)})
    assert n_asked == len(api.paid) == N_SENTENCES
    assert len(api.batches) == len([row for row in ran.rows if row["step"].startswith("reason")])
    found = sql(
        store,
        f"SELECT count(*), count(gap_reason), min(length(bidirectional)) > 0 FROM reasoning"
        f" JOIN request USING (request_id) WHERE model = '{MODEL}'",
    )
    assert found == [(N_SENTENCES, 0, True)]
    assert {name for (name,) in sql(store, "SELECT DISTINCT backend_family FROM batch")} == {"openai"}
    assert cdner(store, "store", "verify").code == 0
    api.calls.clear()
    again = cdner(store, "run", experiment, "--until", "reason", *llm)
    assert again.code == 0 and api.calls == [], "what a batch has answered needs no direct call either"


def test_gaps_of_a_batch_end_with_3_and_are_sent_by_the_next_command(api: BatchApi, tmp_path: Path) -> None:
    store = tmp_path / "s.duckdb"
    answer = api.row
    refused_names: list[str] = []

    def row(n: int, name: str, body: dict[str, object]) -> object:
        if not refused_names or name in refused_names:
            refused_names[:] = [name]
            body = {"error": {"message": f"no, {KEY}"}}
            return {"custom_id": name, "response": {"status_code": 400, "body": body}, "error": None}
        return answer(n, name, body)

    api.row = row  # type: ignore[assignment]
    ran = cdner(store, *describing())
    assert ran.code == 3 and "Error code: 400 - no, [key]" in ran.err and KEY not in ran.err
    assert n_completions(store) == N_TYPES - 1
    api.row = answer
    assert cdner(store, *describing()).code == 0
    assert [len(api.lines_of(n)) for n in (1, 2)] == [N_TYPES, 1]
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files and not [path for path in files if KEY.encode() in path.read_bytes()]


def test_batches_are_listed_refreshed_and_cancelled(api: BatchApi, tmp_path: Path) -> None:
    store = tmp_path / "s.duckdb"
    api.refuse = lambda method, path: (403, "{}") if path == "batches/batch_1" else None
    stopped = cdner(store, *describing())
    assert stopped.code == 1 and "batch_1" in stopped.err
    api.refuse = lambda method, path: None
    api.life = ("validating", "in_progress", "finalizing", "finalizing")
    (row,) = cdner(store, "batches", "--refresh", "--json").rows
    assert row["status"] == "in_progress"
    unsure = cdner(store, "batches", "cancel", "batch_1")
    assert unsure.code == 2 and "--yes" in unsure.err
    elsewhere = cdner(store, "batches", "cancel", "batch_1", "--yes", "--base-url", "http://127.0.0.1:9/v1")
    assert elsewhere.code == 2 and "--base-url" in elsewhere.err
    assert cdner(store, "batches", "cancel", "other", "--yes").code == 2
    assert "POST batches/batch_1/cancel" not in api.calls
    cancelled = cdner(store, "batches", "cancel", "batch", "--yes")
    assert (cancelled.code, cancelled.out.strip()) == (0, "batch_1: cancelling")
    assert cdner(store, *describing()).code == 0, "started again, it fetches what there is and sends the rest"
    statuses = {row["batch_id"]: row["status"] for row in cdner(store, "batches", "--json").rows}
    assert statuses["batch_1"] == "cancelled"
    assert len(api.paid) == N_TYPES


def test_asking_directly_beside_an_open_batch_is_warned_of(api: BatchApi, tmp_path: Path) -> None:
    store = tmp_path / "s.duckdb"
    api.refuse = lambda method, path: (403, "{}") if path == "batches/batch_1" else None
    assert cdner(store, *describing()).code == 1
    direct = [option for option in describing() if option != "--batch"]
    asked = cdner(store, *direct)  # this server has no chat completions
    assert asked.code == 1 and "Warning: batch_1 may hold answers that are paid for" in asked.err
    api.refuse = lambda method, path: None
    assert cdner(store, *describing()).code == 0
    with_another_model = cdner(store, *direct, "--model", "gpt-4o")
    assert "Warning" not in with_another_model.err


def test_a_batch_that_the_server_has_lost_can_be_given_up(api: BatchApi, tmp_path: Path) -> None:
    store = tmp_path / "s.duckdb"
    api.refuse = lambda method, path: (403, "{}") if path == "batches/batch_1" else None
    assert cdner(store, *describing()).code == 1
    api.refuse = lambda method, path: (404, "{}") if "batch_1" in path else None
    lost = cdner(store, *describing())
    assert lost.code == 1 and "knows no batch batch_1" in lost.err
    given_up = cdner(store, "batches", "cancel", "batch_1", "--yes")
    assert (given_up.code, given_up.out.strip()) == (0, "batch_1: unknown to the server")
    assert cdner(store, *describing()).code == 0
    assert len(api.batches) == 2


@pytest.mark.parametrize("backend", ["local", "scripted", "recorded"])
def test_batch_with_another_backend_is_a_usage_error(tmp_path: Path, backend: str) -> None:
    store = tmp_path / "s.duckdb"
    ran = cdner(
        store,
        *("describe", "--source", "newsdesk", "--target", "film", "--batch"),
        *("--backend", backend, "--model", "m"),
    )
    assert ran.code == 2 and f"'{backend}' has no Batch API" in ran.err and "--batch" in ran.err


def test_what_is_too_much_is_not_sent(api: BatchApi, tmp_path: Path) -> None:
    store = tmp_path / "s.duckdb"
    ran = cdner(store, *describing("--max-requests", str(N_TYPES - 1)))
    assert ran.code == 1 and f"{N_TYPES} requests" in ran.err and "--max-requests" in ran.err
    assert api.calls == []
