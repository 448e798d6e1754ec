"""Several processes share each optimiser step: what they train, and what becomes of them when one ends."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from pipeline_experiments import (
    CALLS,
    cdner,
    ended,
    shared_folder,
    sql,
    start_cdner,
    wait_for,
    write_experiment,
)
from safetensors.torch import load_file
from torch.distributed import TCPStore

# Sums of fp32 numbers in another order differ in the last digits: what two processes may differ by from one.
LOSS_TOLERANCE, WEIGHT_TOLERANCE = 1e-5, 1e-3
LOG = "SELECT epoch, step, train_loss, dev_loss FROM train_log ORDER BY run_id, epoch"
Patch = Callable[[], None]


@pytest.fixture(autouse=True)
def _log_of_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CALLS, str(tmp_path / "calls"))


@contextmanager
def launcher(n: int) -> Iterator[list[dict[str, str]]]:
    """What ``torchrun`` is to its processes: a store to meet at, which outlives them, and an environment for each."""
    meeting = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(meeting.port), "WORLD_SIZE": str(n)}
    yield [
        {**common, "RANK": str(rank), "LOCAL_RANK": str(rank), "TORCHELASTIC_USE_AGENT_STORE": "True"}
        for rank in range(n)
    ]


def launched(
    n: int, store: Path, *command: object, patches: dict[int, Patch] | None = None, interrupt: str = ""
) -> list[tuple[int, str]]:
    """Exit code and output of each process of one command; ``interrupt``: Ctrl-C when the leader has said this."""
    logs = [store.parent / f"log{rank}" for rank in range(n)]
    with launcher(n) as environments:
        started = [
            start_cdner(store, *command, log=log, patch=(patches or {}).get(rank), **environment)
            for rank, (log, environment) in enumerate(zip(logs, environments, strict=True))
        ]
        if interrupt:
            wait_for(lambda: logs[0].exists() and interrupt in logs[0].read_text())
            for process in started:
                os.kill(process.pid or 0, signal.SIGINT)
        codes = [ended(process) for process in started]
    return [(code, log.read_text()) for code, log in zip(codes, logs, strict=True)]


def train_command(
    folder: Path, *options: str, batch_size: int = 2, accumulation: int = 2
) -> tuple[object, ...]:
    """Two epochs of the target model without source, in a sample of the demo corpora."""
    experiment = folder / "tiny.toml"
    if not experiment.exists():
        write_experiment(folder, "causal")
    sizes = {"batch_size": batch_size, "gradient_accumulation": accumulation, "epochs": 3}
    settings = [f"--set=train_target.{name}={value}" for name, value in sizes.items()]
    return ("train", "-e", experiment, "--setting", "without_source", *settings, *options)


def weights(store: Path) -> dict[str, torch.Tensor]:
    [(path,)] = sql(store, "SELECT path FROM checkpoint")
    return load_file(store.parent / path / "model.safetensors")


def difference(store: Path, other: Path, base: Path) -> float:
    """How far two trained models are apart, as a share of how far training moved them from the base model."""
    ours, theirs, before = weights(store), weights(other), load_file(base / "model.safetensors")
    apart = sum((ours[name] - theirs[name]).square().sum().item() for name in ours)
    moved = sum((theirs[name] - before[name]).square().sum().item() for name in ours if name in before)
    return math.sqrt(apart / moved)


def assert_same_training(store: Path, alone: Path, base: Path) -> None:
    assert sql(store, "SELECT run_id FROM checkpoint") == sql(alone, "SELECT run_id FROM checkpoint")
    for ours, theirs in zip(sql(store, LOG), sql(alone, LOG), strict=True):
        assert ours == pytest.approx(theirs, rel=LOSS_TOLERANCE)
    assert difference(store, alone, base) < WEIGHT_TOLERANCE


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of one process that accumulates two batches a step."""
    folder = tmp_path_factory.mktemp("alone")
    store = folder / "s.duckdb"
    ran = cdner(store, *train_command(folder))
    assert ran.code == 0, ran.err
    return store


def test_two_processes_train_what_one_trains_with_doubled_accumulation(tmp_path: Path, alone: Path) -> None:
    store = tmp_path / "s.duckdb"
    (code, out), follower = launched(2, store, *train_command(tmp_path))
    assert code == 0, out
    assert follower == (0, ""), "a process that follows says nothing"
    assert_same_training(store, alone, shared_folder() / "llama")
    assert sql(store, "SELECT DISTINCT status, attempt_n FROM attempt") == [("done", 1)]
    assert cdner(store, "store", "verify").code == 0
    found = cdner(store, *train_command(tmp_path), "--json")
    assert [row["state"] for row in found.rows] == ["found"], "alone it is the same run"
