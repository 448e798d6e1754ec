"""Predictions are stored as they come, but storing does not slow down a model that is faster than it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from codec_vocabularies import byte_level_vocabulary
from store_examples import DOMAIN, import_corpus

from cdner.config import Experiment
from cdner.steps import predicting, windows
from cdner.steps.context import Context
from cdner.steps.holders import ModelHolder
from cdner.steps.step import Step
from cdner.store import Store
from cdner.store import predictions as stored_predictions
from cdner.store.runs import run_spec
from cdner.types import Corpus, Generation, ModelInput, Sentence

N = 250


class Clock:
    now = 0.0

    def monotonic(self) -> float:
        return self.now


class Silent:
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def start(self, label: str, total: int | None = None) -> None: ...

    def advance(self, n: int = 1, note: str = "") -> None: ...

    def warn(self, text: str) -> None:
        self.warnings.append(text)


@pytest.mark.parametrize(("seconds", "n_transactions"), [(2.0, 25), (0.01, 2)], ids=["slow", "fast"])
def test_storing_takes_a_twentieth_of_the_time_at_most_and_a_slow_models_chunks_are_small(
    seconds: float, n_transactions: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sentence takes so many seconds, a transaction one; a chunk is ten sentences."""
    clock, sizes = Clock(), []
    save = stored_predictions.save_predictions

    def generate(inputs: Sequence[ModelInput], **_: Any) -> Iterator[tuple[int, Generation]]:
        for index in range(len(inputs)):
            clock.now += seconds
            yield index, Generation("{}", 9, 0, 4, "stop")

    def save_slowly(store: Store, run_id: str, items: Sequence[Any], **options: Any) -> None:
        clock.now += 1
        sizes.append(len(items))
        save(store, run_id, items, **options)

    monkeypatch.setattr(windows, "SIZE", 10)
    monkeypatch.setattr(windows, "time", clock)
    monkeypatch.setattr(stored_predictions, "save_predictions", save_slowly)
    backbone = SimpleNamespace(generate=generate, vocabulary=byte_level_vocabulary())
    monkeypatch.setattr(ModelHolder, "predictor", lambda *_: backbone)
    store = Store(tmp_path / "s.duckdb")
    sentences = tuple(Sentence((f"name{number}", "plays")) for number in range(N))
    corpus_run = import_corpus(store, Corpus("films", "test", sentences, types=DOMAIN.types))
    spec = run_spec("predict", 1, {"n": 0, "types": list(DOMAIN.types), "predict": {}}, (corpus_run,))
    step = Step("predict:full/test", "predict", spec, {"corpus": "corpus"})
    predicting.predict(step, Context(store, Experiment(name="e"), Silent()))
    assert len(sizes) == n_transactions
    assert sizes[0] == 10
    assert stored_predictions.count_predictions(store, spec.run_id) == sum(sizes) == N
