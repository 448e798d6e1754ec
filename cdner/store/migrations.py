"""Brings a store's tables and views to the form this version of cdner writes; refuses one from the future.

Tables change by numbered files under ``store/migrations``, each applied once and never edited; views are
remade from ``store/views`` when the text of one has changed, in the order of the files' number prefixes. So is the
table of published numbers (``cdner.store.published``).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from cdner import __version__
from cdner.errors import StoreError
from cdner.hashing import content_hash
from cdner.resources import resource_root
from cdner.store import published
from cdner.store.connection import Store, opened
from cdner.store.rows import insert_rows
from cdner.unfinished import remove, replacing, settle, unfinished_path

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection


def utc_now() -> datetime:
    """Now in UTC without a time zone, as the ``*_utc`` columns want it."""
    return datetime.now(UTC).replace(tzinfo=None)


@cache
def migration_files() -> tuple[tuple[int, Path], ...]:
    """(version, file), ascending."""
    files = sorted((resource_root("store") / "migrations").glob("*.sql"))
    return tuple((int(file.name.partition("_")[0]), file) for file in files)


@cache
def view_texts() -> tuple[tuple[str, str], ...]:
    """(view name, SQL), every view after the views it reads."""
    files = sorted((resource_root("store") / "views").glob("*.sql"))
    return tuple((file.stem.partition("_")[2], file.read_text(encoding="utf-8")) for file in files)


def latest_version() -> int:
    return migration_files()[-1][0]


def is_current(connection: DuckDBPyConnection, path: Path) -> bool:
    """Whether tables, views and published numbers are ours. StoreError for a newer store or a foreign file."""
    version = schema_version(connection, path)
    if version > latest_version():
        raise StoreError(
            f"The store {path} has schema version {version}, this cdner knows versions up to "
            f"{latest_version()}. Use a newer cdner{_last_writer(connection)}, or another store."
        )
    if _unapplied(connection):
        return False
    made = connection.execute("SELECT name, text_hash FROM view_source").fetchall()
    views_are = dict(made) == {name: content_hash(text) for name, text in view_texts()}
    return views_are and published.is_current(connection)


def create(path: Path) -> None:
    """Make an empty store all at once: whoever looks sees none or a finished one, even after a kill."""
    unfinished = unfinished_path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        settle(path)
        try:
            with opened(Store(unfinished), read_only=False) as connection:
                _migrate(connection, migration_files())
                # Closing does so too, but on a full disk it fails in silence, and only the main file is linked.
                connection.execute("CHECKPOINT")
            with suppress(FileExistsError):  # another process was first: its store is as good as ours
                os.link(unfinished, path)
        finally:
            for left in (unfinished, unfinished.with_name(f"{unfinished.name}.wal")):
                remove(left)
    except OSError as error:
        raise StoreError(f"The store {path} cannot be created: {error}.") from error


def upgrade(store: Store) -> None:
    """Migrate an older store after copying it to ``<name>.backup-v<version>``; remake changed views."""
    with opened(store, read_only=True) as connection:
        version = schema_version(connection, store.path)
        if _unapplied(connection):
            _back_up(store.path, version)
    with opened(store, read_only=False) as connection:
        _migrate(connection, _unapplied(connection))


def schema_version(connection: DuckDBPyConnection, path: Path) -> int:
    """0 before the first migration. StoreError for a DuckDB file that is no store."""
    import duckdb

    try:
        row = connection.execute("SELECT max(version) FROM migration").fetchone()
    except duckdb.CatalogException as error:
        raise StoreError(f"{path} is a DuckDB file but no store of cdner. Name another store.") from error
    return int(row[0]) if row and row[0] is not None else 0


def _last_writer(connection: DuckDBPyConnection) -> str:
    """Which cdner that would be: the one that began the latest attempt, unless it calls itself as we do."""
    import duckdb

    try:
        row = connection.execute(
            "SELECT versions ->> 'cdner' FROM attempt ORDER BY started_utc DESC LIMIT 1"
        ).fetchone()
    except duckdb.Error:  # a future version may keep it elsewhere
        return ""
    return f" (version {row[0]} has written to it)" if row and row[0] not in {None, __version__} else ""


def _unapplied(connection: DuckDBPyConnection) -> tuple[tuple[int, Path], ...]:
    """Our migrations that the store has not seen; one with a lower number may have been written later."""
    applied = {version for (version,) in connection.execute("SELECT version FROM migration").fetchall()}
    return tuple((version, file) for version, file in migration_files() if version not in applied)


def _back_up(path: Path, version: int) -> None:
    """Copy the files byte by byte. The caller's reading connection keeps writers out meanwhile.

    Several processes may do so at once. An earlier backup of this version gives way: the store has gone on since.
    The main file comes last: closing a file gives up all locks this process has on it.
    """
    backup = path.with_name(f"{path.name}.backup-v{version}")
    try:
        for suffix in (".wal", ""):
            part, copy = (file.with_name(f"{file.name}{suffix}") for file in (path, backup))
            if not part.exists():
                copy.unlink(missing_ok=True)
                continue
            with replacing(copy) as unfinished:
                shutil.copyfile(part, unfinished)
    except OSError as error:
        raise StoreError(f"The store {path} was not migrated, its backup failed: {error}.") from error


def _migrate(connection: DuckDBPyConnection, migrations: Iterable[tuple[int, Path]]) -> None:
    connection.begin()
    for version, file in migrations:
        connection.execute(file.read_text(encoding="utf-8"))
        insert_rows(
            connection, "migration", ("version", "name", "applied_utc"), [(version, file.name, utc_now())]
        )
    _remake_views(connection, view_texts())
    published.remake(connection)
    connection.commit()


def _remake_views(connection: DuckDBPyConnection, views: Iterable[tuple[str, str]]) -> None:
    for (name,) in connection.execute("SELECT name FROM view_source").fetchall():
        connection.execute(f'DROP VIEW IF EXISTS "{name}"')
    connection.execute("DELETE FROM view_source")
    rows = []
    for name, text in views:
        connection.execute(text)
        rows.append((name, content_hash(text)))
    insert_rows(connection, "view_source", ("name", "text_hash"), rows)
