"""``cdner doctor`` on a sound machine and on a ruined one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from cli_stores import Shell, start_cdner, study_store

SECRET = "sk-very-secret-0123456789"
# The examination in a process where nobody may connect to anything, and what it has imported at the end.
ALONE = """
import socket, sys
def connect(*address):
    raise AssertionError(f"connects to {address}")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = connect
from cdner.cli import run_cli
code = run_cli(sys.argv[1:])
print(sorted({"torch", "transformers", "vllm", "openai"} & set(sys.modules)), file=sys.stderr)
sys.exit(code)
"""


@pytest.fixture
def shell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(capsys, study_store(tmp_path / "s.duckdb").path)


def test_without_a_problem_the_exit_code_is_0_and_nobody_is_connected_to(tmp_path: Path) -> None:
    study_store(tmp_path / "s.duckdb")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OPENAI_", "CDNER_"))}
    done = subprocess.run(
        [sys.executable, "-c", ALONE, "--store", str(tmp_path / "s.duckdb"), "doctor", "--json"],
        env={**kept, "PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr.endswith("[]\n"), done.stderr
    found = json.loads(done.stdout)
    assert done.returncode == 0, found
    assert {row["state"] for row in found} <= {"ok", "warning"}
    assert all(bool(row["fix"]) == (row["state"] != "ok") for row in found)
    subjects = {row["subject"] for row in found}
    assert {"python", "packages", "torch", "gpu", "memory", "vllm", "wordnet", "store", "corpora"} <= subjects
    assert "server" not in subjects


def test_a_ruined_machine_is_told_all_its_problems_with_a_fix_each(tmp_path: Path) -> None:
    store = tmp_path / "s.duckdb"
    store.write_text("no database at all, whatever its name says. " * 200)
    snapshot = tmp_path / "hub" / "models--google--flan-t5-base" / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    whole = tmp_path / "hub" / "models--our--t5" / "snapshots" / "4567"
    whole.mkdir(parents=True)
    (whole / "model.safetensors").write_bytes(b"weights")
    ruin = {
        "HOME": str(tmp_path),
        "CDNER_CACHE": str(tmp_path / "cache"),
        "CDNER_CORPORA": str(tmp_path / "nowhere"),
        "CDNER_VLLM_PYTHON": str(tmp_path / "python"),
        "HF_HUB_CACHE": str(tmp_path / "hub"),
        "NLTK_DATA": str(tmp_path / "no_nltk_data"),
        "OPENAI_API_KEY": f"{SECRET} {SECRET}",
        "OPENAI_BASE_URL": "localhost",
    }
    listed, err = start_cdner("--store", store, "doctor", "--nl", **ruin).communicate(timeout=120)
    assert err == ""
    found = [json.loads(line) for line in listed.splitlines()]
    problems = [row["subject"] for row in found if row["state"] == "problem"]
    assert problems == ["key: OPENAI_API_KEY", "OPENAI_BASE_URL", "vllm", "store", "CDNER_CORPORA"]
    warnings = [(row["subject"], row["fix"]) for row in found if row["state"] == "warning"]
    assert ("embedded model", "cdner models fetch embedded") in warnings
    assert ("hub cache", "hf download google/flan-t5-base") in warnings
    assert ("hub cache", "1 models: our/t5") in [(row["subject"], row["found"]) for row in found]
    assert SECRET not in listed


def test_each_finding_is_a_line_with_its_fix_below_and_a_problem_is_exit_code_1(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", f"'{SECRET}'")
    done = shell("doctor")
    lines = done.out.splitlines()
    at = lines.index("problem  key: OPENAI_API_KEY: present, with quotation marks in it")
    assert lines[at + 1] == "         -> Set OPENAI_API_KEY again, without it."
    assert lines[-1].startswith("1 problems, ")
    assert (done.code, done.err) == (1, "")
    assert SECRET not in done.out
