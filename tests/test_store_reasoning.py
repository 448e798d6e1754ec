"""Requests, completions, templates and reasoning: identity, latest answer, gaps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cdner.errors import StoreError
from cdner.store import Store
from cdner.store.llm_log import (
    load_completions,
    load_gaps,
    load_reasoning,
    load_request,
    request_id,
    save_completions,
    save_reasoning,
    save_requests,
    save_template,
)
from cdner.types import Completion, Gap, Message, ReasoningChain, ReasoningRequest, Sampling

REQUEST = ReasoningRequest(
    (Message("system", "fixed"), Message("user", "Łódź 🎬 {}")),
    Sampling(64, stop=("\n\n", "END")),
    '{"type":"object"}',
)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cdner.duckdb")


def test_a_request_comes_back_and_its_texts_are_stored_once(store):
    other = replace(REQUEST, messages=(REQUEST.messages[0], Message("user", "else")), schema=None)
    ids = save_requests(store, "openai", "m@1", [REQUEST, other, REQUEST])
    assert ids == [request_id("openai", "m@1", request) for request in (REQUEST, other, REQUEST)]
    assert save_requests(store, "openai", "m@1", [REQUEST]) == ids[:1]
    assert load_request(store, ids[0]) == ("openai", "m@1", REQUEST)
    assert load_request(store, ids[1]) == ("openai", "m@1", other)
    with store.reading() as connection:
        assert connection.execute("SELECT count(*) FROM prompt_text").fetchone() == (3,)
    with pytest.raises(StoreError, match="No request absent"):
        load_request(store, "absent")


def test_everything_in_a_request_changes_its_id_and_equal_numbers_do_not():
    base = request_id("openai", "m", REQUEST)
    sampling = REQUEST.sampling
    changed = [
        request_id("local", "m", REQUEST),
        request_id("openai", "m@2", REQUEST),
        request_id("openai", "m", replace(REQUEST, schema=None)),
        request_id("openai", "m", replace(REQUEST, messages=REQUEST.messages[::-1])),
        request_id("openai", "m", replace(REQUEST, messages=(Message("user", "fixed"), REQUEST.messages[1]))),
        *(
            request_id("openai", "m", replace(REQUEST, sampling=replace(sampling, **{name: value})))
            for name, value in {
                "max_tokens": 65,
                "temperature": 0.5,
                "top_p": 0.5,
                "seed": 1,
                "stop": (),
            }.items()
        ),
    ]
    assert len({base, *changed}) == 11
    assert base == request_id(
        "openai", "m", replace(REQUEST, sampling=replace(sampling, temperature=0, top_p=1))
    )


def test_the_latest_completion_counts_and_earlier_ones_stay(store):
    ids = save_requests(store, "openai", "m", [REQUEST, replace(REQUEST, schema=None)])
    save_completions(store, "r1", [(ids[0], Completion("first", "length", 100, 64, 64))])
    save_completions(
        store,
        "r1",
        [
            (ids[0], Completion("second", "stop", 100, 96, 10)),
            (ids[0], Completion("third 🎬", "stop", 1, 2, 3)),
        ],
    )
    assert load_completions(store, [*ids, "unknown"]) == {ids[0]: Completion("third 🎬", "stop", 1, 2, 3)}
    with store.reading() as connection:
        rows = connection.execute("SELECT attempt_n, text FROM completion ORDER BY attempt_n").fetchall()
    assert rows == [(1, "first"), (2, "second"), (3, "third 🎬")]
    assert load_completions(store, []) == {}
    assert load_completions(Store(store.directory / "none.duckdb"), ids) == {}


def test_half_a_surrogate_pair_in_an_answer_becomes_a_replacement_character(store):
    ids = save_requests(store, "openai", "m", [REQUEST])
    save_completions(store, "r1", [(ids[0], Completion("a\ud83d b \ud83c\udfac", "stop", 1, 0, 1))])
    assert load_completions(store, ids)[ids[0]].text == "a\ufffd b 🎬"


def test_reasoning_comes_back_and_a_gap_is_filled_on_resume(store):
    chain = ReasoningChain("the ‘initial’ part", "why not actor", {"no_heading": 2})
    save_reasoning(store, "r", [(1, "q1", chain), (0, "q0", Gap("timed out"))])
    assert load_reasoning(store, "r") == {1: chain}
    assert load_gaps(store, "r") == {0: "timed out"}
    save_reasoning(store, "r", [(0, "q0", ReasoningChain("", ""))])
    assert list(load_reasoning(store, "r").items()) == [(0, ReasoningChain("", "")), (1, chain)]
    assert load_gaps(store, "r") == {}


def test_a_template_changed_under_the_same_name_is_kept_beside_the_old_one(store):
    first, again, second = (save_template(store, "pbrc.v1", text) for text in ("a", "a", "b"))
    assert first == again != second
    with store.reading() as connection:
        assert connection.execute("SELECT text FROM template ORDER BY text").fetchall() == [("a",), ("b",)]
