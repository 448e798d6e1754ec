"""What the store's tests put into stores: small corpora with awkward texts, runs, and child processes that write."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cdner.store import Store, connection
from cdner.store.corpora import save_corpus
from cdner.store.runs import begin_attempt, finish_attempt, run_spec
from cdner.types import Corpus, Domain, Entity, Generation, Prediction, Sentence, TypeEntry

DOMAIN = Domain(
    "films",
    "target",
    (
        TypeEntry(
            "director", "director", "film director", "director", "director.n.01", "Leads a film's making."
        ),
        TypeEntry("actor", "actor", "actor", "actor", "actor.n.01", "Plays a rôle – „on screen“."),
        TypeEntry("misc", "MISC", "anything else", "", "", ""),
    ),
)
CORPUS = Corpus(
    "films",
    "train",
    (
        Sentence(
            ("Agnès", "Varda", "met", "Łódź", "'s", "{best}", "🎬"),
            (Entity(0, 2, "director"), Entity(3, 4, "misc")),
        ),
        Sentence(("nothing", "here")),
        Sentence(("a\\b", "\u200b", 'say "x"', "--"), (Entity(0, 4, "actor"),)),
        Sentence(("nothing", "here")),
    ),
    n_repaired_tags=3,
    types=("director", "misc", "actor"),
)
GENERATION = Generation(
    "{}", n_input_tokens=11, n_truncated_tokens=2, n_output_tokens=5, finish_reason="stop"
)


def import_corpus(store: Store, corpus: Corpus = CORPUS, domain: Domain = DOMAIN) -> str:
    """A finished import run; its run id."""
    spec = run_spec("import", 1, {"domain": corpus.domain, "split": corpus.split}, ())
    attempt = begin_attempt(store, spec, {})
    save_corpus(store, spec.run_id, corpus, domain)
    finish_attempt(store, attempt, "done")
    return spec.run_id


def start_run(store: Store, step: str, *inputs: str, seed: int = 0) -> str:
    """A run with an attempt of this process that goes on; its run id."""
    spec = run_spec(step, 1, {"seed": seed}, inputs)
    begin_attempt(store, spec, {})
    return spec.run_id


def prediction(*entities: Entity) -> Prediction:
    return Prediction("{}", tuple(entities))


def long_corpus(n_sentences: int) -> Corpus:
    sentences = tuple(
        Sentence((f"word{position}", "of", "film"), (Entity(0, 1, "actor"),))
        for position in range(n_sentences)
    )
    return Corpus("films", "train", sentences, types=("actor",))


def counted_openings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows by "reading" or "writing" whenever the store's file is opened while it is not open already."""
    found: list[str] = []
    n_open = 0
    opened = connection.opened

    @contextmanager
    def counted(store: Store, *, read_only: bool, **options: Any) -> Iterator[Any]:
        nonlocal n_open
        if not n_open:
            found.append("reading" if read_only else "writing")
        n_open += 1
        try:
            with opened(store, read_only=read_only, **options) as made:
                yield made
        finally:
            n_open -= 1

    monkeypatch.setattr(connection, "opened", counted)
    return found


def start_python(script: str, *arguments: object, stdin: int | None = None) -> subprocess.Popen[str]:
    """A child that runs the script with cdner and this module importable."""
    tests = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(tests.parent), str(tests)))}
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
