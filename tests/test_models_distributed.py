"""Several processes share each optimiser step: what they train, and what becomes of them when one ends."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from pipeline_experiments import (
    CALLS,
    TESTS,
    DieAt,
    cdner,
    copy_of,
    ended,
    shared_folder,
    sql,
    start_cdner,
    wait_for,
    write_experiment,
)
from safetensors.torch import load_file
from torch.distributed import TCPStore

from cdner.errors import ModelError, UsageError
from cdner.models import distributed

# Sums of fp32 numbers in another order differ in the last digits. Relative, of losses and of trained weights; measured
# 4e-6. Adam turns a gradient that is 0 but for rounding, as adapters have at first, into a step of either sign: 3e-3.
TOLERANCE, TOLERANCE_OF_ADAPTERS = 1e-4, 1e-2
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


def train_command(folder: Path, *options: str, epochs: int = 3, family: str = "causal") -> tuple[object, ...]:
    """Train on 6 sentences: a step of two batches of two, then one of one batch."""
    experiment = folder / "tiny.toml"
    if not experiment.exists():
        write_experiment(folder, family)
    settings = {"batch_size": 2, "gradient_accumulation": 2, "epochs": epochs}
    flags = [f"--set=train_target.{name}={value}" for name, value in settings.items()]
    return ("train", "-e", experiment, "--setting", "without_source", *flags, *options)


def weights(store: Path) -> dict[str, torch.Tensor]:
    [(path,)] = sql(store, "SELECT path FROM checkpoint")
    return load_file(store.parent / path / "model.safetensors")


def difference(store: Path, other: Path, base: Path) -> float:
    """How far two trained models are apart, as a share of how far training moved them from the base model."""
    ours, theirs, before = weights(store), weights(other), load_file(base / "model.safetensors")
    apart = sum((ours[name] - theirs[name]).square().sum().item() for name in ours)
    moved = sum((theirs[name] - before[name]).square().sum().item() for name in ours if name in before)
    return math.sqrt(apart / moved)


def assert_same_training(store: Path, alone: Path, base: Path, tolerance: float = TOLERANCE) -> None:
    assert sql(store, "SELECT run_id FROM checkpoint") == sql(alone, "SELECT run_id FROM checkpoint")
    for ours, theirs in zip(sql(store, LOG), sql(alone, LOG), strict=True):
        assert ours == pytest.approx(theirs, rel=tolerance)
    assert difference(store, alone, base) < tolerance


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of one process that accumulates two batches a step."""
    folder = tmp_path_factory.mktemp("alone")
    store = folder / "s.duckdb"
    ran = cdner(store, *train_command(folder))
    assert ran.code == 0, ran.err
    return store


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "s.duckdb"


def test_two_processes_train_what_one_trains_with_doubled_accumulation(
    store: Path, tmp_path: Path, alone: Path
) -> None:
    (code, out), follower = launched(2, store, *train_command(tmp_path))
    assert code == 0, out
    assert follower == (0, ""), "a process that follows says nothing"
    assert_same_training(store, alone, shared_folder() / "llama")
    assert sql(store, "SELECT DISTINCT status, attempt_n FROM attempt") == [("done", 1)]
    assert cdner(store, "store", "verify").code == 0
    found = cdner(store, *train_command(tmp_path), "--json")
    assert [row["state"] for row in found.rows] == ["found"], "alone it is the same run"


def test_uneven_and_empty_shares_weigh_by_their_tokens(store: Path, tmp_path: Path, alone: Path) -> None:
    """Three processes get 2, 1 and 1 of four examples, and 1, 1 and none of two."""
    processes = launched(3, store, *train_command(tmp_path))
    assert [code for code, _ in processes] == [0, 0, 0], processes
    assert_same_training(store, alone, shared_folder() / "llama")


def test_adapters_of_an_encoder_decoder_train_the_same(tmp_path: Path) -> None:
    """Without dropout, whose masks are drawn anew by every process."""
    model = shutil.copytree(shared_folder() / "t5", tmp_path / "t5")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "dropout_rate": 0.0}))
    command = train_command(
        tmp_path, "--backbone-model", str(model), "--set=train_target.lora_rank=4", family="seq2seq"
    )
    stores = [tmp_path / name / "s.duckdb" for name in ("alone", "shared")]
    for store in stores:
        store.parent.mkdir()
    assert cdner(stores[0], *command).code == 0
    assert [code for code, _ in launched(2, stores[1], *command)] == [0, 0]
    assert_same_training(stores[1], stores[0], model, TOLERANCE_OF_ADAPTERS)


# --- one of them ends -------------------------------------------------------------------------------------

IN_EPOCH_TWO = DieAt("cdner.models.distributed", "add_gradients", n=4)  # two steps an epoch


@pytest.mark.parametrize(("killed", "n_resuming"), [(0, 2), (1, 1)], ids=["the leader", "a follower"])
def test_the_end_of_one_is_the_end_of_all_in_one_line_and_others_go_on_from_there(
    killed: int, n_resuming: int, store: Path, tmp_path: Path, alone: Path
) -> None:
    processes = launched(2, store, *train_command(tmp_path), patches={killed: IN_EPOCH_TWO})
    assert processes[killed][0] == -signal.SIGKILL
    code, out = processes[1 - killed]
    assert code == 1
    assert "Traceback" not in out
    assert out.splitlines()[-1].startswith("Error: One of the 2 processes that train together has ended")
    assert out.count("Error") == 1
    assert "goes on after the last finished epoch" in out
    resumed = launched(n_resuming, store, *train_command(tmp_path))
    assert [code for code, _ in resumed] == [0] * n_resuming, resumed
    assert "training (4)" in resumed[0][1], "two epochs are left"
    assert_same_training(store, alone, shared_folder() / "llama")
    assert cdner(store, "store", "verify").code == 0


def test_ctrl_c_ends_all_in_one_line(store: Path, tmp_path: Path) -> None:
    leader, follower = launched(2, store, *train_command(tmp_path, epochs=500), interrupt="training (")
    assert leader[0] == 130
    assert leader[1].splitlines()[-1].startswith("Error: interrupted; finished work is stored")
    assert leader[1].count("Error") == 1
    assert follower == (1, "")
    assert sql(store, "SELECT status FROM latest_attempt WHERE step = 'train'") == [("interrupted",)]


def without_its_model() -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise ModelError("No checkpoint here.")

    sys.modules["cdner.models.training"].open_backbone = fails  # type: ignore[attr-defined]


def with_other_weights() -> None:
    module: Any = sys.modules["cdner.models.training"]
    original = module.open_backbone

    def changed(*arguments: Any, **options: Any) -> Any:
        backbone = original(*arguments, **options)
        next(iter(backbone.model.parameters())).data[0, 0] += 1
        return backbone

    module.open_backbone = changed


@pytest.mark.parametrize(
    ("patch", "told"),
    [
        (without_its_model, "Error: Process 1: No checkpoint here."),
        (with_other_weights, "Error: Process 1 does not train what process 0 trains: other weights"),
    ],
)
def test_the_leader_says_what_ails_another(patch: Patch, told: str, store: Path, tmp_path: Path) -> None:
    leader, follower = launched(2, store, *train_command(tmp_path), patches={1: patch})
    assert leader[0] == 1
    assert leader[1].splitlines()[-1].startswith(told)
    assert leader[1].count("Error") == 1
    assert follower == (1, "")


# --- other commands ---------------------------------------------------------------------------------------


def test_a_command_that_does_not_train_runs_once(alone: Path, tmp_path: Path) -> None:
    store = copy_of(alone, tmp_path / "copy")
    leader, follower = launched(2, store, "--quiet", "runs", "--csv")
    assert leader == (0, cdner(store, "runs", "--csv").out)
    assert follower == (0, "")


def test_a_wrong_command_is_told_once(store: Path) -> None:
    leader, follower = launched(2, store, "train", "--setting", "everything")
    assert leader[0] == 2
    assert leader[1].count("Error") == 1
    assert follower == (1, "")
    assert not store.exists()


def showing_its_environment() -> None:
    def shown(_: object) -> int:
        print(sorted({"RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"} & os.environ.keys()))
        return 0

    sys.modules["cdner.cli"]._invoke = shown  # type: ignore[attr-defined]


def test_the_launcher_s_environment_does_not_reach_programs_that_cdner_starts(store: Path) -> None:
    leader, _ = launched(2, store, patches={0: showing_its_environment})
    assert leader == (0, "[]\n")


def test_one_process_of_accelerate_launch_cpu_is_told_so(
    alone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    assert "Warning" not in cdner(alone, "runs").err
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    warned = cdner(alone, "runs")
    assert warned.code == 0
    assert "accelerate launch --cpu starts one process" in warned.err


def test_a_gpu_chosen_by_number_cannot_be_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "_joined", [distributed.Processes(rank=1, n=2, local_rank=1)])
    assert distributed.own_device("cuda", None) == "cuda:1"
    assert distributed.own_device("cpu", None) == "cpu"
    with pytest.raises(UsageError, match="CUDA_VISIBLE_DEVICES"):
        distributed.own_device("cuda", 1)


@pytest.mark.slow
def test_accelerate_launch_itself(store: Path, tmp_path: Path, alone: Path) -> None:
    accelerate = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    arguments = ["--main_process_port", "0", "-m", "cdner", "--store", store, *train_command(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(TESTS.parent), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*accelerate, *map(str, arguments)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("train:without_source") == 1
    assert_same_training(store, alone, shared_folder() / "llama")
