"""Runs are what was asked, attempts what happened; identity, states, --force and labels."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from store_examples import GENERATION, import_corpus, prediction, start_python, start_run

from cdner.errors import StoreError
from cdner.files import content_hash
from cdner.store import Store
from cdner.store.llm_log import load_completions, save_completions, save_reasoning, save_requests
from cdner.store.predictions import predicted_positions, save_predictions
from cdner.store.runs import (
    OUTPUT_TABLES,
    begin_attempt,
    done_runs,
    finish_attempt,
    label_experiment,
    list_runs,
    load_run,
    run_spec,
    run_state,
)
from cdner.types import Completion, Entity, Message, ReasoningChain, ReasoningRequest, Sampling

BEGIN_AND_WAIT = """
import sys, time
from pathlib import Path
from cdner.store import Store
from cdner.store.runs import begin_attempt, run_spec
begin_attempt(Store(Path(sys.argv[1])), run_spec("train", 1, {}, ()), {})
print("begun", flush=True)
time.sleep(60)
"""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cdner.duckdb")


def test_the_run_id_is_the_hash_of_step_version_settings_and_inputs():
    spec = run_spec("train", 2, {"seed": 1}, ["b", "a"])
    assert spec.run_id == content_hash(
        {"step": "train", "version": 2, "settings": {"seed": 1}, "inputs": ["b", "a"]}
    )
    others = [
        run_spec("predict", 2, {"seed": 1}, ["b", "a"]),
        run_spec("train", 1, {"seed": 1}, ["b", "a"]),
        run_spec("train", 2, {"seed": 2}, ["b", "a"]),
        run_spec("train", 2, {"seed": 1}, ["a", "b"]),
    ]
    assert len({spec.run_id, *(other.run_id for other in others)}) == 5
    assert run_spec("train", 2, {"x": 1, "seed": 2}, ()) == run_spec("train", 2, {"seed": 2, "x": 1}, ())


def test_a_run_is_loaded_as_it_was_asked(store):
    spec = run_spec(
        "train", 1, {"rate": 1e-05, "one": 1.0, "names": ["ł", "\u2028"], "none": None}, ("b", "a")
    )
    begin_attempt(store, spec, {"device": "cpu"})
    assert load_run(store, spec.run_id) == spec
    with pytest.raises(StoreError, match="No run absent"):
        load_run(store, "absent")


def test_states_follow_the_latest_attempt(store):
    spec = run_spec("train", 1, {}, ())
    assert run_state(store, spec.run_id) == "absent"
    assert not store.path.exists()
    for status, state in (
        ("failed", "failed"),
        ("partial", "partial"),
        ("interrupted", "partial"),
        ("done", "done"),
    ):
        attempt = begin_attempt(store, spec, {})
        assert run_state(store, spec.run_id) == "running"
        finish_attempt(store, attempt, status, "why")
        assert run_state(store, spec.run_id) == state
    assert run_state(store, "another") == "absent"
    with pytest.raises(StoreError, match=r"No attempt x\.9"):
        finish_attempt(store, "x.9", "done")


def test_an_attempt_remembers_where_and_by_what_it_was_executed(store):
    attempt = begin_attempt(store, run_spec("train", 1, {}, ()), {"device": "cuda:0"})
    finish_attempt(store, attempt, "failed", "no disk")
    with store.reading() as connection:
        row = connection.execute(
            "SELECT pid, execution->>'device', versions->>'cdner', versions->>'duckdb', error,"
            " finished_utc >= started_utc FROM attempt"
        ).fetchone()
    import duckdb

    import cdner

    assert row == (os.getpid(), "cuda:0", cdner.__version__, duckdb.__version__, "no disk", True)


def test_a_run_in_a_live_process_is_running_and_cannot_be_begun_twice(store):
    spec = run_spec("train", 1, {}, ())
    child = start_python(BEGIN_AND_WAIT, store.path)
    assert child.stdout.readline() == "begun\n"
    try:
        assert run_state(store, spec.run_id) == "running"
        with pytest.raises(StoreError, match=f"being executed by process {child.pid} on "):
            begin_attempt(store, spec, {})
    finally:
        child.kill()
        child.communicate()
    assert run_state(store, spec.run_id) == "partial"
    assert begin_attempt(store, spec, {}) == f"{spec.run_id}.2"
    with store.reading() as connection:
        statuses = connection.execute("SELECT status FROM attempt ORDER BY attempt_n").fetchall()
    assert statuses == [("interrupted",), ("running",)]


def test_a_reused_process_id_is_not_taken_for_the_run_s_process(store):
    spec = run_spec("train", 1, {}, ())
    begin_attempt(store, spec, {})
    with store.transaction() as connection:
        connection.execute("UPDATE attempt SET process_start = process_start || '0'")
    assert run_state(store, spec.run_id) == "partial"


def test_an_unfinished_run_on_another_host_counts_as_running_until_forced(store):
    spec = run_spec("train", 1, {}, ())
    begin_attempt(store, spec, {})
    with store.transaction() as connection:
        connection.execute("UPDATE attempt SET host = 'elsewhere'")
    assert run_state(store, spec.run_id) == "running"
    with pytest.raises(StoreError, match="on elsewhere"):
        begin_attempt(store, spec, {})
    begin_attempt(store, spec, {}, force=True)


def test_force_deletes_the_outputs_of_this_run_only_and_no_completion(store):
    corpus_run = import_corpus(store)
    items = [(0, prediction(Entity(0, 1, "actor")), GENERATION)]
    specs = [run_spec("predict", 1, {"seed": seed}, (corpus_run,)) for seed in (0, 1)]
    request = ReasoningRequest((Message("user", "why"),), Sampling(3))
    ids = save_requests(store, "scripted", "m", [request])
    save_completions(store, "r1", [(ids[0], Completion("because", "stop", 1, 0, 1))])
    for spec in specs:
        finish_attempt(store, begin_attempt(store, spec, {}), "done")
        save_predictions(store, spec.run_id, items, corpus_run_id=corpus_run)
        save_reasoning(store, spec.run_id, [(0, ids[0], ReasoningChain("a", "b"))])
    begin_attempt(store, specs[0], {}, force=True)
    with store.reading() as connection:
        left = {
            table
            for table in OUTPUT_TABLES
            if connection.execute(f"SELECT 1 FROM {table} WHERE run_id = ?", [specs[0].run_id]).fetchone()
        }
    assert left == set()
    assert predicted_positions(store, specs[1].run_id) == {0}
    assert load_completions(store, ids)[ids[0]].text == "because"


def test_every_table_with_a_run_id_is_an_output_or_describes_the_run_itself(store):
    import_corpus(store)
    with store.reading() as connection:
        tables = {
            name
            for (name,) in connection.execute(
                "SELECT c.table_name FROM duckdb_columns() AS c JOIN duckdb_tables() AS t USING (table_oid)"
                " WHERE c.column_name = 'run_id'"
            ).fetchall()
        }
    assert tables == {*OUTPUT_TABLES, "run", "run_input", "attempt", "experiment_run"}


def test_labels_are_added_or_replaced(store):
    runs = [run_spec("train", 1, {"seed": seed}, ()).run_id for seed in (0, 1)]
    for seed in (0, 1):
        finish_attempt(store, begin_attempt(store, run_spec("train", 1, {"seed": seed}, ()), {}), "done")
    label_experiment(store, "demo", [(runs[0], "full"), (runs[0], "full"), (runs[0], "other")])
    label_experiment(store, "demo", [(runs[1], "full")])
    label_experiment(store, "else", [(runs[1], "x")])
    labels = {run.run_id: run.labels for run in list_runs(store)}
    assert labels == {runs[0]: ("demo/full", "demo/other"), runs[1]: ("demo/full", "else/x")}
    label_experiment(store, "demo", [(runs[1], "new")], replace=True)
    labels = {run.run_id: run.labels for run in list_runs(store)}
    assert labels == {runs[0]: (), runs[1]: ("demo/new", "else/x")}
    assert [run.run_id for run in list_runs(store, experiment="demo")] == [runs[1]]


def test_runs_are_listed_with_the_latest_attempt_the_latest_first(store):
    first, second = run_spec("train", 1, {}, ()), run_spec("predict", 1, {}, ())
    finish_attempt(store, begin_attempt(store, first, {}), "done")
    finish_attempt(store, begin_attempt(store, second, {}), "done")
    finish_attempt(store, begin_attempt(store, first, {}), "failed", "no disk")
    rows = [(run.run_id, run.state, run.n_attempts, run.error) for run in list_runs(store)]
    assert rows == [(first.run_id, "failed", 2, "no disk"), (second.run_id, "done", 1, "")]
    assert [run.step for run in list_runs(store, step="predict")] == ["predict"]


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=8,
    )
)
def test_the_identity_survives_a_json_column(settings):
    import json

    from cdner.files import canonical_json

    again = json.loads(canonical_json(settings))
    assert run_spec("train", 1, again, ()).run_id == run_spec("train", 1, settings, ()).run_id


def test_runs_are_found_done_together_as_one_by_one(store):
    assert done_runs(store, ["absent"]) == set()
    run_ids = []
    for number, statuses in enumerate(
        (["done"], ["failed", "done"], ["done", "partial"], ["interrupted"], [])
    ):
        run_ids.append(start_run(store, "train", seed=number))
        for n_finished, status in enumerate(statuses, start=1):
            if n_finished > 1:
                start_run(store, "train", seed=number)
            finish_attempt(store, f"{run_ids[-1]}.{n_finished}", status)
    one_by_one = {run_id for run_id in run_ids if run_state(store, run_id) == "done"}
    assert done_runs(store, [*run_ids, "absent"]) == one_by_one == set(run_ids[:2])
