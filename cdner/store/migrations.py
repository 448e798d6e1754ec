"""Brings the tables and views of a store to the form that this version writes; refuses a store of a later version.

Tables change by numbered files under ``store/migrations``, each applied once and never edited. Views are remade from
``store/views`` when the text of one has changed, in the order of their number prefixes.

Published numbers are read from ``store/published/*.toml`` into a table that is remade when a file changes. The files
are laid out as the tables are printed, so that a reader can check them side by side; what a key does not say in a row,
its block says, or the file.
"""

from __future__ import annotations

import os
import shutil
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing, suppress
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cdner.errors import StoreError
from cdner.files import content_hash, is_database, remove, replacing, resource_root, settle, unfinished_path
from cdner.store.opening import opened
from cdner.store.rows import Row, insert_rows
from cdner.store.untrusted import refuse_odd_files
from cdner.version import __version__

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection


# Column -> what it is where neither row, block nor file says; ... where one of them must.
_COLUMNS: Mapping[str, Any] = {
    "publication": ...,
    "source_table": ...,
    "method": ...,
    "year": None,
    "setting": "",
    "source_domain": "",
    "target_domain": ...,
    "entity_type": "*",
    "shots": ...,
    "backbone": "",
    "llm": "",
    "metric": ...,
    "scorer": ...,
    "split": ...,
    "n_seeds": None,
    "value": ...,
    "reference": ...,
    "remark": "",
}
_LAYOUT = {"block", "remark_on", "column", "columns", "fields", "rows"}
_NOT_PRINTED = "-"


@cache
def published_texts() -> Mapping[str, str]:
    """File name -> text, by name."""
    files = sorted((resource_root("store") / "published").glob("*.toml"))
    return {file.name: file.read_text(encoding="utf-8") for file in files}


def read_published(name: str, text: str) -> list[dict[str, Any]]:
    """One record (the columns of ``published_score``) a printed number. StoreError for a file laid out otherwise."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise StoreError(f"store/published/{name}: {error}.") from error
    records: list[dict[str, Any]] = []
    for block in table["block"]:
        common = {**{key: value for key, value in table.items() if key not in _LAYOUT}, **block}
        columns = common.pop("columns", table.get("columns"))
        for row in common["rows"]:
            records += _records_of(name, row, common, columns=columns, column=table["column"])
    for remark in table.get("remark_on", ()):
        _attach(name, records, remark)
    return records


def _records_of(
    name: str, row: Sequence[Any], common: Mapping[str, Any], *, columns: Sequence[str], column: str
) -> list[dict[str, Any]]:
    """The numbers of one printed row."""
    fields = common["fields"]
    values = row[len(fields) :]
    if len(values) != len(columns):
        raise StoreError(
            f"store/published/{name}: {row} has {len(values)} numbers for {len(columns)} columns."
        )
    known = {key: value for key, value in common.items() if key not in _LAYOUT}
    known |= dict(zip(fields, row, strict=False))
    found = []
    for heading, value in zip(columns, values, strict=True):
        if value == _NOT_PRINTED:
            continue
        record = {**_COLUMNS, **known, column: heading, "value": float(value)}
        missing = [key for key, given in record.items() if given is ...]
        if missing or len(record) != len(_COLUMNS):
            unknown = [key for key in record if key not in _COLUMNS]
            raise StoreError(f"store/published/{name}: {row} lacks {missing}, has unknown {unknown}.")
        found.append(record)
    return found


def _attach(name: str, records: Sequence[dict[str, Any]], remark: Mapping[str, Any]) -> None:
    """Put a remark on the records it names."""
    where = remark["where"]
    meant = [record for record in records if all(record.get(key) == value for key, value in where.items())]
    if not meant:
        raise StoreError(f"store/published/{name}: no number fits the remark on {where}.")
    for record in meant:
        record["remark"] = remark["text"]


def published_is_current(connection: DuckDBPyConnection) -> bool:
    """Whether the table was made from the files as they are."""
    made = connection.execute("SELECT name, text_hash FROM published_file").fetchall()
    return dict(made) == _hashes()


def remake(connection: DuckDBPyConnection) -> None:
    """Make the table from the files, inside the caller's transaction."""
    rows: list[Row] = [
        tuple(record[column] for column in _COLUMNS)
        for name, text in published_texts().items()
        for record in read_published(name, text)
    ]
    connection.execute("DELETE FROM published_score")
    connection.execute("DELETE FROM published_file")
    insert_rows(connection, "published_score", tuple(_COLUMNS), rows)
    insert_rows(connection, "published_file", ("name", "text_hash"), list(_hashes().items()))


@cache
def _hashes() -> dict[str, str]:
    return {name: content_hash(text) for name, text in published_texts().items()}


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
    return views_are and published_is_current(connection)


def create(path: Path) -> None:
    """Make an empty store all at once: whoever looks sees none or a finished one, even after a kill."""
    unfinished = unfinished_path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        settle(path)
        try:
            with opened(unfinished, read_only=False, wait_seconds=0) as connection:
                _migrate(connection, migration_files())
                # Closing does so too, but on a full disk it fails in silence, and only the main file is linked.
                connection.execute("CHECKPOINT")
            unfinished.chmod(0o600)  # others could hold its lock, and keep everyone else out
            with suppress(FileExistsError):  # another process was first: its store is as good as ours
                os.link(unfinished, path)
        finally:
            for left in (unfinished, unfinished.with_name(f"{unfinished.name}.wal")):
                remove(left)
    except OSError as error:
        raise StoreError(f"The store {path} cannot be created: {error}.") from error


def upgrade(path: Path, *, wait_seconds: float) -> None:
    """Migrate an older store after copying it to ``<name>.backup-v<version>``; remake changed views."""
    with opened(path, read_only=True, wait_seconds=wait_seconds) as connection:
        version = schema_version(connection, path)
        if _unapplied(connection):
            _back_up(path, version)
    with opened(path, read_only=False, wait_seconds=wait_seconds) as connection:
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
    refuse_odd_files(backup)
    if backup.exists() and not is_database(backup):
        raise StoreError(
            f"The store {path} was not migrated: {backup}, the place of its backup, is taken. Move it."
        )
    try:
        for suffix in (".wal", ""):
            part, copy = (file.with_name(f"{file.name}{suffix}") for file in (path, backup))
            if not part.exists():
                copy.unlink(missing_ok=True)
                continue
            with replacing(copy) as unfinished:
                os.close(os.open(unfinished, os.O_WRONLY | os.O_CREAT, 0o600))
                shutil.copyfile(part, unfinished)
                if not copy.exists():
                    shutil.copymode(part, unfinished)
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
    remake(connection)
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


@cache
def schema() -> Mapping[str, Mapping[str, tuple[str, bool]]]:
    """Table -> column -> (type, may be NULL), of a store as this cdner makes it."""
    import duckdb

    with closing(duckdb.connect(config={"enable_external_access": False})) as connection:
        connection.execute("SET lock_configuration = true")
        for _, file in migration_files():
            connection.execute(file.read_text(encoding="utf-8"))
        rows = connection.execute(
            "SELECT table_name, column_name, data_type, is_nullable FROM duckdb_columns()"
            " WHERE NOT internal ORDER BY table_name, column_index"
        ).fetchall()
    found: dict[str, dict[str, tuple[str, bool]]] = {}
    for table, column, kind, nullable in rows:
        found.setdefault(table, {})[column] = (kind, nullable)
    return found
