"""A store whose experiment has the setting fused: a tiny tagger, and a recorded LLM that judges its mentions."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Any

from pipeline_experiments import CALLS, cdner, shared_folder, write_experiment

from cdner.prompts import load_domain

TYPES = load_domain("film").types
JUDGING = """
[judge]
backend = "recorded"
model = "listener"
neighbours = 3
"""
TRAINED = (
    "--set=corpora.n_source_train=60",
    "--set=train_target.epochs=40",
    "--set=train_target.head_rate=5",
    "--set=train_target.select=last",
)
SIZES = ("--set=corpora.n_target_train=60", "--set=corpora.n_target_dev=20", "--set=corpora.n_target_test=20")
OPTIONS = (*TRAINED, *SIZES, '--set=splits=["dev", "test"]')


def experiment(folder: Path, **judge: Any) -> Path:
    path = write_experiment(folder, "tagger", name="judged", settings=("without_all", "fused"))
    more = "".join(f"{key} = {value!r}\n" for key, value in judge.items()).replace("'", '"')
    path.write_text(path.read_text() + JUDGING + more)
    return path


@cache
def finished() -> Path:
    """The store of an unbroken run; copy it before changing it."""
    folder = shared_folder() / "judged"
    folder.mkdir()
    before = os.environ.get(CALLS)
    os.environ[CALLS] = str(folder / "calls")
    try:
        ran = cdner(folder / "s.duckdb", "run", experiment(folder), *OPTIONS)
    finally:
        if before is not None:
            os.environ[CALLS] = before
    assert ran.code == 0, ran.err
    return folder / "s.duckdb"
