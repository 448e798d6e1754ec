"""Rows go into tables as they are, few or many, and a look for some of them keeps nothing of the rest."""

from __future__ import annotations

from pathlib import Path

import pytest

from cdner.errors import StoreError
from cdner.store import Store
from cdner.store import rows as stored_rows
from cdner.store.rows import insert_rows, passing_by

MANY = stored_rows._MANY_ROWS


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "s.duckdb")


TEXTS = (
    "",
    "plain",
    "\u00e9",
    "\u65e5\u672c",
    "\U0001f600",
    "a\x00b",
    "1",
    "nan",
    "None",
    "2020-01-01",
    "x" * 5000,
)


@pytest.mark.parametrize("n_rows", [1, MANY - 1, MANY, 3000])
@pytest.mark.parametrize("last", ["text", None])
def test_rows_few_or_many_are_stored_as_they_are(tmp_path, n_rows, last):
    rows = [*((n, TEXTS[n % len(TEXTS)]) for n in range(n_rows - 1)), (n_rows - 1, last)]
    with Store(tmp_path / "s.duckdb").transaction() as opened:
        opened.execute("CREATE TABLE kept (position INTEGER, said VARCHAR, n INTEGER)")
        insert_rows(opened, "kept", ("position", "said"), rows, computed={"n": "position + 1"})
        found = opened.execute("FROM kept ORDER BY position").fetchall()
    assert found == [(position, said, position + 1) for position, said in rows]


def test_a_bulk_insert_that_fails_leaves_nothing_and_says_why(tmp_path):
    store = Store(tmp_path / "s.duckdb")
    rows = [("sentence", "text")] * 2 * MANY
    with pytest.raises(StoreError, match="duplicate key"), store.transaction() as opened:
        insert_rows(opened, "sentence", ("sentence_id", "text"), rows, computed={"tokens": "[text]"})
    with store.reading() as opened:
        assert opened.execute("SELECT count(*) FROM sentence").fetchall() == [(0,)]


@pytest.mark.parametrize("n_rows", [1, 5, MANY - 1, 2 * MANY])
def test_rows_whose_key_is_known_are_left_out(store, n_rows):
    rows = [(f"id{n // 3}", n % 3, f"text {n}") for n in range(n_rows)]
    known = {row[:2]: "there before" for row in rows[::2]}
    with store.transaction() as opened:
        opened.execute("CREATE TABLE kept (id VARCHAR, said VARCHAR, position INTEGER)")
        columns = ("id", "position", "said")
        insert_rows(opened, "kept", columns, [(*key, text) for key, text in known.items()])
        insert_rows(opened, "kept", columns, rows, unless_known=("id", "position"))
        insert_rows(opened, "kept", columns, rows, unless_known=("id", "position"))
        found = opened.execute("SELECT id, position, said FROM kept").fetchall()
    assert sorted(found) == sorted((*row[:2], known.get(row[:2], row[2])) for row in rows)


def test_what_is_passed_by_is_not_kept_and_all_else_may_be(store):
    with store.transaction() as opened:

        def limit():
            (text,) = opened.execute("SELECT current_setting('memory_limit')").fetchone()
            return opened.execute("SELECT parse_formatted_bytes(?)", [text]).fetchone()[0]

        def n_threads():
            return opened.execute("SELECT current_setting('threads')").fetchone()[0]

        def index_scans():
            names = ("index_scan_max_count", "index_scan_percentage")
            return [opened.execute("SELECT current_setting(?)", [name]).fetchone()[0] for name in names]

        everything, all_threads, usual_scans = limit(), n_threads(), index_scans()
        assert all(usual_scans)
        limits = []
        for n_wanted in (0, 2_000_000):
            with passing_by(opened, n_wanted):
                limits.append(limit())
                assert n_threads() == 1
                assert index_scans() == [0, 0]
            assert (limit(), n_threads(), index_scans()) == (everything, all_threads, usual_scans)
    assert limits[0] < everything
    assert limits[1] - limits[0] == pytest.approx(1000e6, rel=0.01)
