"""A store's hash: every result counts, no circumstance does."""

from __future__ import annotations

from pathlib import Path

import pytest
from bundle_stores import EXPERIMENT, written_store
from cli_stores import Shell

from cdner.store import Store
from cdner.store.hash import hash_tables, store_hash

CIRCUMSTANCES = (
    "UPDATE completion SET seconds = 99, created_utc = '2020-01-01'",
    "UPDATE run SET created_utc = '2020-01-01'",
    "UPDATE attempt SET host = 'elsewhere', pid = 1, finished_utc = '2020-01-01'",
    "UPDATE experiment_run SET labelled_utc = '2020-01-01'",
    "INSERT INTO checkpoint SELECT run_id, 'here', 'sum', 1 FROM run WHERE step = 'quantify'",
)
RESULTS = (
    "UPDATE checkpoint SET weights_sha256 = 'other'",
    "UPDATE completion SET text = text || ' ' WHERE text = 'Reasoning number 0.'",
    "UPDATE reasoning SET position = 39 WHERE position = 3",
    "INSERT INTO type_embedding SELECT run_id, 0, 'director', [0.1, 0.2] FROM run WHERE step = 'quantify'",
    "UPDATE type_embedding SET vector = [0.1, 0.20000000000000004]",
    "UPDATE gold_entity SET end_token = end_token + 1 WHERE position = 0 AND start_token = 0",
    "UPDATE prompt_text SET text = text || '!' WHERE text LIKE 'You explain%'",
    "DELETE FROM run_input",
)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return written_store(tmp_path / "s.duckdb")


def change(store: Store, statement: str) -> None:
    with store.transaction() as connection:
        connection.execute(statement)


def both_hashes(store: Store) -> tuple[str, str]:
    return store_hash(hash_tables(store)), store_hash(hash_tables(store, [EXPERIMENT]))


def test_results_change_the_hash_and_circumstances_do_not(store: Store) -> None:
    before = both_hashes(store)
    for statement in CIRCUMSTANCES[:-1]:
        change(store, statement)
        assert both_hashes(store) == before, statement
    change(store, CIRCUMSTANCES[-1])
    before = both_hashes(store)
    change(store, "UPDATE checkpoint SET path = 'there'")
    assert both_hashes(store) == before
    for statement in RESULTS:
        change(store, statement)
        after = both_hashes(store)
        assert after[0] != before[0] and after[1] != before[1], statement
        before = after


def test_an_experiments_hash_knows_nothing_of_other_runs(store: Store) -> None:
    whole, part = both_hashes(store)
    change(store, "UPDATE completion SET text = 'other' WHERE text = 'Nobody has read this.'")
    change(store, "INSERT INTO run VALUES ('x', 'train', 1, '{}', '2020-01-01')")
    assert both_hashes(store)[0] != whole
    assert both_hashes(store)[1] == part


def test_the_tables_say_where_two_stores_differ(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    shell = Shell(capsys, store.path)
    (line,) = shell("store", "hash").out.split()
    assert line == store_hash(hash_tables(store))
    assert shell("store", "hash", "--nl").out == f'{{"hash": "{line}"}}\n'
    before = shell("store", "hash", "--tables", "--csv").out.splitlines()
    change(store, "UPDATE template SET text = 'other'")
    after = shell("store", "hash", "--tables", "--csv").out.splitlines()
    changed = [old.split(",")[0] for old, new in zip(before, after, strict=True) if old != new]
    assert changed == ["template"]
    assert shell("store", "hash", "-e", "studdy").code == 2
