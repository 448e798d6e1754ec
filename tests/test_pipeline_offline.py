"""The embedded experiment on a machine that can reach nothing: every socket but a local one raises."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_shelf import fetched_folder

ROOT = Path(__file__).resolve().parents[1]
# Python runs it before anything else, in every process that inherits the environment.
BLOCKED = """
import socket, sys

def refuse(connect):
    def connect_or_raise(self, address, *rest):
        if self.family != socket.AF_UNIX:
            print(f"BLOCKED: {address}", file=sys.stderr, flush=True)
            raise PermissionError(f"no network: {address}")
        return connect(self, address, *rest)
    return connect_or_raise

for name in ("connect", "connect_ex"):
    setattr(socket.socket, name, refuse(getattr(socket.socket, name)))

def resolve(host, *rest, **options):
    print(f"BLOCKED: {host}", file=sys.stderr, flush=True)
    raise PermissionError(f"no network: {host}")

socket.getaddrinfo = resolve
"""
SMALL = {
    "settings": '["full"]',
    **{f"corpora.n_{name}": 2 for name in ("source_train", "source_dev", "target_train", "target_dev")},
    "corpora.n_target_test": 1,
    **{f"train_{name}.epochs": 1 for name in ("source", "target", "augmented")},
    **{f"train_{name}.max_input_tokens": 96 for name in ("source", "target", "augmented")},
    "evidence.max_new_tokens": 4,
    "predict.max_new_tokens": 4,
    "describe.max_tokens": 4,
    "reason.max_tokens": 6,
    "reason.n_examples": 0,
}


def blocked(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    folder = tmp_path / "site"
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(BLOCKED)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join((str(folder), str(ROOT))),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.run(
        [sys.executable, "-P", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=800,
        check=False,
        cwd=tmp_path,
    )


def test_the_block_holds(tmp_path: Path) -> None:
    for address in ("('127.0.0.1', 9)", "('localhost', 9)"):
        tried = blocked(tmp_path, "-c", f"import socket; socket.create_connection({address})")
        assert tried.returncode == 1 and "BLOCKED: " in tried.stderr


@pytest.mark.slow
def test_the_embedded_experiment_runs_through_without_a_network(tmp_path: Path) -> None:
    assert fetched_folder("embedded") is not None, "scripts/test fetches it"
    store = tmp_path / "s.duckdb"
    options = [f"--set={key}={value}" for key, value in SMALL.items()]
    ran = blocked(tmp_path, "-m", "cdner", "--store", str(store), "run", "demo", *options, "--json")
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert [(row["setting"], row["split"]) for row in json.loads(ran.stdout)] == [("full", "test")]
    assert "BLOCKED" not in ran.stderr  # nobody even tried
    counted = blocked(
        tmp_path, "-m", "cdner", "--store", str(store), "sql", "--csv", "SELECT count(*) AS n FROM completion"
    )
    assert counted.stdout.split() == ["n", "14"]  # 11 descriptions; 2 sentences of train, 1 of test
