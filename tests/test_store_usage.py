"""The account of LLM calls against plain loops, on random runs that share, repeat and lose answers."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from store_examples import import_corpus

from cdner.store import Store
from cdner.store import llm_log as stored_usage
from cdner.store.confusion import TypeDescription, save_descriptions
from cdner.store.llm_log import (
    Account,
    LlmUsage,
    load_accounts,
    load_usage,
    save_completions,
    save_reasoning,
    save_requests,
)
from cdner.store.runs import begin_attempt, run_spec
from cdner.types import Completion, Gap, Message, ReasoningChain, ReasoningRequest, Sampling

SEED = 5


@dataclass(slots=True)
class Told:
    """What was put into the store for one run, kept in plain lists."""

    calls: list[tuple[ReasoningRequest, Completion]] = field(default_factory=list)
    texts: list[tuple[ReasoningRequest, ReasoningChain | Gap]] = field(default_factory=list)


def request(number: int, n_retries: int = 0) -> ReasoningRequest:
    return ReasoningRequest((Message("user", f"sentence {number}"),), Sampling(9, seed=SEED + n_retries))


def random_completion(generator: random.Random) -> Completion:
    n_input = generator.randrange(1, 500)
    return Completion(
        "text",
        generator.choice(("stop", "length", "tool")),
        n_input,
        generator.randrange(n_input),
        generator.randrange(90),
        seconds=generator.random(),
        cost_usd=generator.choice((None, generator.random())),
    )


def random_text(generator: random.Random) -> ReasoningChain | Gap:
    kinds = ({}, {"code_fence": 1}, {"missing_initial": 1}, {"empty": 1, "missing_bidirectional": 1})
    return generator.choice((Gap("timeout"), *(ReasoningChain("i", "b", kind) for kind in kinds)))


def reason_run(store: Store, corpus_run: str, number: int) -> str:
    spec = run_spec("reason", 1, {"llm": {"seed": SEED}, "number": number}, (corpus_run,))
    begin_attempt(store, spec, {})
    return spec.run_id


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, dict[str, Told]]:
    """Four runs over twelve requests and their retries; what one asks another finds answered."""
    generator = random.Random(8)
    store = Store(tmp_path_factory.mktemp("usage") / "s.duckdb")
    corpus_run = import_corpus(store)
    runs = {reason_run(store, corpus_run, number): Told() for number in range(4)}
    for run_id, run in runs.items():
        asked = [request(generator.randrange(12), generator.randrange(3)) for _ in range(20)]
        run.calls = [(one, random_completion(generator)) for one in asked if generator.random() < 0.6]
        ids = save_requests(store, "openai", "m", asked)
        called = save_requests(store, "openai", "m", [one for one, _ in run.calls])
        save_completions(
            store, run_id, [(key, made) for key, (_, made) in zip(called, run.calls, strict=True)]
        )
        run.texts = [(one, random_text(generator)) for one in asked]
        rows = [(n, key, text) for n, (key, (_, text)) in enumerate(zip(ids, run.texts, strict=True))]
        save_reasoning(store, run_id, rows)
    return store, runs


def in_plain_loops(run_id: str, runs: dict[str, Told]) -> LlmUsage:
    run = runs[run_id]
    made = [completion for _, completion in run.calls]
    own = {one for one, _ in run.calls}
    others = {one for other in runs.values() for one, _ in other.calls}
    used = {one for one, _ in run.texts}
    chains = [text for _, text in run.texts if isinstance(text, ReasoningChain)]
    missing = {"missing_initial", "missing_bidirectional"}
    costs = [completion.cost_usd for completion in made if completion.cost_usd is not None]
    n_input = sum(completion.input_tokens for completion in made)
    n_cached = sum(completion.cached_tokens for completion in made)
    account = Account(
        run_id=run_id,
        backend_family="openai",
        model="m",
        n_calls=len(made),
        n_input_tokens=n_input,
        n_cached_tokens=n_cached,
        cached_share=n_cached / n_input,
        n_output_tokens=sum(completion.output_tokens for completion in made),
        cost_usd=sum(costs),
        call_seconds=sum(completion.seconds for completion in made),
        wall_seconds=max(completion.seconds for completion in made),
        n_gaps=len(run.texts) - len(chains),
        n_malformed=sum(bool(chain.malformed) for chain in chains),
        n_parse_failures=sum(bool(missing & chain.malformed.keys()) for chain in chains),
        finish_reasons=dict(Counter(completion.finish_reason for completion in made)),
    )
    return LlmUsage(
        account=account,
        split="train",
        n_requests=len(used),
        n_answered=len(used & others),
        n_reused=len(used & others - own),
        n_retries=sum(one.sampling.seed != SEED for one, _ in run.calls),
    )


def test_usage_is_what_plain_loops_count(told: tuple[Store, dict[str, Told]]) -> None:
    store, runs = told
    found = load_usage(store, list(runs))
    assert found.keys() == runs.keys()
    for run_id in runs:
        (usage,), expected = found[run_id], in_plain_loops(run_id, runs)
        made, counted = usage.account, expected.account
        rounded = {"cached_share": 0.0, "cost_usd": 0.0, "call_seconds": 0.0, "wall_seconds": 0.0}
        assert replace(usage, account=replace(made, **rounded)) == replace(
            expected, account=replace(counted, **rounded)
        )
        for name in ("cached_share", "cost_usd", "call_seconds"):
            assert getattr(made, name) == pytest.approx(getattr(counted, name))
        assert made.wall_seconds == pytest.approx(counted.wall_seconds, abs=0.05)  # stored in one transaction
        assert 0 < usage.n_reused < usage.n_answered < usage.n_requests
        assert usage.n_retries and made.n_gaps and made.n_parse_failures < made.n_malformed


def test_a_large_run_has_the_same_account_without_its_requests(
    told: tuple[Store, dict[str, Told]], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, runs = told
    for run_id, run in runs.items():
        assert load_accounts(store, [run_id]) == load_usage(store, [run_id])
        monkeypatch.setattr(stored_usage, "JOINED", max(len(run.texts), len(run.calls)) - 1)
        (large,) = load_accounts(store, [run_id])[run_id]
        assert type(large) is Account
        (whole,) = load_usage(store, [run_id])[run_id]
        for name in Account.__dataclass_fields__:
            assert getattr(large, name) == pytest.approx(getattr(whole.account, name)), name
        monkeypatch.undo()


def test_a_large_run_that_has_only_texts_or_only_calls_is_accounted_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored_usage, "JOINED", 0)
    store = Store(tmp_path / "s.duckdb")
    assert load_accounts(store, ["r"]) == {}
    (key,) = save_requests(store, "openai", "m", [request(0)])
    save_completions(store, "called", [(key, Completion("a", "stop", 7, 7, 2))])
    save_reasoning(store, "reused", [(0, key, ReasoningChain("i", "b")), (1, key, Gap("timeout"))])
    (called,), (reused,) = load_accounts(store, ["called", "reused"]).values()
    assert (called.n_calls, called.n_output_tokens, called.n_gaps) == (1, 2, 0)
    assert (reused.n_calls, reused.n_output_tokens, reused.n_gaps) == (0, 0, 1)
    assert (reused.backend_family, reused.model, reused.finish_reasons) == ("openai", "m", {})
    assert load_accounts(store, ["absent"]) == {}
    (from_file,) = save_requests(store, "file", "m@0", [request(0)])
    save_completions(store, "f", [(from_file, Completion("a", "stop", 7, 7, 2))])
    assert load_accounts(store, ["f"]) == {}


def test_answers_from_before_callers_were_recorded_are_reused_ones(tmp_path: Path) -> None:
    store = Store(tmp_path / "s.duckdb")
    (key,) = save_requests(store, "openai", "m", [request(0)])
    save_completions(store, "r", [(key, Completion("text", "stop", 7, 0, 3))])
    with store.transaction() as connection:
        connection.execute("UPDATE completion SET asked_by = NULL, seconds = NULL")
    save_reasoning(store, "r", [(0, key, ReasoningChain("i", "b")), (1, key, ReasoningChain("i", "b"))])
    ((usage,),) = load_usage(store, ["r"]).values()
    assert (usage.n_requests, usage.n_answered, usage.n_reused, usage.account.n_calls) == (1, 1, 1, 0)
    assert (usage.account.n_input_tokens, usage.account.cost_usd, usage.account.finish_reasons) == (
        0,
        None,
        {},
    )


def test_descriptions_are_accounted_for_and_a_gloss_in_their_place_is_a_failure(tmp_path: Path) -> None:
    store = Store(tmp_path / "s.duckdb")
    keys = save_requests(store, "openai", "m", [request(0), request(1)])
    save_completions(store, "d", [(key, Completion("", "stop", 7, 0, 3, 1.0, 0.25)) for key in keys])
    rows = [
        TypeDescription("actor", "g", "hand", "text", keys[0], "llm"),
        TypeDescription("director", "g", "hand", "g", keys[1], "gloss"),
        TypeDescription("misc", "g", "hand", "g", None, "gloss"),
    ]
    save_descriptions(store, "d", "films", rows)
    ((usage,),) = load_usage(store, ["d", "absent"]).values()
    assert (usage.split, usage.n_requests, usage.account.n_calls, usage.account.cost_usd) == (None, 2, 2, 0.5)
    assert (usage.account.n_malformed, usage.account.n_parse_failures) == (1, 1)


def test_a_run_under_way_shows_its_calls_before_it_has_texts(tmp_path: Path) -> None:
    store = Store(tmp_path / "s.duckdb")
    assert load_usage(store, ["r"]) == {}
    (key,) = save_requests(store, "openai", "m", [request(0)])
    save_completions(
        store, "r", [(key, Completion("cut", "length", 7, 0, 3)), (key, Completion("a", "stop", 7, 7, 2))]
    )
    ((usage,),) = load_usage(store, ["r"]).values()
    assert (usage.n_requests, usage.account.n_calls, usage.account.n_output_tokens) == (0, 2, 5)
    assert usage.account.finish_reasons == {"length": 1, "stop": 1}
