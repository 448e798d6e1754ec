"""Refuses a store that somebody prepared: links and special files, and views or macros where tables belong.

A store is a file that anyone may have made. DuckDB follows links and reads whatever is at a path; a view with the name
of a table would run its maker's SQL, and a macro with the name of a function would stand in for it.
"""

from __future__ import annotations

import os
import re
import stat
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from cdner.errors import StoreError
from cdner.files import resource_root

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

STORE_FILES = (
    "",
    ".wal",
    ".wal.checkpoint",
    ".wal.recovery",
)  # suffixes of the files DuckDB keeps a store in
_TEMPORARY = ".tmp"  # a folder of DuckDB, for what does not fit its memory
_TABLE = re.compile(r"^CREATE TABLE (\w+)", re.MULTILINE)
# How a log begins: the kind of its first entry and the name of its first field, then the version of the format.
_LOG = b"d\x00be\x00"
_LOG_VERSIONS = (b"", b"\x01", b"\x02", b"\x03")
# Written with its full name, which no macro of a store can take.
_FOREIGN = """
    SELECT 'view', view_name FROM system.main.duckdb_views() WHERE NOT internal
    UNION ALL
    SELECT replace(function_type, '_', ' '), function_name FROM system.main.duckdb_functions() WHERE NOT internal
    UNION ALL
    SELECT 'trigger', trigger_name FROM system.main.duckdb_triggers()
"""
_checked: set[tuple[Path, int, int]] = (
    set()
)  # (path, device, inode) of the stores that this process has looked into


def refuse_odd_files(path: Path) -> None:
    """StoreError where the store or a file that DuckDB keeps beside it is a link or not a regular file."""
    if "?" in os.path.abspath(path):  # noqa: PTH100
        raise StoreError(f"The store {path} cannot be opened: DuckDB takes no path with a '?'. Rename it.")
    for suffix in (*STORE_FILES, _TEMPORARY):
        file = Path(f"{path}{suffix}")
        try:
            mode = file.lstat().st_mode
        except OSError:  # not there, or DuckDB says why it cannot be read
            continue
        if stat.S_ISLNK(mode):
            raise StoreError(
                f"The store {path} cannot be opened: {file} is a link. Name the file itself with --store, "
                "or remove the link."
            )
        if not (stat.S_ISDIR if suffix == _TEMPORARY else stat.S_ISREG)(mode):
            kind = (
                "folder" if stat.S_ISDIR(mode) else "regular file" if suffix == _TEMPORARY else "special file"
            )
            raise StoreError(f"The store {path} cannot be opened: {file} is a {kind}.")


def refuse_odd_log(path: Path) -> None:
    """StoreError for a ``.wal`` that is not a log of DuckDB's: DuckDB would delete it without a word.

    Call it with the lock held, for another process may be writing the log. A log that is cut off is whole up to its
    last transaction: a kill leaves that.
    """
    log = Path(f"{path}.wal")
    try:
        with log.open("rb") as file:
            start = file.read(len(_LOG) + 1)
    except OSError:  # there is none, or DuckDB says why it cannot be read
        return
    if start[: len(_LOG)] != _LOG[: len(start)] or start[len(_LOG) :] not in _LOG_VERSIONS:
        raise StoreError(
            f"{log} is not a log of DuckDB, or is damaged. What was written last to {path} may be in it. "
            "Restore both files from a copy, or move the log away to use the store without it."
        )


def refuse_foreign_objects(connection: DuckDBPyConnection, path: Path) -> None:
    """StoreError for a view with a table's name, and for any macro or trigger: cdner makes none.

    Once for each file in a process, because it takes 20 ms.
    """
    status = path.stat()
    store = (path, status.st_dev, status.st_ino)
    if store in _checked:
        return
    tables = table_names()
    for kind, name in _foreign(connection, path):
        if kind != "view" or name.lower() in tables:
            raise StoreError(
                f"The store {path} is not used: it holds a {kind} named '{name[:60]}', which cdner did not make. "
                "Name another store."
            )
    _checked.add(store)


def _foreign(connection: DuckDBPyConnection, path: Path) -> list[tuple[str, str]]:
    """(kind, name) of all views, macros and triggers. DuckDB looks into a view to list it, and may fail there."""
    import duckdb

    try:
        return connection.execute(_FOREIGN).fetchall()
    except duckdb.Error as error:
        text = " ".join(str(error).partition("\nLINE ")[0].split())[:200]
        raise StoreError(
            f"The store {path} is not used: it holds a view, a macro or a trigger that cdner did not make "
            f"and that cannot be examined ({text}). Name another store."
        ) from error


@cache
def table_names() -> frozenset[str]:
    """The tables that the migrations create."""
    files = (resource_root("store") / "migrations").glob("*.sql")
    return frozenset(name for file in files for name in _TABLE.findall(file.read_text(encoding="utf-8")))
