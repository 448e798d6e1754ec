"""Hostile SQL: everything DuckDB can be asked to do, asked in a sealed statement, does nothing and shows nothing.

The statements run in this process, sealed as in the child, so that a thousand take a second; the limits of the
child itself are tested with real children.
"""

from __future__ import annotations

import resource
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cli_stores import Shell
from store_examples import import_corpus

from cdner.errors import StoreError
from cdner.store import Store, sealed_child
from cdner.store.hash import hash_tables
from cdner.store.parquet import write_parquet
from cdner.store.sql import End, Rows, SealedQuery, named_queries, query

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

CANARY = "tr0ub4dor"  # in a file, in the environment


@dataclass
class Sealed:
    """One sealed connection for many statements; opening the store costs more than they do."""

    store: Store
    connection: DuckDBPyConnection | None = None
    opening: AbstractContextManager[DuckDBPyConnection] | None = None

    @contextmanager
    def reading(self, config: Mapping[str, Any]) -> Iterator[DuckDBPyConnection]:
        if self.connection is None:
            self.opening = self.store.reading(config)
            self.connection = self.opening.__enter__()
        yield self.connection

    def ask(self, sql: str, rows: int = 50) -> tuple[list[Rows], End]:
        question = SealedQuery(self, sql, 30, "500MB", rows)  # type: ignore[arg-type]
        *pieces, end = sealed_child.answer(question)
        assert isinstance(end, End)
        return [piece for piece in pieces if isinstance(piece, tuple)], end


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sealed]:
    """A store beside a file with a secret; at the end its tables are what they were."""
    folder = tmp_path_factory.mktemp("sealed")
    store = Store(folder / "s.duckdb")
    import_corpus(store)
    (folder / "secret.csv").write_text(f"a,b\n{CANARY},2\n", encoding="utf-8")
    (folder / "schema.sql").write_text("CREATE TABLE loaded (a INTEGER);", encoding="utf-8")
    (folder / "load.sql").write_text("", encoding="utf-8")
    tables = hash_tables(store)
    found = Sealed(store)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sealed_child, "_limit_process", lambda *_: None)
        patch.setenv("SECRET_VARIABLE", CANARY)
        patch.chdir(folder)
        yield found
    if found.opening:
        found.opening.__exit__(None, None, None)
    assert hash_tables(store) == tables


@pytest.fixture
def sealed(opened: Sealed) -> Iterator[Sealed]:
    """The same; after each test every file is what it was."""
    before = files_in(opened.store.directory)
    yield opened
    assert files_in(opened.store.directory) == before


def files_in(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_no_function_that_duckdb_has_reads_a_file_or_the_environment(sealed: Sealed) -> None:
    pieces, _ = sealed.ask("SELECT DISTINCT function_name, function_type FROM duckdb_functions()", 100_000)
    functions = [(name, kind) for piece in pieces for name, kind in piece if name.replace("_", "").isalnum()]
    assert {"read_csv", "glob", "getenv", "query", "which_secret"} <= {name for name, _ in functions} | {
        "getenv"
    }
    assert len(functions) > 800
    for name, kind in sorted(functions):
        called = "SELECT {}({})" if kind in ("scalar", "macro", "aggregate") else "SELECT * FROM {}({})"
        for argument in ("'secret.csv'", "'SECRET_VARIABLE'", "['secret.csv']"):
            pieces, end = sealed.ask(called.format(name, argument))
            assert CANARY not in repr(pieces), (name, argument)
            assert end.error is None or "\n" not in str(end.error), name


STATEMENTS = (
    "EXPORT DATABASE 'out'",
    "IMPORT DATABASE '.'",
    "LOAD json",
    "LOAD './evil.so'",
    "FORCE INSTALL httpfs FROM 'http://127.0.0.1:9'",
    "UPDATE EXTENSIONS",
    "CREATE SECRET s (TYPE http, BEARER_TOKEN 'x')",
    "CREATE MACRO m() AS TABLE SELECT * FROM 'secret.csv'",
    "CREATE TABLE t AS FROM 'secret.csv'",
    "CREATE TYPE t AS ENUM (FROM 'secret.csv')",
    "COPY (SELECT 1) TO 'out.csv'",
    "COPY (SELECT 1) TO '/dev/stdout'",
    "COPY sentence FROM 'secret.csv'",
    "COPY FROM DATABASE s TO memory",
    "ATTACH ':memory:' AS m",
    "ATTACH 'new.duckdb' AS n",
    "DETACH s",
    "USE memory",
    "BEGIN",
    "PREPARE p AS SELECT 1",
    "EXECUTE p",
    "CALL force_checkpoint()",
    "CALL enable_logging('QueryLog')",
    "VACUUM",
    "SET threads = 64",
    "RESET GLOBAL enable_external_access",
    "PRAGMA database_list",
    "EXPLAIN ANALYZE COPY (SELECT 1) TO 'out.csv'",
    "EXPLAIN ANALYZE ATTACH 'new.duckdb'",
    "WITH x AS (DELETE FROM sentence RETURNING *) SELECT * FROM x",
    "SELECT 1 -- ; nothing\n; COPY (SELECT 1) TO 'out.csv'",
    "SELECT 1 /* */; /* */ DELETE FROM sentence",
    "/* SELECT */ COPY (SELECT 1) TO 'out.csv' -- SELECT",
    "SELECT $$;$$; DELETE FROM sentence",
    "FROM query('SELECT 1; COPY (SELECT 1) TO ''out.csv''')",
    "FROM query('FROM ''secret.csv''')",
    "FROM query_table(['secret.csv'])",
    "FROM read_text('sec' || 'ret.csv')",
    "SELECT (SELECT content FROM read_blob('secret.csv'))",
    "FROM 'file://secret.csv'",
    "FROM 's3://bucket/x.parquet'",
    "FROM parquet_scan('http://127.0.0.1:9/x.parquet')",
    "FROM sniff_csv('secret.csv')",
    "FROM sentence s, LATERAL (FROM read_csv(s.text))",
    "SELECT * FROM sqlite_scan('s.duckdb', 'run')",
    "PIVOT 'secret.csv' ON a",
    "DESCRIBE 'secret.csv'",
    "SUMMARIZE 'secret.csv'",
    "SHOW TABLES FROM 'secret.csv'",
    "\x00SELECT 1",
    "SELECT 1\x00; DELETE FROM sentence",
)


@pytest.mark.parametrize("sql", STATEMENTS)
def test_a_hostile_statement_is_refused_in_one_line(sealed: Sealed, sql: str) -> None:
    pieces, end = sealed.ask(sql)
    assert end.error is not None, pieces
    assert "\n" not in str(end.error) and CANARY not in str(end.error)


HOSTILE_VALUES = (
    "'; COPY (SELECT 1) TO 'out.csv'; --",
    "$run",
    "secret.csv",
    "%",
    "\x00",
    "' OR 1=1 --",
    "🎬" * 300,
)


def test_values_of_named_queries_are_values(sealed: Sealed) -> None:
    for named in named_queries().values():
        texts = [parameter.name for parameter in named.parameters if parameter.kind == "text"]
        for hostile in HOSTILE_VALUES:
            values = named.values(dict.fromkeys(texts, hostile))
            question = SealedQuery(sealed, named.sql, 30, "500MB", 50, values)  # type: ignore[arg-type]
            *_, end = sealed_child.answer(question)
            assert isinstance(end, End) and end.error is None, (named.name, hostile, end)


def test_half_a_character_is_told_and_not_taken_for_a_lack_of_memory(sealed: Sealed) -> None:
    half = "a\udcff"
    for sql, values in ((f"SELECT '{half}'", {}), ("SELECT $x", {"x": half})):
        (end,) = sealed_child.answer(SealedQuery(sealed, sql, 30, "500MB", 50, values))  # type: ignore[arg-type]
        assert isinstance(end, End) and "no text in UTF-8" in str(end.error)


def test_an_answer_larger_than_the_memory_is_not_collected(sealed: Sealed) -> None:
    """A row of 50 kB is small, ten thousand of them are not; the child alone could send them all."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(StoreError, match="more than 60MB of memory"):
        query(sealed.store, "SELECT repeat('x', 50000) FROM range(10000)", memory="60MB", seconds=120)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 * 1024  # kB


def test_types_and_columns_that_spell_sql_are_written_as_they_are(sealed: Sealed, tmp_path: Path) -> None:
    end = "); COPY (SELECT 1) TO ''out.csv''; --"
    sql = f"""SELECT {{'a" INTEGER{end}': 1}} AS "v"" INTEGER{end}", 'x'::ENUM('x', 'y''{end}') AS w"""
    assert write_parquet(sealed.store, sql, tmp_path / "x.parquet", seconds=120) == 1
    (tmp_path / "x.parquet").unlink()


@pytest.mark.parametrize(
    "name", ["@../../secret", "@/etc/passwd", "@missed\x00", "@" + "x" * 300, "@missed;DELETE"]
)
def test_a_query_is_found_by_its_name_alone(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = Shell(capsys, tmp_path / "s.duckdb")("sql", name)
    assert ran.code == 2 and ran.err.startswith("Error: No query named") and len(ran.err.splitlines()) == 1
