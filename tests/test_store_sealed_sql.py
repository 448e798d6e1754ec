"""``cdner sql`` sees the store and nothing else, and its limits hold."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.util import find_spec

import pytest
from store_examples import import_corpus, start_python

from cdner.errors import StoreError, UsageError
from cdner.store import Store
from cdner.store.sealed_child import parse_memory
from cdner.store.sql import query

WRITE_FOREVER = """
import sys
from pathlib import Path
from cdner.store import Store
from cdner.store.llm_log import save_template
n = 0
while True:
    save_template(Store(Path(sys.argv[1])), str(n), "text")
    print(n, flush=True)
    n += 1
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store(tmp_path_factory.mktemp("sealed") / "cdner.duckdb")
    import_corpus(store)
    (store.directory / "secret.csv").write_text("a,b\n1,2\n", encoding="utf-8")
    return store


def test_a_select_gives_columns_and_rows(store):
    columns, rows = query(store, "SELECT mention, end_token - start_token AS n FROM gold_entity ORDER BY ALL")
    assert columns == ("mention", "n")
    assert rows == [("Agnès Varda", 2), ('a\\b \u200b say "x" --', 4), ("Łódź", 1)]


@pytest.mark.parametrize(
    "sql",
    [
        "WITH s AS (SELECT 1 AS one) SELECT * FROM s;",
        "FROM sentence LIMIT 1",
        "VALUES (1)",
        "DESCRIBE sentence",
        "EXPLAIN SELECT 1",
        "PIVOT gold_entity ON entity_type USING count(*)",
        "SELECT settings->>'domain' FROM run -- a comment; with a semicolon",
    ],
)
def test_every_form_of_reading_works(store, sql):
    columns, rows = query(store, sql)
    assert columns
    assert rows


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM read_csv('{folder}/secret.csv')",
        "FROM '{folder}/secret.csv'",
        "SELECT * FROM read_text('{folder}/secret.csv')",
        "SELECT * FROM 'https://example.org/x.csv'",
        "SELECT * FROM query('COPY sentence TO ''{folder}/out.csv''')",
        "COPY sentence TO '{folder}/out.csv'",
        "ATTACH '{folder}/other.duckdb'",
        "INSTALL httpfs",
        "SET enable_external_access = true",
        "SET VARIABLE x = 1",
        "PRAGMA enable_profiling",
        "SELECT * FROM enable_logging()",
        "SELECT getenv('HOME')",
        "SELECT * FROM duckdb_secrets()",
        "SELECT 1; SELECT 2",
        "DELETE FROM sentence",
        "EXPLAIN ANALYZE DELETE FROM sentence",
        "CREATE TEMP TABLE t AS SELECT 1",
        "CHECKPOINT",
        "",
        "SELEC 1",
        "SELECT * FROM no_such_table",
    ],
)
def test_everything_else_is_refused_in_one_line_and_changes_nothing(store, sql):
    before = sorted(store.directory.iterdir())
    with pytest.raises(UsageError) as refusal:
        query(store, sql.format(folder=store.directory))
    assert "\n" not in str(refusal.value)
    assert sorted(store.directory.iterdir()) == before
    assert query(store, "SELECT count(*) FROM sentence")[1] == [(3,)]


def test_a_timestamp_with_time_zone_is_a_value_or_one_line_of_advice(store):
    """DuckDB 2.0.0 needs pytz to hand one over, which cdner does not install; from 2.0.1 on it needs nothing."""
    statement = "SELECT TIMESTAMPTZ '2026-01-02 03:04:05+01' AS at"
    if version("duckdb") == "2.0.0" and find_spec("pytz") is None:
        with pytest.raises(UsageError, match=r"cast it: now\(\)::TIMESTAMP\.$"):
            query(store, statement)
    else:
        _, [(value,)] = query(store, statement)
        assert value == datetime(2026, 1, 2, 2, 4, 5, tzinfo=UTC)


def test_a_misspelt_table_is_answered_with_the_nearest_name(store):
    with pytest.raises(UsageError, match='Did you mean "sentence"'):
        query(store, "SELECT * FROM sentense")


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT count(*) FROM range(10000000) a, range(10000000) b WHERE (a.range * b.range) % 7 = 3 AND a.range > 9",
        "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) SELECT count(*) FROM r",
    ],
)
def test_an_endless_query_ends_at_its_time_or_memory_limit(store, sql):
    started = time.monotonic()
    with pytest.raises(StoreError, match=r"stopped after 1 seconds|more than 500MB of memory"):
        query(store, sql, seconds=1, memory="500MB")
    assert time.monotonic() - started < 8
    with store.transaction() as connection:
        connection.execute("SELECT 1")


def test_the_time_limit_alone_ends_a_query_that_needs_no_memory(store):
    with pytest.raises(StoreError, match=r"stopped after 0\.5 seconds"):
        query(
            store,
            "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) SELECT max(n) FROM r",
            seconds=0.5,
        )


@pytest.mark.parametrize(
    "sql", ["SELECT repeat('x', 1000000000)", "SELECT list(range) FROM range(100000000)"]
)
def test_the_memory_limit_holds_for_single_values_too(store, sql):
    with pytest.raises(StoreError, match="more than 200MB of memory"):
        query(store, sql, memory="200MB")


def test_at_most_max_rows_come_back(store):
    _, rows = query(store, "SELECT * FROM range(1000000000)", max_rows=7)
    assert rows == [(n,) for n in range(7)]


def test_a_query_works_while_another_process_writes(store):
    child = start_python(WRITE_FOREVER, store.path)
    counts = []
    try:
        for _ in range(4):
            assert child.stdout.readline(), child.stderr.read()
            counts += query(store, "SELECT count(*) FROM template")[1]
    finally:
        child.kill()
        child.communicate()
    assert counts == sorted(counts)
    assert counts[-1][0] >= 4


def test_a_foreign_cdner_or_duckdb_in_the_working_folder_is_not_imported(store, tmp_path, monkeypatch):
    (tmp_path / "duckdb.py").write_text("raise SystemExit('foreign')", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert query(store, "SELECT 1") == (("1",), [(1,)])


def test_limits_that_make_no_sense_are_refused(store):
    for limits in ({"seconds": 0}, {"seconds": -1}, {"max_rows": 0}, {"memory": "much"}, {"memory": "5"}):
        with pytest.raises(UsageError):
            query(store, "SELECT 1", **limits)
    assert parse_memory("1.5 GiB") == 3 * 2**29
    assert parse_memory("512MB") == 512_000_000


def test_a_missing_store_is_reported(tmp_path):
    with pytest.raises(StoreError, match="There is no store"):
        query(Store(tmp_path / "none.duckdb"), "SELECT 1")
    assert os.listdir(tmp_path) == []  # noqa: PTH208
