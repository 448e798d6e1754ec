"""Versions: a newer store is refused, an older one is migrated after a copy, changed views are remade."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from store_examples import CORPUS, import_corpus, start_python

from cdner.errors import StoreError
from cdner.files import resource_root
from cdner.store import Store, migrations
from cdner.store.corpora import load_corpus


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cdner.duckdb")


NOW = migrations.latest_version()


@pytest.fixture
def sql_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A copy of store/ that a test may change, as the next version of cdner would."""
    root = tmp_path / "next"
    for name in ("migrations", "views"):
        shutil.copytree(resource_root("store") / name, root / name)

    def use(changed_root: Path = root) -> None:
        monkeypatch.setattr(migrations, "resource_root", lambda name: changed_root)
        migrations.migration_files.cache_clear()
        migrations.view_texts.cache_clear()

    yield root, use
    monkeypatch.undo()
    migrations.migration_files.cache_clear()
    migrations.view_texts.cache_clear()


def view_names(store: Store) -> set[str]:
    with store.reading() as connection:
        return {
            name
            for (name,) in connection.execute(
                "SELECT view_name FROM duckdb_views() WHERE NOT internal"
            ).fetchall()
        }


KILLED_WHILE_MAKING = """
import os, signal, sys
from pathlib import Path
from cdner.store import Store, migrations
migrations._migrate = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
migrations.create(Path(sys.argv[1]))
"""


def test_what_a_killed_process_left_is_removed_and_a_living_one_s_is_kept(store):
    child = start_python(KILLED_WHILE_MAKING, store.path)
    child.communicate(timeout=60)
    left = store.directory / f".{store.path.name}.{child.pid}.new"
    assert left.exists()
    log = left.with_name(f"{left.name}.wal")
    log.touch()
    in_work = left.with_name(f".{store.path.name}.{os.getppid()}.new")
    other_store = left.with_name(f".other.duckdb.{child.pid}.new")
    for path in (in_work, other_store):
        path.touch()
    with store.transaction():
        pass
    assert sorted(store.directory.glob(".*")) == sorted([in_work, other_store])


def test_a_newer_store_is_refused_with_both_versions(store):
    import_corpus(store)
    with store.transaction() as connection:
        connection.execute("INSERT INTO migration VALUES (99, '0099_future.sql', now()::TIMESTAMP)")
    for use in (store.transaction, store.reading):
        with (
            pytest.raises(StoreError, match=rf"schema version 99, this cdner knows versions up to {NOW}\b"),
            use(),
        ):
            pass


@pytest.mark.parametrize("use", ["transaction", "reading"])
def test_an_older_store_is_copied_then_migrated(store, sql_files, use):
    shipped = migrations.migration_files()
    run_id = import_corpus(store)
    before = store.path.read_bytes()
    root, switch = sql_files
    (root / "migrations" / f"{NOW + 1:04}_note.sql").write_text(
        "CREATE TABLE note (text VARCHAR); INSERT INTO note VALUES ('migrated');", encoding="utf-8"
    )
    switch()
    with getattr(store, use)() as connection:
        assert connection.execute("SELECT text FROM note").fetchall() == [("migrated",)]
        assert connection.execute("SELECT version, name FROM migration ORDER BY version").fetchall() == [
            *((version, file.name) for version, file in shipped),
            (NOW + 1, f"{NOW + 1:04}_note.sql"),
        ]
    assert load_corpus(store, run_id) == CORPUS
    assert store.path.with_name(f"cdner.duckdb.backup-v{NOW}").read_bytes() == before


def test_a_migration_written_after_one_with_a_higher_number_is_applied_too(store, sql_files):
    import_corpus(store)
    root, switch = sql_files
    for number, table in ((NOW + 2, "second"), (NOW + 1, "first")):
        file = root / "migrations" / f"{number:04}_{table}.sql"
        file.write_text(f"CREATE TABLE {table} AS SELECT 1 AS one;", encoding="utf-8")
        switch()
        with store.reading() as connection:
            assert connection.execute(f"SELECT one FROM {table}").fetchall() == [(1,)]


def test_a_migration_that_fails_leaves_the_store_as_it_was(store, sql_files):
    run_id = import_corpus(store)
    root, switch = sql_files
    broken = root / "migrations" / f"{NOW + 1:04}_broken.sql"
    broken.write_text("CREATE TABLE note (text VARCHAR); SELECT nonsense;", encoding="utf-8")
    switch()
    with pytest.raises(StoreError, match="nonsense"), store.transaction():
        pass
    broken.unlink()
    switch()
    assert load_corpus(store, run_id) == CORPUS
    with store.reading() as connection:
        assert connection.execute("SELECT max(version) FROM migration").fetchone() == (NOW,)


def test_changed_new_and_dropped_views_are_remade_without_a_backup(store, sql_files):
    import_corpus(store)
    root, switch = sql_files
    (root / "views" / "1_spurious_entity.sql").write_text(
        "CREATE VIEW spurious_entity AS SELECT 42 AS answer;", encoding="utf-8"
    )
    (root / "views" / "1_added.sql").write_text("CREATE VIEW added AS SELECT 1 AS one;", encoding="utf-8")
    (root / "views" / "2_step_duration.sql").unlink()
    names = view_names(store)
    switch()
    assert view_names(store) == names - {"step_duration"} | {"added"}
    with store.reading() as connection:
        assert connection.execute("SELECT answer FROM spurious_entity").fetchone() == (42,)
    assert list(store.directory.glob("*backup*")) == []


def test_a_view_of_the_user_survives_the_remaking(store, sql_files):
    import_corpus(store)
    with store.transaction() as connection:
        connection.execute("CREATE VIEW mine AS SELECT 7 AS seven")
    root, switch = sql_files
    (root / "views" / "1_spurious_entity.sql").write_text(
        "CREATE VIEW spurious_entity AS SELECT 42 AS answer;", encoding="utf-8"
    )
    switch()
    assert "mine" in view_names(store)
