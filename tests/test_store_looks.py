"""A look for a few rows of a large table finds them, and keeps little of the table in memory while it lasts."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from typing import Any

import pytest
from store_examples import import_corpus, long_corpus, start_run

from cdner.store import Store, connection
from cdner.store.corpora import load_sentences
from cdner.store.llm_log import load_completions, save_completions, save_requests
from cdner.types import Completion, Message, ReasoningRequest, Sampling

N = 400_000
MOST_KEPT = 35_000_000  # bytes: the limit of a look; without one completions alone keep 53 MB here
ANSWER = Completion("t", "stop", 1, 1, 1)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, str]:
    """Rows whose ids are as long as any, written in one go; the corpus's run id."""
    store = Store(tmp_path_factory.mktemp("large") / "s.duckdb")
    run_id = import_corpus(store, long_corpus(1))
    with store.transaction() as opened:
        opened.execute("CREATE TEMP TABLE n AS SELECT i FROM range(1, ?) AS r(i)", [N])
        opened.execute("INSERT INTO sentence SELECT sha256('s' || i), ['of', 'film'], 'of film' FROM n")
        opened.execute("INSERT INTO corpus_sentence SELECT ?, i, sha256('s' || i) FROM n", [run_id])
        opened.execute("INSERT INTO request SELECT sha256('r' || i), 'local', 'm', '{}', NULL, 'h' FROM n")
        opened.execute(
            "INSERT INTO completion (request_id, attempt_n, text, finish_reason, n_input_tokens, n_cached_tokens,"
            " n_output_tokens, created_utc)"
            " SELECT sha256('r' || i), 1, 't' || i, 'stop', 1, 1, 1, '2026-01-01' FROM n"
        )
    return store, run_id


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by the bytes of tables that DuckDB holds whenever the store's file is closed."""
    found: list[int] = []
    opened = connection.opened

    @contextmanager
    def measured(store: Store, **options: Any) -> Iterator[Any]:
        with opened(store, **options) as made:
            yield made
            held = "SELECT sum(memory_usage_bytes)::BIGINT FROM duckdb_memory() WHERE tag = 'BASE_TABLE'"
            found.append(made.execute(held).fetchone()[0])

    monkeypatch.setattr(connection, "opened", measured)
    return found


def scattered(n: int) -> list[int]:
    return sorted(random.Random(n).sample(range(1, N), n))


def request_ids(positions: list[int]) -> list[str]:
    return [sha256(f"r{position}".encode()).hexdigest() for position in positions]


@pytest.mark.parametrize("n_wanted", [1, 50, 51, 2000])  # DuckDB itself takes an index for up to 50
def test_sentences_far_apart_in_a_large_corpus_are_found(
    large: tuple[Store, str], kept: list[int], n_wanted: int
) -> None:
    found = load_sentences(*large, scattered(n_wanted))
    assert [sentence.tokens for sentence in found] == [("of", "film")] * n_wanted
    assert max(kept) < MOST_KEPT


@pytest.mark.parametrize("n_wanted", [1, 50, 51])  # the texts of more would be many of all
def test_answers_far_apart_are_found_and_counted(
    large: tuple[Store, str], kept: list[int], n_wanted: int
) -> None:
    store, _ = large
    positions = scattered(n_wanted)
    names = request_ids(positions)
    assert {
        name: answer.text[:1] for name, answer in load_completions(store, names).items()
    } == dict.fromkeys(names, "t")
    run_id = start_run(store, "reason")
    save_completions(store, run_id, [(name, ANSWER) for name in names])
    assert max(kept) < MOST_KEPT
    with store.reading() as opened:
        asked = "SELECT count(*) FROM completion WHERE request_id IN (SELECT unnest(?)) AND attempt_n > 1"
        assert opened.execute(asked, [names]).fetchone()[0] >= n_wanted


def test_a_request_is_known_among_many(large: tuple[Store, str], kept: list[int]) -> None:
    store, _ = large
    requests = [ReasoningRequest((Message("user", f"hi {n}"),), Sampling(max_tokens=5)) for n in range(60)]
    before = _count(store)
    ids = save_requests(store, "local", "m", requests)
    assert save_requests(store, "local", "m", requests) == ids
    assert max(kept) < MOST_KEPT
    assert _count(store) == before + 60


def _count(store: Store) -> int:
    with store.reading() as opened:
        return int(opened.execute("SELECT count(*) FROM request").fetchone()[0])


def test_without_a_limit_more_is_kept(
    large: tuple[Store, str], kept: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that the other tests measure what they say."""

    @contextmanager
    def unlimited(*_arguments: object) -> Iterator[None]:
        yield

    monkeypatch.setattr("cdner.store.llm_log.passing_by", unlimited)
    load_completions(large[0], request_ids(scattered(50)))
    assert max(kept) > MOST_KEPT
