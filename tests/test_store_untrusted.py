"""A store that somebody prepared: it changes no file but itself, whatever it holds and however it is opened."""

from __future__ import annotations

import json
import os
from pathlib import Path

import duckdb
import pytest
from cli_stores import Shell, study_store
from store_examples import import_corpus, start_python

from cdner.errors import StoreError
from cdner.store import Store, migrations, untrusted
from cdner.store.opening import opened
from cdner.store.untrusted import table_names

PROFILING = "SELECT * FROM enable_profiling(save_location := '{file}')"
ESCAPES = (
    "COPY (SELECT 1) TO '{file}'",
    "ATTACH '{file}'",
    "SET enable_external_access = true",
    "SET allowed_configs = ['enable_external_access']",
    "RESET lock_configuration",
    "FROM enable_profiling(save_location := '{file}')",
    "FROM enable_logging(storage := 'file', storage_config := {{'path': '{file}'}})",
    "SET temp_directory = '{file}'",
    "FROM read_text('{file}')",
    "FROM read_duckdb('{file}')",
    "EXPORT DATABASE '{file}'",
)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "below" / "cdner.duckdb")


def replaced_by_view(path: Path, table: str, sql: str) -> None:
    """The table of this name is gone and a view is in its place. A view that would fail to bind is made unbound."""
    with duckdb.connect(str(path)) as connection:
        connection.execute(f"DROP TABLE IF EXISTS {table} CASCADE")
        connection.execute(f"CREATE VIEW {table} AS {sql}")


@pytest.mark.parametrize("sql", [PROFILING, "SELECT 1 AS version, '{file}' AS name"])
@pytest.mark.parametrize("table", ["migration", "view_source", "published_file", "run"])
def test_a_view_in_the_place_of_a_table_runs_nothing(tmp_path, capsys, table, sql):
    """The case: the view of ``migration`` overwrote a JSON file when a reading command had to migrate."""
    path = study_store(tmp_path / "s.duckdb").path
    victim = tmp_path / "victim.json"
    victim.write_text('{"mine": 1}')
    replaced_by_view(path, table, sql.format(file=victim))
    victim.write_text('{"mine": 1}')  # making the view has written it
    untrusted._checked.clear()  # this process has looked into the store before
    shell = Shell(capsys, path)
    for command in (
        ("runs",),
        ("store", "verify"),
        ("store", "hash"),
        ("sql", "SELECT 1"),
        ("doctor", "--json"),
    ):
        ran = shell(*command)
        assert "which cdner did not make" in ran.out + ran.err or "cannot be examined" in ran.out + ran.err, (
            ran
        )
        assert "Traceback" not in ran.err
    assert json.loads(victim.read_text()) == {"mine": 1}


@pytest.mark.parametrize(
    "made",
    [
        "CREATE MACRO coalesce2(a) AS a",
        "CREATE MACRO max(a) AS 1",
        "CREATE MACRO duckdb_functions() AS TABLE SELECT 'a' AS function_type, 'b' AS function_name, true AS internal",
        "CREATE TRIGGER t AFTER INSERT ON run FOR EACH STATEMENT INSERT INTO template VALUES ('a', 'b', 'c')",
    ],
)
def test_macros_and_triggers_are_refused(store, made):
    import_corpus(store)
    with duckdb.connect(str(store.path)) as connection:
        connection.execute(made)
    again = Store(store.path.rename(store.path.with_name("other.duckdb")))
    for use in (again.reading, again.transaction):
        with pytest.raises(StoreError, match="which cdner did not make"), use():
            pass


def test_views_of_the_user_stay(store):
    import_corpus(store)
    with duckdb.connect(str(store.path)) as connection:
        connection.execute("CREATE VIEW mine AS SELECT count(*) AS n FROM run")
    with store.reading() as connection:
        assert connection.execute("FROM mine").fetchone() == (1,)


@pytest.mark.parametrize("statement", ESCAPES)
@pytest.mark.parametrize("read_only", [True, False])
def test_no_connection_reaches_another_file_or_changes_its_seal(store, tmp_path, read_only, statement):
    import_corpus(store)
    file = tmp_path / "other.txt"
    file.write_text("mine")
    with (
        opened(store.path, read_only=read_only, wait_seconds=1) as connection,
        pytest.raises(duckdb.Error, match=r"configuration|disabled|Cannot"),
    ):
        connection.execute(statement.format(file=file)).fetchall()
    assert file.read_text() == "mine"


def test_a_migrating_connection_is_sealed(store, monkeypatch):
    import_corpus(store)
    found = []

    def look(connection, _versions):
        found.extend(
            connection.execute(
                "SELECT value FROM duckdb_settings() WHERE name IN ('enable_external_access', 'lock_configuration')"
                " ORDER BY name"
            ).fetchall()
        )

    monkeypatch.setattr(migrations, "_migrate", look)
    migrations.upgrade(store.path, wait_seconds=1)
    assert found == [("false",), ("true",)]


@pytest.mark.parametrize("suffix", ["", ".wal", ".wal.checkpoint", ".wal.recovery", ".tmp"])
@pytest.mark.parametrize("target", ["file", "dangling"])
def test_links_are_refused_and_their_targets_stay(store, tmp_path, capsys, suffix, target):
    import_corpus(store)
    elsewhere = tmp_path / "elsewhere"
    if not suffix:
        store.path.rename(tmp_path / "moved")
        elsewhere = tmp_path / "moved" if target == "file" else elsewhere
    elif target == "file":
        elsewhere.write_bytes(b"mine")
    link = Path(f"{store.path}{suffix}")
    link.symlink_to(elsewhere)
    before = {file: file.read_bytes() for file in tmp_path.iterdir() if file.is_file()}
    for use in (store.reading, store.transaction):
        with pytest.raises(StoreError, match="is a link"), use():
            pass
    assert "is a link" in Shell(capsys, store.path)("runs").err
    assert {file: file.read_bytes() for file in tmp_path.iterdir() if file.is_file()} == before
    assert link.is_symlink()


def test_a_pipe_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for use in (Store(tmp_path / "pipe").reading, Store(tmp_path / "pipe").transaction):
        with pytest.raises(StoreError, match="is a special file"), use():
            pass


@pytest.mark.parametrize("name", [":memory:", "s3:x", "md:x", "a b#d", "%41"])
def test_a_store_is_the_file_of_its_name_for_readers_and_writers(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    store = Store(Path(name))
    run_id = import_corpus(store)
    with Store(Path(name)).reading() as connection:
        assert connection.execute("SELECT run_id FROM corpus").fetchall() == [(run_id,)]
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_question_mark_is_refused(tmp_path):
    with pytest.raises(StoreError, match="takes no path with a"), Store(tmp_path / "a?b").transaction():
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_tilde_is_the_home_folder_for_readers_and_writers(tmp_path, monkeypatch, capsys):
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(tmp_path)
    import_corpus(Store(Path("~/s.duckdb")))
    assert [path.name for path in tmp_path.iterdir()] == ["home"]
    assert Shell(capsys, Path("~/s.duckdb"))("store", "path").out == f"{home / 's.duckdb'}\n"
    assert Shell(capsys, Path("~/s.duckdb"))("runs").code == 0


def test_the_tables_that_are_watched_are_those_of_the_schema():
    made = set(migrations.schema())
    assert {name for name in made if name in table_names()} == made - {
        name for name, _ in migrations.view_texts()
    }


LEFT_A_LOG = """
import os, signal, sys
import duckdb
connection = duckdb.connect(sys.argv[1])
connection.execute("INSERT INTO template VALUES ('a', 'b', 'c')")
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("log", [b"x", b"hello world\n" * 30, bytes(500), b"d\x00be\x00\xfd" + bytes(40)])
def test_a_log_that_is_none_is_refused_and_kept(store, log):
    import_corpus(store)
    wal = Path(f"{store.path}.wal")
    wal.write_bytes(log)
    for use in (store.reading, store.transaction):
        with pytest.raises(StoreError, match="is not a log of DuckDB"), use():
            pass
    assert wal.read_bytes() == log


@pytest.mark.parametrize("cut", [0, 1, 7])
def test_the_log_of_a_killed_writer_is_read(store, cut):
    import_corpus(store)
    assert start_python(LEFT_A_LOG, store.path).wait() == -9
    wal = Path(f"{store.path}.wal")
    wal.write_bytes(wal.read_bytes()[: len(wal.read_bytes()) - cut])
    with store.reading() as connection:
        assert connection.execute("SELECT count(*) FROM template").fetchone() == (0 if cut else 1,)
    wal.write_bytes(wal.read_bytes()[:3])  # a kill in the first write
    with store.transaction():
        pass
