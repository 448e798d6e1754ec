"""One store, many processes: writers, readers all the while, and one that does not let go. Nothing lost or doubled."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path

import pytest
from pipeline_experiments import CALLS, cdner, sql
from store_examples import import_corpus, long_corpus, start_python

from cdner.store import Store
from cdner.store.verify import verify

N_SENTENCES, N_ROUNDS = 40, 2
WRITE = """
import sys
from pathlib import Path
from store_examples import DOMAIN, long_corpus
from cdner.store import Store
from cdner.store.corpora import save_corpus
from cdner.store.llm_log import save_completions, save_requests
from cdner.store.runs import begin_attempt, finish_attempt, run_spec
from cdner.types import Completion, Message, ReasoningRequest, Sampling
store, name = Store(Path(sys.argv[1])), sys.argv[2]
for n in range(int(sys.argv[3])):
    spec = run_spec("import", 1, {"writer": name, "round": n}, ())
    attempt = begin_attempt(store, spec, {})
    save_corpus(store, spec.run_id, long_corpus(int(sys.argv[4])), DOMAIN)
    request = ReasoningRequest((Message("user", f"{name} {n}"), Message("user", "asked by all")), Sampling(5))
    ids = save_requests(store, "scripted", "m", [request])
    save_completions(store, spec.run_id, [(ids[0], Completion(f"{name} {n}", "stop", 1, 0, 1))])
    finish_attempt(store, attempt, "done")
"""
READ_UNTIL_TOLD = """
import sys, time
from pathlib import Path
from cdner.store import Store
store, n_read, seen = Store(Path(sys.argv[1])), 0, 0
while not Path(sys.argv[3]).exists():
    time.sleep(0.05)
    with store.reading() as connection:
        rows = connection.execute(
            "SELECT (SELECT count(*) FROM corpus_sentence AS s WHERE s.run_id = corpus.run_id),"
            " (SELECT count(*) FROM gold_entity AS g WHERE g.run_id = corpus.run_id), status = 'done'"
            " FROM corpus JOIN latest_attempt USING (run_id)"
        ).fetchall()
    n = int(sys.argv[2])
    assert set(rows) <= {(0, 0, False), (n, n, False), (n, n, True)}, rows
    assert len(rows) >= seen, "a corpus is gone"
    n_read, seen = n_read + 1, len(rows)
print(n_read)
"""
HOLD = """
import sys, time
from pathlib import Path
from cdner.store import Store
with Store(Path(sys.argv[1]), wait_seconds=float(sys.argv[3])).transaction():
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


@pytest.fixture(autouse=True)
def _log_of_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CALLS, str(tmp_path / "calls"))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    found = Store(tmp_path / "s.duckdb")
    import_corpus(found, long_corpus(N_SENTENCES))
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("n_writers", "n_readers"), [(2, 1), (8, 2)])
def test_writers_lose_nothing_while_readers_see_whole_transactions(
    store: Store, tmp_path: Path, n_writers: int, n_readers: int
) -> None:
    enough = tmp_path / "enough"
    readers = [start_python(READ_UNTIL_TOLD, store.path, N_SENTENCES, enough) for _ in range(n_readers)]
    names = [f"writer {n}" for n in range(n_writers)]
    writers = [start_python(WRITE, store.path, name, N_ROUNDS, N_SENTENCES) for name in names]
    for writer in writers:
        _, errors = writer.communicate(timeout=600)
        assert (writer.returncode, errors) == (0, "")
    enough.touch()
    for reader in readers:
        n_read, errors = reader.communicate(timeout=600)
        assert errors == ""
        assert int(n_read) > 0
    texts = sql(store.path, "SELECT text FROM completion ORDER BY ALL")
    assert texts == sorted((f"{name} {n}",) for name in names for n in range(N_ROUNDS))
    n_corpora = 1 + n_writers * N_ROUNDS
    counted = "SELECT count(*), count(DISTINCT run_id) FROM "
    assert sql(store.path, f"{counted} corpus_sentence") == [(n_corpora * N_SENTENCES, n_corpora)]
    assert sql(store.path, f"{counted} attempt WHERE status = 'done'") == [(n_corpora, n_corpora)]
    assert verify(store) == []


def test_the_patience_is_with_one_holder_not_with_many_who_take_turns(store: Store) -> None:
    """Eight writers on a busy machine: the last one's turn may come after more than a minute."""
    holders = [start_python(HOLD, store.path, 1.5, 4) for _ in range(5)]
    started = time.monotonic()
    for holder in holders:  # each waits for no holder longer than its four seconds, the last for all others
        assert holder.wait() == 0, holder.communicate()
    assert time.monotonic() - started > 5


def test_a_command_waits_for_a_store_that_another_process_holds_for_a_while(store: Store) -> None:
    holder = start_python(HOLD, store.path, 1.5, 60)
    assert holder.stdout.readline() == "held\n"
    started = time.monotonic()
    ran = cdner(store.path, "import", "demo")
    assert ran.code == 0, ran.err
    assert time.monotonic() - started > 0.5
    assert holder.wait() == 0


@pytest.mark.parametrize(
    "command",
    [
        ("import", "demo"),
        ("runs",),
        ("store", "verify"),
        ("sql", "SELECT 1"),
        ("bundle", "pack", "texts.zip"),
    ],
    ids=" ".join,
)
def test_a_store_held_for_too_long_is_one_line_that_names_the_holder(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Store.__init__, "__defaults__", (0.5,))  # seconds instead of a minute
    before = store.path.read_bytes()
    holder = start_python(HOLD, store.path, 60, 60)
    try:
        assert holder.stdout.readline() == "held\n"
        ran = cdner(store.path, *command)
    finally:
        os.kill(holder.pid, signal.SIGKILL)
        holder.communicate()
    assert ran.code == 1
    expected = rf"Error: The store \S+ was held by process {holder.pid} \(.+\) for 0\.5 seconds\. Wait .+\n"
    assert re.fullmatch(expected, ran.err.splitlines(keepends=True)[-1]), ran.err
    assert "Traceback" not in ran.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s.duckdb"]
    assert store.path.read_bytes() == before
    assert verify(store) == []
