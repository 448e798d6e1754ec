"""A writer killed with SIGKILL leaves a store that opens, verifies and resumes; readers see whole transactions."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from store_examples import import_corpus, long_corpus, start_python, start_run

from cdner.store import Store
from cdner.store.corpora import BLOCK, list_corpora, load_corpus, save_corpus
from cdner.store.llm_log import load_reasoning
from cdner.store.predictions import load_predictions, predicted_positions
from cdner.store.runs import begin_attempt, finish_attempt, run_spec, run_state
from cdner.store.verify import verify

PREDICT_FOREVER = """
import sys
from pathlib import Path
from store_examples import GENERATION, prediction
from cdner.store import Store
from cdner.store.predictions import save_predictions
from cdner.store.runs import begin_attempt, load_run
from cdner.types import Entity
store, run_id, corpus_run_id = Store(Path(sys.argv[1])), sys.argv[2], sys.argv[3]
begin_attempt(store, load_run(store, run_id), {})
for position in range(0, 10_000, 10):
    chunk = [(position + n, prediction(Entity(0, 1, "actor")), GENERATION) for n in range(10)]
    save_predictions(store, run_id, chunk, corpus_run_id=corpus_run_id)
    print(position + 9, flush=True)
"""
REASON_FOREVER = """
import sys
from pathlib import Path
from cdner.store import Store
from cdner.store.llm_log import save_completions, save_reasoning, save_requests
from cdner.store.runs import begin_attempt, load_run
from cdner.types import Completion, Message, ReasoningChain, ReasoningRequest, Sampling
store, run_id = Store(Path(sys.argv[1])), sys.argv[2]
begin_attempt(store, load_run(store, run_id), {})
for position in range(10_000):
    request = ReasoningRequest((Message("system", "fixed" * 999), Message("user", str(position))), Sampling(5))
    ids = save_requests(store, "scripted", "m", [request])
    save_completions(store, "r1", [(ids[0], Completion("text", "stop", 1, 0, 1))])
    save_reasoning(store, run_id, [(position, ids[0], ReasoningChain("i", "b"))])
    print(position, flush=True)
"""
IMPORT_FOREVER = """
import sys
from pathlib import Path
from store_examples import DOMAIN, long_corpus
from cdner.store import Store
from cdner.store.corpora import save_corpus
from cdner.store.runs import begin_attempt, run_spec
store = Store(Path(sys.argv[1]))
corpus = long_corpus(20_000)
spec = run_spec("import", 1, {}, ())
begin_attempt(store, spec, {})
print("begun", flush=True)
while True:
    save_corpus(store, spec.run_id, corpus, DOMAIN)
    print("saved", flush=True)
"""


def last_line_before_kill(child, *, n_lines: int, delay: float = 0.0) -> str:
    """Read lines, wait, kill -9, and return the last line the child has written."""
    for _ in range(n_lines):
        line = child.stdout.readline()
        assert line, child.stderr.read()
    time.sleep(delay)
    child.kill()
    rest, errors = child.communicate()
    assert "Traceback" not in errors, errors
    return (line + rest).split()[-1]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "below" / "cdner.duckdb")


def finish_of_ours(store: Store, run_id: str) -> None:
    """Free the run for another process to execute."""
    finish_attempt(store, f"{run_id}.1", "interrupted")


def test_readers_always_see_whole_transactions_while_another_process_writes(store):
    corpus_run = import_corpus(store, long_corpus(10_000))
    run_id = start_run(store, "predict", corpus_run)
    finish_of_ours(store, run_id)
    child = start_python(PREDICT_FOREVER, store.path, run_id, corpus_run)
    sizes = []
    for _ in range(10):
        assert child.stdout.readline(), child.stderr.read()
        sizes.append(len(predicted_positions(store, run_id)))
    child.kill()
    child.communicate()
    assert all(size % 10 == 0 for size in sizes)
    assert sizes == sorted(sizes)
    assert sizes[-1] >= 100


@pytest.mark.parametrize("delay", [0.0, 0.013, 0.031])
def test_a_prediction_run_killed_at_any_point_verifies_and_resumes(store, delay):
    corpus_run = import_corpus(store, long_corpus(10_000))
    run_id = start_run(store, "predict", corpus_run)
    finish_of_ours(store, run_id)
    child = start_python(PREDICT_FOREVER, store.path, run_id, corpus_run)
    last = int(last_line_before_kill(child, n_lines=3, delay=delay))
    done = predicted_positions(store, run_id)
    assert set(range(last + 1)) <= done
    assert len(done) % 10 == 0
    assert {
        position: len(p.entities) for position, p in load_predictions(store, run_id).items()
    } == dict.fromkeys(done, 1)
    assert verify(store) == []
    assert run_state(store, run_id) == "partial"
    child = start_python(PREDICT_FOREVER, store.path, run_id, corpus_run)
    last_line_before_kill(child, n_lines=1)
    assert predicted_positions(store, run_id) == done


def test_a_reasoning_run_killed_at_any_point_keeps_every_answer(store):
    run_id = start_run(store, "reason")
    finish_of_ours(store, run_id)
    child = start_python(REASON_FOREVER, store.path, run_id)
    last = int(last_line_before_kill(child, n_lines=5, delay=0.02))
    assert load_reasoning(store, run_id).keys() >= set(range(last + 1))
    assert verify(store) == []
    assert run_state(store, run_id) == "partial"


@pytest.mark.parametrize("delay", [0.02, 0.15, 0.3])
def test_an_import_killed_at_any_point_has_whole_blocks_and_is_not_done(store, delay):
    child = start_python(IMPORT_FOREVER, store.path)
    last_line_before_kill(child, n_lines=1, delay=delay)
    spec = run_spec("import", 1, {}, ())
    assert run_state(store, spec.run_id) == "partial"
    assert verify(store) == []
    with store.reading() as connection:
        (n_sentences,) = connection.execute("SELECT count(*) FROM corpus_sentence").fetchone()
        (n_entities,) = connection.execute("SELECT count(*) FROM gold_entity").fetchone()
    assert n_sentences == n_entities
    assert n_sentences % BLOCK == 0
    assert list_corpora(store) == []
    begin_attempt(store, spec, {})
    corpus = long_corpus(30)
    from store_examples import DOMAIN

    save_corpus(store, spec.run_id, corpus, DOMAIN)
    assert load_corpus(store, spec.run_id) == corpus
