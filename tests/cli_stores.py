"""What the command line's tests look at: small stores filled by hand, without a model, and a way to call cdner."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from cdner.cli import run_cli
from cdner.store import Store
from cdner.store.confusion import Hierarchy, Ratios, save_confusion, save_hierarchy, save_rivals
from cdner.store.corpora import save_corpus
from cdner.store.predictions import save_predictions
from cdner.store.runs import begin_attempt, finish_attempt, label_experiment, run_spec
from cdner.types import ConfusionMatrix, Corpus, Domain, Entity, Generation, Prediction, Sentence, TypeEntry

HOSTILE = "\x1b[31mred\x1b[0m"  # an escape sequence in a corpus
MARKUP = "[bold]loud[/bold]"  # rich's markup in a corpus
TARGET_TYPES = ("politician", "party", "[red]law")
SOURCE_SHORT = {"person": "PER", "organisation": "ORG"}


@dataclass(frozen=True, slots=True)
class Result:
    code: int
    out: str
    err: str


class Shell:
    """Calls cdner in this process on one store."""

    def __init__(self, capsys: pytest.CaptureFixture[str], store: Path) -> None:
        self._capsys = capsys
        self.store = store

    def __call__(self, *arguments: object) -> Result:
        code = run_cli(["--store", str(self.store), *map(str, arguments)])
        captured = self._capsys.readouterr()
        return Result(code, captured.out, captured.err)


def start_cdner(*arguments: object, cwd: Path | None = None, **environment: str) -> subprocess.Popen[str]:
    """cdner in a process of its own, from this checkout."""
    root = Path(__file__).resolve().parents[1]
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "cdner", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(root), **environment},
    )


def finish_run(store: Store, step: str, *inputs: str, seed: int = 0, status: str = "done") -> str:
    """A run whose only attempt ended so; its run id."""
    spec = run_spec(step, 1, {"seed": seed}, inputs)
    attempt = begin_attempt(store, spec, {})
    finish_attempt(store, attempt, status)  # type: ignore[arg-type]
    return spec.run_id


def domain(name: str, role: str, types: Sequence[str], short: dict[str, str] | None = None) -> Domain:
    entries = tuple(
        TypeEntry(entry, (short or {}).get(entry, entry), entry, "", "", entry) for entry in types
    )
    return Domain(name, role, entries)  # type: ignore[arg-type]


def import_corpus(store: Store, corpus: Corpus, label_set: Domain, seed: int) -> str:
    run_id = finish_run(store, "import", seed=seed)
    save_corpus(store, run_id, corpus, label_set)
    return run_id


@dataclass(frozen=True, slots=True)
class StudyStore:
    """A store with one experiment, "study": source "press", target "parliament"."""

    path: Path
    predict: str
    quantify: str
    matrix: ConfusionMatrix


def study_store(path: Path) -> StudyStore:
    """Two corpora, one prediction run with each kind of error, and one quantify run, all labelled."""
    store = Store(path)
    source = domain("press", "source", tuple(SOURCE_SHORT), SOURCE_SHORT)
    target = domain("parliament", "target", TARGET_TYPES)
    press = Corpus("press", "train", (Sentence(("Ann",), (Entity(0, 1, "person"),)),), types=("person",))
    sentences = (
        Sentence(("Ann", "Lee", "leads", HOSTILE), (Entity(0, 2, "politician"), Entity(3, 4, "party"))),
        Sentence((MARKUP, "and", "the", "Act"), (Entity(0, 1, "party"), Entity(3, 4, "[red]law"))),
        Sentence(("New", "Green", "Party", "met", "Bob"), (Entity(0, 3, "party"),)),
    )
    parliament = Corpus("parliament", "test", sentences, types=TARGET_TYPES)
    source_import = import_corpus(store, press, source, seed=1)
    test_import = import_corpus(store, parliament, target, seed=2)
    train = finish_run(store, "train", source_import)
    predict = finish_run(store, "predict", train, test_import)
    quantify = finish_run(store, "quantify", predict, test_import)
    _save_predictions(store, predict, test_import)
    matrix = _save_confusion(store, quantify)
    label_experiment(store, "study", [(predict, "predict:full/test"), (quantify, "quantify:target")])
    return StudyStore(path, predict, quantify, matrix)


def _save_predictions(store: Store, run_id: str, corpus_run_id: str) -> None:
    """A correct entity, two wrong types, one missed, one wrong boundary, one spurious."""
    found = (
        (Entity(0, 2, "politician"), Entity(3, 4, "politician")),
        (Entity(0, 1, "[red]law"),),
        (Entity(1, 3, "party"), Entity(4, 5, "politician")),
    )
    generation = Generation(
        "{}", n_input_tokens=1, n_truncated_tokens=0, n_output_tokens=1, finish_reason="stop"
    )
    items = [(position, Prediction("{}", entities), generation) for position, entities in enumerate(found)]
    save_predictions(store, run_id, items, corpus_run_id=corpus_run_id)


def _save_confusion(store: Store, run_id: str) -> ConfusionMatrix:
    scores = np.array([[0.0, 0.75, 0.25], [0.5, 0.0, 0.125], [0.3, 0.7, 0.0]])
    matrix = ConfusionMatrix("v_conf", TARGET_TYPES, scores)
    save_confusion(store, run_id, [matrix, ConfusionMatrix("u_sim", TARGET_TYPES, scores / 2)])
    save_rivals(
        store,
        run_id,
        {"politician": [("party", 0.75)], "party": [("politician", 0.5)], "[red]law": []},
    )
    ratios = Ratios(
        TARGET_TYPES,
        tuple(SOURCE_SHORT),
        ratios=np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]),
        n_gold=np.array([1, 2, 1]),
        n_predicted_as=np.array([[1, 0], [0, 2], [0, 0]]),
        unrecognised=np.array([0.0, 0.0, 1.0]),
    )
    hierarchy = Hierarchy(ratios, prefixes=("person", "organisation", "person"), flagged=(False, False, True))
    save_hierarchy(store, run_id, hierarchy)
    return matrix
