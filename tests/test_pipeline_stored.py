"""What needs no model and no LLM: confusion from stored tables, and replays from stored completions."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from pipeline_experiments import (
    CALLS,
    TESTS,
    calls,
    cdner,
    copy_of,
    dump,
    finished_store,
    shared_folder,
    sql,
    write_experiment,
)

from cdner.config import REASONING_SETTINGS
from cdner.store import Store
from cdner.store.confusion import load_confusion, load_misclassification, load_rivals

WITHOUT_TORCH = """
import resource, sys
from cdner.cli import run_cli
code = run_cli(sys.argv[1:])
heavy = {"torch", "transformers", "nltk", "openai"} & set(sys.modules)
used = resource.getrusage(resource.RUSAGE_SELF)
print(sorted(heavy), used.ru_utime + used.ru_stime, file=sys.stderr)
sys.exit(code)
"""


@pytest.fixture(autouse=True)
def _log_of_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CALLS, str(tmp_path / "calls"))


def quantify(store: Path, experiment: Path, *options: str) -> tuple[str, float]:
    """Run id and CPU seconds of a quantify that must not load any heavy library."""
    path = os.pathsep.join([str(TESTS.parent), str(TESTS), str(shared_folder() / "site")])
    command = ["--store", str(store), "--quiet", "quantify", "-e", str(experiment), "--json", *options]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, *command],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    heavy, _, seconds = done.stderr.strip().rpartition(" ")
    assert heavy.endswith("[]"), heavy
    (row,) = json.loads(done.stdout)
    return row["run_id"], float(seconds)


@pytest.mark.slow
def test_other_constants_are_computed_from_stored_tables_without_a_model(tmp_path: Path) -> None:
    store = copy_of(finished_store("seq2seq"), tmp_path / "copy")
    experiment = write_experiment(tmp_path)
    before = sql(store, "SELECT run_id FROM run WHERE step = 'quantify'")
    run_id, seconds = quantify(store, experiment, "--alpha", "0.9", "--w0", "4", "--rivals", "adaptive")
    assert (run_id,) not in before
    assert seconds < 5
    assert calls() == []
    observed = load_misclassification(Store(store), run_id).ratios
    found = load_confusion(Store(store), run_id)
    v_conf, u_hie, u_sim = (found[name].scores for name in ("v_conf", "u_hie", "u_sim"))
    k = len(observed)
    for i in range(k):
        implicit = [math.exp(4 * (0.9 * u_hie[i][j] + 0.5 * u_sim[i][j])) * (i != j) for j in range(k)]
        explicit = [math.exp(4 * observed[i][j]) * (i != j) for j in range(k)]
        for j in range(k):
            if i != j:
                expected = implicit[j] / sum(implicit) + explicit[j] / sum(explicit)
                assert v_conf[i][j] == pytest.approx(expected)
    old = load_confusion(Store(store), before[0][0])["v_conf"].scores
    assert abs(old - v_conf).max() > 1e-3
    assert max(map(len, load_rivals(Store(store), before[0][0]).values())) == 1


@pytest.mark.slow
def test_deleted_reasoning_is_rebuilt_by_replay_without_a_backend(tmp_path: Path) -> None:
    store = copy_of(finished_store("seq2seq"), tmp_path / "copy")
    before = dump(store)
    _forget_reasoning(store)
    replayed = cdner(store, "run", write_experiment(tmp_path), "--backend", "replay", "--until", "reason")
    assert replayed.code == 0, replayed.err
    assert calls() == []
    assert dump(store) == before


@pytest.mark.slow
def test_replay_names_the_completion_it_lacks_and_asks_nobody(tmp_path: Path) -> None:
    store = copy_of(finished_store("seq2seq"), tmp_path / "copy")
    _forget_reasoning(store)
    run_id = sql(store, "SELECT run_id FROM experiment_run WHERE label = 'reason:full/dev'")[0][0]
    with Store(finished_store("seq2seq")).reading() as connection:
        statement = "SELECT request_id FROM reasoning WHERE run_id = ? ORDER BY position"
        missing = [row[0] for row in connection.execute(statement, [run_id]).fetchall()][2]
    with Store(store).transaction() as connection:
        connection.execute("DELETE FROM completion WHERE request_id = ?", [missing])
    command = ("run", write_experiment(tmp_path), "--backend", "replay", "--until", "reason:full/dev")
    refused = cdner(store, *command)
    assert refused.code == 1
    assert (
        f"1 of 5 completions are not in the store; the first is request {missing} (number 2)" in refused.err
    )
    assert calls() == []
    (row,) = [
        run for run in cdner(store, "runs", "--step", "reason", "--json").rows if run["run_id"] == run_id
    ]
    assert row["state"] == "failed"
    assert cdner(store, *command[:2], "--until", "reason:full/dev").code == 0
    assert len(calls()) == 1


@pytest.mark.slow
def test_copied_completions_replay_a_whole_experiment_in_another_store(tmp_path: Path) -> None:
    original, store = finished_store("seq2seq"), tmp_path / "s.duckdb"
    assert cdner(store, "import", "demo").code == 0
    tables = ("request", "request_message", "prompt_text", "completion")
    with Store(original).reading() as connection:
        copied = {table: connection.execute(f"FROM {table}").fetchall() for table in tables}
    with Store(store).transaction() as connection:
        for table, rows in copied.items():
            connection.executemany(f"INSERT INTO {table} VALUES ({', '.join('?' * len(rows[0]))})", rows)
    experiment = write_experiment(tmp_path, settings=("full",))
    replayed = cdner(store, "run", experiment, "--backend", "replay", "--json")
    assert replayed.code == 0, replayed.err
    assert calls() == []
    expected = json.loads((original.parent / "table.json").read_text())
    assert replayed.rows == [row for row in expected if row["setting"] == "full"]


def _forget_reasoning(store: Path) -> None:
    names = ", ".join(f"'{name}'" for name in REASONING_SETTINGS)
    with Store(store).transaction() as connection:
        chosen = "SELECT run_id FROM run WHERE step = 'reason'"
        n_runs = connection.execute(f"SELECT count(*) FROM ({chosen})").fetchone()
        assert n_runs == (3 * len(names.split(", ")),)
        for table in ("reasoning", "attempt"):
            connection.execute(f"DELETE FROM {table} WHERE run_id IN ({chosen})")
