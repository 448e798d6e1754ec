"""What --dry-run says beforehand and what the last lines of a command say afterwards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pipeline_experiments import (
    CALLS,
    N_TEST,
    N_TYPES,
    calls,
    cdner,
    copy_of,
    finished_store,
    sql,
    write_experiment,
)

from cdner.config import Llm
from cdner.console.usage import usage_line
from cdner.experiment import forecast
from cdner.llm.prices import cost_usd, price_of
from cdner.store.llm_log import Account, LlmUsage
from cdner.types import Message, ReasoningRequest, Sampling

TEST_STEP = "reason:full/test"


@pytest.fixture(autouse=True)
def _log_of_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CALLS, str(tmp_path / "calls"))
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))  # what lies in this machine's is no matter


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return copy_of(finished_store("seq2seq"), tmp_path / "copy")


def planned(store: Path, *options: object) -> dict[str, dict[str, Any]]:
    rows = cdner(store, "reason", "--split", "test", "--dry-run", "--json", *options).rows
    return {row["step"]: row for row in rows}


def test_a_dry_run_counts_calls_tokens_and_cost_and_asks_nobody(store: Path, tmp_path: Path) -> None:
    experiment = write_experiment(tmp_path)
    n_attempts = sql(store, "SELECT count(*) FROM attempt")
    gpt = ("--set", "reason.backend=openai", "--set", "reason.model=gpt-4o-mini")
    row = planned(store, "-e", experiment, *gpt)[TEST_STEP]
    assert (row["state"], row["llm_calls"], row["stored"], row["counted_by"]) == (
        "absent",
        N_TEST,
        0,
        "estimate",
    )
    assert row["max_output_tokens"] == 700 * N_TEST
    price = price_of("gpt-4o-mini")
    assert price is not None
    most = cost_usd(
        price, input_tokens=row["prompt_tokens"], cached_tokens=0, output_tokens=row["max_output_tokens"]
    )
    assert row["cost_usd_to"] == pytest.approx(most)
    assert 0 < row["cost_usd_from"] < most
    half = planned(store, "-e", experiment, *gpt, "--batch")[TEST_STEP]
    assert half["cost_usd_to"] == pytest.approx(most / 2)
    assert calls() == []
    assert sql(store, "SELECT count(*) FROM attempt") == n_attempts


def test_a_dry_run_says_what_is_stored_and_what_is_not_known_yet(store: Path, tmp_path: Path) -> None:
    experiment = write_experiment(tmp_path)
    done = planned(store, "-e", experiment)[TEST_STEP]
    assert (done["state"], done["llm_calls"], done["prompt_tokens"]) == ("done", 0, 0)
    more = planned(store, "-e", experiment, "--set", "corpora.n_target_test=6")[TEST_STEP]
    assert more["llm_calls"] + more["stored"] == 6
    assert more["stored"] >= 1
    unknown = planned(store, "-e", experiment, "--set", "train_source.epochs=3")
    assert (unknown[TEST_STEP]["llm_calls"], unknown[TEST_STEP]["counted_by"]) == (N_TEST, "unknown")
    assert unknown[TEST_STEP]["prompt_tokens"] is None
    shown = cdner(store, "reason", "-e", experiment, "--dry-run", "--set", "train_source.epochs=3")
    assert "unknown" in shown.out


def test_tokens_are_counted_with_the_models_own_tokenizer_where_it_is_here(tiny_llama: Path) -> None:
    from cdner.models.chat_tokenizer import open_chat_tokenizer

    folder = str(tiny_llama)
    tokenizer = open_chat_tokenizer(folder)
    chats = [(Message("system", "fixed " * 30), Message("user", f"sentence {n}")) for n in range(3)]
    lengths, counted_by = forecast._lengths(Llm(backend="vllm", model=folder), chats)
    assert (lengths, counted_by) == (tokenizer.lengths(chats), "tokenizer")
    estimated, counted_by = forecast._lengths(Llm(backend="openai", model=folder), chats)
    assert (estimated, counted_by) == ([(180 + 10 + 3) // 4] * 3, "estimate")
    absent = Llm(backend="vllm", model=str(tiny_llama / "absent"))
    assert forecast._lengths(absent, chats) == (estimated, "estimate")


def test_a_beginning_counts_as_cached_from_its_second_request_on() -> None:
    fixed = Message("system", "fixed")
    requests = [ReasoningRequest((fixed, Message("user", str(n))), Sampling(9)) for n in range(3)]
    alone = [ReasoningRequest((Message("user", str(n)),), Sampling(9)) for n in range(3)]
    assert forecast._shared_beginnings([*requests, *alone], set()) == [(fixed,), (fixed,)]


@pytest.mark.slow
def test_a_command_ends_with_what_its_llm_calls_took(store: Path, tmp_path: Path) -> None:
    command = ("reason", "-e", write_experiment(tmp_path), "--split", "test", "--set", "reason.model=another")
    ran = cdner(store, *command, "--json")
    lines = [
        line for line in ran.err.splitlines() if line.startswith((TEST_STEP + ": recorded", "describe:"))
    ]
    assert len(lines) == 2
    before = " (done before, nothing asked now): "
    assert lines[0].startswith(f"describe:target{before}recorded listener: {N_TYPES} calls, 0 answers")
    assert lines[1].startswith(
        f"{TEST_STEP}: recorded another: {N_TEST} calls, 0 answers of other runs reused"
    )
    assert f"finish stop {N_TEST}" in lines[1]
    assert f"  {TEST_STEP}: {N_TEST}/{N_TEST}, " in ran.err
    assert "tokens/s" in ran.err
    assert json.loads(ran.out)[0]["state"] == "done"
    again = cdner(store, *command, "--json")
    assert again.rows[0]["state"] == "found"
    took = lines[1].removeprefix(f"{TEST_STEP}: ")
    assert f"{TEST_STEP}{before}{took}" in again.err.splitlines()
    assert len(calls()) == N_TEST
    assert cdner(store.parent / store.name, "--quiet", *command).err == ""


@pytest.mark.slow
def test_answers_that_stay_of_no_use_are_used_as_they_are_and_counted(store: Path, tmp_path: Path) -> None:
    script = tmp_path / "script.jsonl"
    script.write_text(json.dumps({"match": "", "text": "Prose without any part."}) + "\n")
    scripted = ("--set", "reason.backend=scripted", "--set", f"reason.model={script}")
    command = ("reason", "-e", write_experiment(tmp_path), "--split", "test", *scripted)
    ran = cdner(store, *command, "--json")
    assert ran.code == 0, ran.err
    assert f": {3 * N_TEST} calls ({2 * N_TEST} retries)" in ran.err
    assert f"{N_TEST} texts in use without a part that was asked for" in ran.err
    run_id = ran.rows[0]["run_id"]
    columns = "split, n_requests, n_calls, n_retries, n_malformed, n_parse_failures, n_gaps"
    (usage,) = sql(store, f"SELECT {columns} FROM llm_usage WHERE run_id = '{run_id}'")
    assert usage == ("test", N_TEST, 3 * N_TEST, 2 * N_TEST, N_TEST, N_TEST, 0)
    replayed = cdner(store, *command, "--force", "--backend", "replay", "--json")
    assert (replayed.code, replayed.rows[0]["state"]) == (0, "done")


def test_the_usage_line_names_retries_money_and_what_is_wrong() -> None:
    account = Account(
        run_id="r",
        backend_family="openai",
        model="gpt-4o-mini",
        n_calls=1200,
        n_input_tokens=210_000,
        n_cached_tokens=197_400,
        cached_share=0.94,
        n_output_tokens=30_100,
        cost_usd=0.01234,
        call_seconds=90.0,
        wall_seconds=35.04,
        n_gaps=2,
        n_malformed=5,
        n_parse_failures=1,
        finish_reasons={"length": 2, "stop": 1198},
    )
    usage = LlmUsage(account=account, split="test", n_requests=9, n_answered=8, n_reused=1, n_retries=1)
    took = (
        "; 210,000 prompt tokens (94 % cached), 30,100 written; $0.0123; 35.0 s; finish stop 1198, length 2; "
        "1 text in use without a part that was asked for; 2 gaps"
    )
    known = "openai gpt-4o-mini: 1,200 calls"
    assert usage_line(usage) == f"{known} (1 retry), 1 answer of other runs reused{took}"
    elsewhere = "(retries and answers of other runs: cdner sql @llm_usage)"
    assert usage_line(account) == f"{known} {elsewhere}{took}"
