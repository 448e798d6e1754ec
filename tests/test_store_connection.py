"""Many processes, one file: nothing is lost, a killed writer harms nothing, and every refusal is one line."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest
from store_examples import CORPUS, import_corpus, start_python, start_run

from cdner.errors import StoreError, StoreLockedError
from cdner.store import Store
from cdner.store.corpora import load_corpus
from cdner.store.predictions import predicted_positions, save_predictions
from cdner.store.rows import insert_rows
from cdner.store.runs import begin_attempt, run_spec, run_state
from cdner.store.verify import verify

WRITE_COMPLETIONS = """
import sys
from pathlib import Path
from cdner.store import Store
from cdner.store.llm_log import save_completions, save_requests
from cdner.types import Completion, Message, ReasoningRequest, Sampling
store, name = Store(Path(sys.argv[1])), sys.argv[2]
for n in range(int(sys.argv[3])):
    request = ReasoningRequest((Message("user", f"{name} {n}"), Message("user", "asked by all")), Sampling(5))
    ids = save_requests(store, "scripted", "m", [request])
    save_completions(store, "r1", [(ids[0], Completion(f"{name} {n}", "stop", 1, 0, 1))])
"""
HOLD = """
import sys, time
from pathlib import Path
from cdner.store import Store
with Store(Path(sys.argv[1])).transaction():
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "below" / "cdner.duckdb")


def test_two_processes_that_create_and_write_one_store_lose_nothing(store):
    children = [start_python(WRITE_COMPLETIONS, store.path, name, 12) for name in ("one", "two")]
    for child in children:
        _, errors = child.communicate(timeout=120)
        assert child.returncode == 0, errors
    with store.reading() as connection:
        texts = connection.execute("SELECT text FROM completion").fetchall()
        shared = connection.execute("SELECT count(*) FROM prompt_text WHERE text = 'asked by all'").fetchone()
    assert sorted(texts) == sorted((f"{name} {n}",) for name in ("one", "two") for n in range(12))
    assert shared == (1,)
    assert verify(store) == []
    assert sorted(path.name for path in store.directory.iterdir()) == ["cdner.duckdb"]


def test_a_locked_store_is_reported_with_the_process_that_holds_it(store):
    import_corpus(store)
    child = start_python(HOLD, store.path)
    try:
        assert child.stdout.readline() == "held\n"
        impatient = Store(store.path, wait_seconds=0.3)
        for use in (impatient.transaction, impatient.reading):
            with (
                pytest.raises(StoreLockedError, match=rf"held by process {child.pid} \(.*\) for 0.3 seconds"),
                use(),
            ):
                pass
    finally:
        child.kill()
        child.communicate()
    with store.transaction() as connection:
        connection.execute("SELECT 1")


def test_two_readers_at_once_do_not_wait_for_each_other(store):
    import_corpus(store)
    child = start_python(HOLD.replace(".transaction()", ".reading()"), store.path)
    try:
        assert child.stdout.readline() == "held\n"
        with Store(store.path, wait_seconds=0).reading() as connection:
            assert connection.execute("SELECT count(*) FROM corpus_sentence").fetchone() == (4,)
    finally:
        child.kill()
        child.communicate()


def test_threads_of_one_process_take_turns(store):
    import_corpus(store)
    failures = []

    def work(n: int) -> None:
        try:
            for turn in range(3):
                run_state(store, "absent")
                begin_attempt(store, run_spec("predict", 1, {"thread": n, "turn": turn}, ()), {})
        except StoreError as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    with store.reading() as connection:
        assert connection.execute("SELECT count(*) FROM attempt").fetchone() == (13,)


def test_a_transaction_inside_reading_is_refused_at_once(store):
    import_corpus(store)
    started = time.monotonic()
    with (
        store.reading(),
        pytest.raises(StoreError, match="already open in this process"),
        store.transaction(),
    ):
        pass
    assert time.monotonic() - started < 5


def test_an_exception_rolls_the_whole_transaction_back(store):
    run_id = import_corpus(store)
    with pytest.raises(KeyboardInterrupt), store.transaction() as connection:
        connection.execute("DELETE FROM corpus_sentence")
        raise KeyboardInterrupt
    assert load_corpus(store, run_id) == CORPUS


def test_a_wrong_entity_leaves_nothing_of_its_chunk(store):
    from store_examples import GENERATION, prediction

    from cdner.types import Entity

    corpus_run = import_corpus(store)
    run_id = start_run(store, "predict", corpus_run)
    items = [
        (0, prediction(Entity(0, 1, "actor")), GENERATION),
        (1, prediction(Entity(1, 9, "actor")), GENERATION),
    ]
    with pytest.raises(StoreError, match="outside the 2 tokens of sentence 1"):
        save_predictions(store, run_id, items, corpus_run_id=corpus_run)
    assert predicted_positions(store, run_id) == set()


def test_reading_a_missing_store_is_one_line_and_makes_no_file(store):
    with pytest.raises(StoreError, match="There is no store at"), store.reading():
        pass
    assert not store.path.parent.exists()


@pytest.mark.parametrize("content", [b"", b"not a database\n" * 999])
def test_a_file_that_is_no_duckdb_is_refused_and_left_alone(store, content):
    store.path.parent.mkdir()
    store.path.write_bytes(content)
    for use in (store.transaction, store.reading):
        with pytest.raises(StoreError, match="is not a DuckDB file"), use():
            pass
    assert store.path.read_bytes() == content


def test_somebody_elses_duckdb_is_refused(store):
    import duckdb

    store.path.parent.mkdir()
    duckdb.connect(str(store.path)).execute("CREATE TABLE theirs (a INTEGER)").close()
    with pytest.raises(StoreError, match="no store of cdner"), store.transaction():
        pass


def test_a_place_where_no_store_can_be_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(StoreError, match="cannot be created"),
        Store(tmp_path / "file" / "s.duckdb").transaction(),
    ):
        pass
    with pytest.raises(StoreError, match="cannot be opened"), Store(tmp_path).transaction():
        pass


def test_ctrl_c_inside_a_query_is_an_interrupt(store):
    with store.transaction():
        pass
    threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    # With two threads DuckDB 2.0 hears the signal in about half of all runs: its main thread waits for the other.
    with pytest.raises(KeyboardInterrupt), store.reading({"threads": "1"}) as connection:
        connection.execute("SELECT count(*) FROM range(100000000) a, range(10000) b").fetchall()


def test_row_groups_are_small_so_that_closing_a_store_rewrites_little(store):
    n_rows = 10_000
    for first in (0, n_rows):
        rows = [(f"{first + number:024x}", "a text") for number in range(n_rows)]
        with store.transaction() as open_store:
            insert_rows(open_store, "prompt_text", ("text_id", "text"), rows)
    with store.reading() as open_store:
        found = open_store.execute(
            "SELECT row_group_id, max(start + count) - min(start) FROM pragma_storage_info('prompt_text') GROUP BY ALL"
        ).fetchall()
    assert len(found) >= 2 * n_rows / 2048
    assert max(n_in_group for _, n_in_group in found) <= 2048


def test_a_quote_in_the_stores_name_is_a_character(tmp_path):
    store = Store(tmp_path / "the film's.duckdb")
    import_corpus(store)
    assert [path.name for path in tmp_path.iterdir()] == ["the film's.duckdb"]
    assert verify(store) == []
