"""Stores that earlier cdners wrote (tests/fixtures/stores) are migrated whole, with a backup, or not at all."""

from __future__ import annotations

import gzip
import shutil
import signal
from pathlib import Path
from typing import Any

import duckdb
import pytest
from pipeline_experiments import cdner
from store_examples import start_python

from cdner.files import file_sha256
from cdner.store import Store, migrations

FIXTURES = Path(__file__).parent / "fixtures" / "stores"
VERSIONS = sorted(int(path.name[1:].partition(".")[0]) for path in FIXTURES.glob("v*.duckdb.gz"))
LATEST = migrations.latest_version()
# What cdner itself remakes; published_score was never filled before version 5.
REMADE = {"migration", "view_source", "published_score", "published_file"}
Rows = dict[str, list[tuple[Any, ...]]]


def unpacked(version: int, folder: Path) -> Path:
    """The store of that schema version, with a file for each of its checkpoints (their weights are ten bytes)."""
    store = folder / "s.duckdb"
    with gzip.open(FIXTURES / f"v{version}.duckdb.gz") as packed, store.open("wb") as file:
        shutil.copyfileobj(packed, file)
    with duckdb.connect(str(store), read_only=True) as connection:
        paths = connection.execute("SELECT path FROM checkpoint").fetchall()
    for (path,) in paths:
        (folder / path).mkdir(parents=True)
        (folder / path / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    return store


def rows_of(store: Path, columns: dict[str, list[str]]) -> Rows:
    """The rows of these columns, sorted; read by duckdb itself, which migrates nothing."""
    with duckdb.connect(str(store), read_only=True) as connection:
        return {
            table: connection.execute(f"SELECT {', '.join(names)} FROM {table} ORDER BY ALL").fetchall()
            for table, names in columns.items()
        }


def columns_of(store: Path) -> dict[str, list[str]]:
    with duckdb.connect(str(store), read_only=True) as connection:
        found = connection.execute(
            "SELECT table_name, list(column_name ORDER BY column_index) FROM duckdb_columns()"
            " WHERE table_name IN (SELECT table_name FROM duckdb_tables()) GROUP BY ALL"
        ).fetchall()
    return {table: names for table, names in found if table not in REMADE}


def schema_of(store: Path) -> list[tuple[Any, ...]]:
    """Every column of every table and view: type, whether it may be NULL, what it says of itself."""
    with duckdb.connect(str(store), read_only=True) as connection:
        return connection.execute(
            "SELECT table_name, column_name, data_type, is_nullable, comment FROM duckdb_columns()"
            " WHERE NOT internal ORDER BY ALL"
        ).fetchall()


def constraints_of(store: Path) -> list[tuple[Any, ...]]:
    """What every table demands of its rows."""
    with duckdb.connect(str(store), read_only=True) as connection:
        return connection.execute(
            "SELECT table_name, constraint_type, constraint_column_names FROM duckdb_constraints() ORDER BY ALL"
        ).fetchall()


def version_of(store: Path) -> int:
    with duckdb.connect(str(store), read_only=True) as connection:
        return migrations.schema_version(connection, store)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != "checkpoints")


@pytest.fixture(params=VERSIONS, ids="v{}".format)
def earlier(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[int, Path]:
    return request.param, unpacked(request.param, tmp_path)


def test_every_earlier_version_is_here() -> None:
    """A new migration needs a store of the version before it: see tests/fixtures/stores/make.py."""
    assert [version for version, _ in migrations.migration_files()][:-1] == VERSIONS


def test_no_table_of_the_fixtures_is_empty(earlier: tuple[int, Path]) -> None:
    _, store = earlier
    assert [table for table, rows in rows_of(store, columns_of(store)).items() if not rows] == []


def test_an_earlier_store_is_migrated_with_a_backup_and_loses_nothing(earlier: tuple[int, Path]) -> None:
    version, store = earlier
    columns, before = columns_of(store), file_sha256(store)
    rows = rows_of(store, columns)
    verified = cdner(store, "store", "verify")
    assert verified.code == 0, verified.out + verified.err
    assert version_of(store) == LATEST
    assert rows_of(store, columns) == rows
    backup = store.with_name(f"s.duckdb.backup-v{version}")
    assert file_sha256(backup) == before
    assert names_in(store.parent) == ["s.duckdb", backup.name]
    new = store.with_name("new.duckdb")
    migrations.create(new)
    assert schema_of(store) == schema_of(new)
    assert constraints_of(store) == constraints_of(new)
    keyed = {table for table, kind, _ in constraints_of(new) if kind == "PRIMARY KEY"}
    assert keyed & {"request", "request_message", "prompt_text", "completion", "reasoning"} == {"reasoning"}


def test_the_views_of_a_migrated_store_answer(earlier: tuple[int, Path]) -> None:
    _, store = earlier
    with Store(store).reading() as connection:
        for name, _ in migrations.view_texts():
            connection.execute(f"SELECT * FROM {name}").fetchall()
        assert connection.execute("SELECT count(*) FROM leaderboard").fetchone() != (0,)
    for command in (("runs",), ("confusion", "show"), ("corpora",)):
        shown = cdner(store, *command)
        assert shown.code == 0, shown.err


def test_an_older_backup_of_the_same_version_gives_way(tmp_path: Path) -> None:
    """Whoever went back to the older cdner has worked on since: that is what must be kept now."""
    store = unpacked(VERSIONS[0], tmp_path)
    backup = store.with_name(f"s.duckdb.backup-v{VERSIONS[0]}")
    backup.write_text("a letter of last month")
    before = file_sha256(store)
    refused = cdner(store, "runs")
    assert refused.code == 1 and "the place of its backup, is taken. Move it" in refused.err
    assert backup.read_text() == "a letter of last month" and file_sha256(store) == before
    backup.write_bytes(store.read_bytes() + b"of last month")
    backup.with_name(f"{backup.name}.wal").write_text("of last month")
    assert cdner(store, "runs").code == 0
    assert file_sha256(backup) == before
    assert names_in(tmp_path) == ["s.duckdb", backup.name]


# --- kills ------------------------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
from pathlib import Path
from cdner.store import Store, migrations
modules = {"migrations": migrations, "shutil": migrations.shutil}
module, function, n = modules[sys.argv[2]], *sys.argv[3:5]
original, n_calls = getattr(module, function), 0

def dying(*arguments, **options):
    global n_calls
    n_calls += 1
    if n_calls == int(n):
        if function == "copyfile":
            Path(arguments[1]).write_bytes(Path(arguments[0]).read_bytes()[:1_000_000])
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*arguments, **options)

setattr(module, function, dying)
with Store(Path(sys.argv[1])).reading():
    pass
"""


@pytest.mark.parametrize(
    ("module", "function", "n", "is_backed_up"),
    [
        ("shutil", "copyfile", 1, False),  # the backup is half written
        ("migrations", "_migrate", 1, True),  # and whole
        ("migrations", "insert_rows", 1, True),  # the first migration is carried out
        ("migrations", "_remake_views", 1, True),  # all are
        ("migrations", "remake", 1, True),  # the views are there, too: nothing is left but the commit
    ],
)
def test_a_kill_during_the_migration_leaves_the_old_store_usable(
    module: str, function: str, n: int, is_backed_up: bool, tmp_path: Path
) -> None:
    version = VERSIONS[0]
    store = unpacked(version, tmp_path)
    columns, before = columns_of(store), file_sha256(store)
    rows = rows_of(store, columns)
    child = start_python(KILLED, store, module, function, n)
    _, errors = child.communicate(timeout=60)
    assert child.returncode == -signal.SIGKILL, errors
    backup = store.with_name(f"s.duckdb.backup-v{version}")
    assert backup.exists() == is_backed_up
    assert version_of(store) == version, "what the older cdner can go on with"
    assert rows_of(store, columns) == rows
    assert cdner(store, "store", "verify").code == 0
    assert version_of(store) == LATEST
    assert rows_of(store, columns) == rows
    assert rows_of(backup, columns) == rows
    assert before == file_sha256(backup)
    assert names_in(tmp_path) == ["s.duckdb", backup.name]


OPENED = """
import sys
from pathlib import Path
from cdner.store import Store
with Store(Path(sys.argv[1])).reading() as connection:
    print(connection.execute("SELECT count(*) FROM completion").fetchone()[0])
"""


def test_four_processes_that_find_an_old_store_migrate_it_once(tmp_path: Path) -> None:
    store = unpacked(VERSIONS[0], tmp_path)
    columns, before = columns_of(store), file_sha256(store)
    rows = rows_of(store, columns)
    children = [start_python(OPENED, store) for _ in range(4)]
    outputs = [child.communicate(timeout=120) for child in children]
    assert outputs == [(f"{len(rows['completion'])}\n", "")] * 4
    assert rows_of(store, columns) == rows
    assert file_sha256(store.with_name(f"s.duckdb.backup-v{VERSIONS[0]}")) == before
    with duckdb.connect(str(store), read_only=True) as connection:
        assert connection.execute("SELECT count(*) FROM migration").fetchone() == (
            len(migrations.migration_files()),
        )


# --- newer ones ---------------------------------------------------------------------------------------------


def test_a_newer_store_is_refused_with_the_version_needed_and_left_alone(tmp_path: Path) -> None:
    store = unpacked(VERSIONS[-1], tmp_path)
    with duckdb.connect(str(store)) as connection:
        connection.execute("INSERT INTO migration VALUES (99, '0099_future.sql', now()::TIMESTAMP)")
        connection.execute('UPDATE attempt SET versions = json_merge_patch(versions, \'{"cdner": "7.1.0"}\')')
    before = file_sha256(store)
    for command in (("runs",), ("store", "verify"), ("run", "demo")):
        shown = cdner(store, *command)
        assert shown.code == 1
        assert shown.err.count("\n") == 1
        assert f"has schema version 99, this cdner knows versions up to {LATEST}" in shown.err
        assert "Use a newer cdner (version 7.1.0 has written to it)" in shown.err
    assert file_sha256(store) == before
    assert names_in(tmp_path) == ["s.duckdb"]


def test_a_newer_store_whose_attempts_are_elsewhere_is_refused_all_the_same(tmp_path: Path) -> None:
    store = unpacked(VERSIONS[-1], tmp_path)
    with duckdb.connect(str(store)) as connection:
        connection.execute("INSERT INTO migration VALUES (99, '0099_future.sql', now()::TIMESTAMP)")
        connection.execute("DROP TABLE attempt CASCADE")
    shown = cdner(store, "runs")
    assert shown.code == 1
    assert "Use a newer cdner, or another store." in shown.err
