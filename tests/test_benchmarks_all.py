"""The benchmarks' orchestrator, on benchmarks that take no time: a copy of it runs what stands beside it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SUITE = Path(__file__).resolve().parents[1] / "scripts" / "benchmarks"
MET = """
from pathlib import Path
import sys
from rows import at_most, publish
counted = Path(__file__).with_name("counted.txt")
counted.write_text(counted.read_text() + "." if counted.exists() else ".")
publish([at_most("a query", 0.25, 1, unit="s", on="10 rows")], Path(sys.argv[-1]), {"options": sys.argv[1:-2]})
"""
MISSED = """
from pathlib import Path
import sys
from rows import at_least, publish, stated
rows = [at_least("training", 1.2, 1.3, against="Trainer", on="8 sentences"), stated("growth", 1.02, unit="", on="-")]
publish(rows, Path(sys.argv[-1]))
"""
FAILING = "raise RuntimeError('the engine is not installed')"
OTHER_SHAPE = "import sys; open(sys.argv[-1], 'w').write('{}')"


@pytest.fixture
def suite(tmp_path):
    for name in ("all", "rows.py"):
        shutil.copy(SUITE / name, tmp_path / name)
    return tmp_path


def add(suite, name, text):
    (suite / name).write_text(text)
    (suite / name).chmod(0o755)


def run(suite, *options):
    command = [sys.executable, suite / "all", "--output", suite / "out.json", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    return done, json.loads((suite / "out.json").read_text()) if (suite / "out.json").exists() else {}


def test_the_figures_of_all_benchmarks_stand_in_one_table_and_one_file(suite):
    add(suite, "query", MET)
    add(suite, "training", MISSED)
    done, parts = run(suite)
    assert done.returncode == 3, done.stderr
    lines = done.stdout.splitlines()
    assert lines[2] == "| a query | - | 0.25 s | at most 1 s | yes | 10 rows |"
    assert lines[3] == "| training | Trainer | 1.2x | at least 1.3x | **no** | 8 sentences |"
    assert lines[4] == "| growth | - | 1.02 | - | - | - |"
    assert [row["met"] for name in ("query", "training") for row in parts[name]["rows"]] == [
        True,
        False,
        None,
    ]
    assert parts["query"]["machine"]["n_processors"] > 0
    assert parts["query"]["cpu_seconds"] > 0


@pytest.mark.parametrize(
    ("text", "reason"), [(FAILING, "the engine is not installed"), (OTHER_SHAPE, "no rows in its JSON")]
)
def test_a_benchmark_that_fails_is_reported_and_stops_no_other(suite, text, reason):
    add(suite, "engine", text)
    add(suite, "query", MET)
    done, parts = run(suite)
    assert done.returncode == 1
    assert "| a query |" in done.stdout
    assert f"Not measured: engine (exit code {parts['engine']['reason'][10:]})" in done.stdout
    assert reason in parts["engine"]["reason"]


def test_what_is_finished_is_measured_again_only_when_asked_and_what_failed_always(suite):
    add(suite, "engine", FAILING)
    add(suite, "query", MET)
    counted = suite / "counted.txt"
    run(suite)
    add(suite, "engine", MISSED)
    done, parts = run(suite)
    assert counted.read_text() == "."
    assert "rows" in parts["engine"]
    assert "| a query |" in done.stdout
    run(suite, "--again", "--only", "query")
    assert counted.read_text() == ".."


def test_only_the_benchmark_asked_for_runs_and_gets_the_folder(suite):
    add(suite, "engine", FAILING)
    add(suite, "query", MET)
    done, parts = run(suite, "--only", "query", "--corpora-from", str(suite))
    assert done.returncode == 0, done.stderr
    assert set(parts) == {"query"}
    assert parts["query"]["details"]["options"] == ["--corpora-from", str(suite)]


def test_every_benchmark_of_the_suite_is_found(suite):
    names = {path.name for path in SUITE.iterdir() if path.is_file() and not path.suffix}
    for name in names:
        shutil.copy(SUITE / name, suite / name)
    done = subprocess.run(
        [sys.executable, suite / "all", "--help"], capture_output=True, text=True, check=True
    )
    assert all(name in done.stdout for name in names - {"all"})
    assert {"backbone", "reasoning"} <= names
