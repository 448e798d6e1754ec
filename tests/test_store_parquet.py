"""Answers as Parquet files: every type, every row, all or nothing."""

from __future__ import annotations

import time

import duckdb
import pytest
from store_examples import import_corpus

from cdner.errors import CdnerError, StoreError, UsageError
from cdner.store import Store
from cdner.store.parquet import write_parquet
from cdner.store.sql import open_query, query

EVERY_TYPE = """
SELECT 1::TINYINT AS a, 2::BIGINT AS b, 0.5::DOUBLE AS c, 1.25::DECIMAL(9, 2) AS d, TRUE AS e, 'ü"' AS "f g",
       '\\x00\\xff'::BLOB AS h, DATE '2026-01-02' AS i, TIMESTAMP '2026-01-02 03:04:05.000006' AS j,
       [1, NULL, 3] AS k, [[1], []] AS l, {'x': 1, 'y': 'z'} AS m, MAP {'stop': 3::UBIGINT} AS n,
       [{'x': 1}] AS o, '{"p": 1}'::JSON AS p, NULL AS q, 'NaN'::DOUBLE AS r, NULL::VARCHAR AS s
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store(tmp_path_factory.mktemp("parquet") / "cdner.duckdb")
    import_corpus(store)
    return store


def read(file):
    return duckdb.connect().execute("FROM read_parquet($file)", {"file": str(file)})


def test_every_type_of_value_comes_back_as_it_was(store, tmp_path):
    file = tmp_path / "types.parquet"
    assert write_parquet(store, EVERY_TYPE, file) == 1
    found = read(file)
    columns, rows = query(store, EVERY_TYPE)
    assert tuple(column[0] for column in found.description) == columns
    assert repr(found.fetchall()) == repr(rows)  # NaN is not equal to itself
    kinds = {column[0]: str(column[1]) for column in read(file).description}
    assert (kinds["a"], kinds["d"], kinds["k"], kinds["j"]) == (
        "TINYINT",
        "DECIMAL(9,2)",
        "INTEGER[]",
        "TIMESTAMP",
    )


def test_many_rows_keep_their_order_and_pass_in_pieces(store, tmp_path):
    sql = "SELECT range AS n, 'text ' || range AS t FROM range($n::BIGINT)"
    assert write_parquet(store, sql, tmp_path / "x.parquet", parameters={"n": 5000}) == 5000
    assert read(tmp_path / "x.parquet").fetchall() == [(n, f"text {n}") for n in range(5000)]
    assert write_parquet(store, sql, tmp_path / "y.parquet", parameters={"n": 5000}, max_rows=1001) == 1001
    with open_query(store, sql, parameters={"n": 2500}) as answer:
        assert [len(piece) for piece in answer.pieces] == [1000, 1000, 500]


def test_an_answer_larger_than_the_memory_allowed_passes_in_pieces(store):
    """A gigabyte of text in 200 MB: nothing keeps the rows that went through."""
    sql = "SELECT repeat('x', 10000) AS t FROM range(100000)"
    with open_query(store, sql, memory="200MB", seconds=100) as answer:
        assert sum(len(row[0]) for piece in answer.pieces for row in piece) == 1_000_000_000


@pytest.mark.parametrize(
    ("sql", "error"),
    [
        ("SELECT * FROM no_such_table", UsageError),
        ("SELECT 1 AS a, 2 AS a", UsageError),
        ("SELECT CASE WHEN range < 3000 THEN 1 ELSE error('late') END AS n FROM range(5000)", UsageError),
        ("SELECT repeat('x', 900000000)", StoreError),
    ],
)
def test_nothing_is_left_when_it_fails(store, tmp_path, sql, error):
    (tmp_path / "old.parquet").write_text("old")
    for name in ("new.parquet", "old.parquet"):
        with pytest.raises(error):
            write_parquet(store, sql, tmp_path / name, force=True, memory="200MB")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("old.parquet", "old")]


def test_a_file_that_exists_is_not_replaced(store, tmp_path):
    (tmp_path / "x.parquet").write_text("mine")
    with pytest.raises(CdnerError, match="--force"):
        write_parquet(store, "SELECT 1", tmp_path / "x.parquet")
    assert (tmp_path / "x.parquet").read_text() == "mine"


def test_who_takes_no_more_rows_waits_for_no_time_limit(store):
    started = time.monotonic()
    with open_query(store, "SELECT * FROM range(1000000000)") as answer:
        assert next(answer.pieces)[0] == (0,)
    with store.transaction() as connection:  # the child would still hold the file
        connection.execute("SELECT 1")
    assert time.monotonic() - started < 20  # of 30 seconds that the query may take
