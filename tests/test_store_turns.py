"""Whose turn it is with a store's file: from before DuckDB reads its header until after DuckDB has closed it."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from store_examples import import_corpus, long_corpus, start_python

from cdner.errors import StoreError, StoreLockedError
from cdner.store import Store
from cdner.store import opening as owned
from cdner.store.opening import turn

# A writer that stops where DuckDB 2.0 has read the header and not locked yet, and again when it has given up its lock.
WRITER = """
import sys
from contextlib import closing, contextmanager
from pathlib import Path
import duckdb
from cdner.store import Store, opening

def waits_at(moment):
    print(moment, flush=True)
    sys.stdin.readline()

open_file = duckdb.connect

def connect(*arguments, **settings):
    waits_at("before opening")
    return open_file(*arguments, **settings)

@contextmanager
def closed(opened):
    with closing(opened):
        yield opened
    waits_at("after closing")

duckdb.connect, opening.closing = connect, closed
with Store(Path(sys.argv[1])).transaction() as opened:
    opened.execute("CREATE TABLE ours (n INTEGER)")
"""


@pytest.fixture
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    found = Store(tmp_path_factory.mktemp("store") / "s.duckdb", wait_seconds=0.2)
    import_corpus(found, long_corpus(2))
    return found


@contextmanager
def writer(store: Store) -> Iterator[subprocess.Popen[str]]:
    process = start_python(WRITER, store.path, stdin=subprocess.PIPE)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def goes_on(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def test_nobody_commits_while_another_opens_or_closes_the_file(store: Store) -> None:
    """What is committed between DuckDB's look at the header and its lock is overwritten by its next checkpoint."""
    with writer(store) as process:
        for moment in ("before opening", "after closing"):
            assert process.stdout is not None
            assert process.stdout.readline() == f"{moment}\n"
            with (
                pytest.raises(StoreLockedError, match=f"held by process {process.pid} "),
                store.transaction(),
            ):
                pass
            goes_on(process)
        assert process.wait() == 0
    with store.transaction() as connection:
        assert connection.execute("SELECT count(*) FROM ours").fetchall() == [(0,)]


def test_readers_share_a_turn_and_a_writer_waits_for_all_of_them(store: Store) -> None:
    with turn(store.path, read_only=True, wait_seconds=0.1):
        with turn(store.path, read_only=True, wait_seconds=0.1):
            pass
        with pytest.raises(StoreError, match="already open in this process"), store.transaction():
            pass
    with store.transaction():
        pass


def test_a_process_without_a_break_leaves_a_gap_in_which_others_get_their_turn(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(owned.time, "sleep", pauses.append)
    end = time.monotonic() + 4 * owned._BREAK_AFTER
    while time.monotonic() < end:
        with turn(store.path, read_only=False, wait_seconds=0.1):
            pass
    assert pauses
    assert set(pauses) == {owned._GAP}
    assert owned._GAP > 1.5 * owned._LONGEST_PAUSE  # the longest that one who waits may sleep
    pauses.clear()
    with turn(store.path.with_name("other.duckdb"), read_only=False, wait_seconds=0.1):
        pass
    assert not pauses


def test_a_file_that_is_not_there_has_no_turn_and_is_not_made(store: Store) -> None:
    missing = store.path.with_name("missing.duckdb")
    with turn(missing, read_only=False, wait_seconds=0.1):
        pass
    assert not missing.exists()
