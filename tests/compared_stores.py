"""A store with predictions of two settings, two seeds and two domains, made by hand for tests of comparisons."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from cli_stores import HOSTILE, domain, finish_run, import_corpus
from random_corpora import seeded_pair

from cdner.store import Store
from cdner.store.confusion import save_confusion
from cdner.store.predictions import save_predictions
from cdner.store.runs import label_experiment
from cdner.types import ConfusionMatrix, Corpus, Entity, Generation, Prediction, Sentence, Split

TYPES = ("poet", "city", "river")
_GENERATION = Generation(
    "{}", n_input_tokens=1, n_truncated_tokens=0, n_output_tokens=1, finish_reason="stop"
)


@dataclass(frozen=True, slots=True)
class Setting:
    train: str  # run ids
    predict: str


def corpus_of(name: str, split: Split, *, seed: int, n_sentences: int = 80) -> Corpus:
    """Random sentences; the first one holds an escape sequence."""
    sentences, _ = seeded_pair(seed, n_sentences=n_sentences, types=TYPES)
    hostile = Sentence(("Ann", HOSTILE), (Entity(1, 2, "poet"),))
    return Corpus(name, split, (hostile, *sentences[1:]), types=TYPES)


def predictions_for(corpus: Corpus, *, seed: int, luck: float) -> tuple[Prediction, ...]:
    """Every gold span is found; its type is right with probability ``luck``, and now and then it is missed."""
    rng = np.random.default_rng(seed)
    return tuple(
        Prediction(
            "",
            tuple(
                Entity(e.start, e.end, e.type if rng.random() < luck else TYPES[int(rng.integers(3))])
                for e in sentence.entities
                if rng.random() < 0.9
            ),
        )
        for sentence in corpus.sentences
    )


def predicted_setting(
    store: Store, corpus: Corpus, corpus_run: str, *, seed: int, luck: float, n: int | None = None
) -> Setting:
    """A train and a predict run; ``n`` predicts only the first sentences."""
    train = finish_run(store, "train", corpus_run, seed=seed)
    predict = finish_run(store, "predict", train, corpus_run, seed=seed)
    items = list(enumerate(predictions_for(corpus, seed=seed, luck=luck)))[:n]
    save_predictions(
        store,
        predict,
        [(position, prediction, _GENERATION) for position, prediction in items],
        corpus_run_id=corpus_run,
    )
    return Setting(train, predict)


@dataclass(frozen=True, slots=True)
class ComparedStore:
    path: Path
    corpora: dict[str, Corpus]  # "rivers/test"
    settings: dict[str, Setting]  # "rivers/test/before/0": domain, split, side, seed
    matrix: ConfusionMatrix  # v_conf of rivers/test/before/0's model
    partial: Setting  # predicts 7 sentences of rivers/test
    evaluate: str  # of rivers/test/after/0


def compared_store(path: Path) -> ComparedStore:
    store = Store(path)
    corpora: dict[str, Corpus] = {}
    imports: dict[str, str] = {}
    settings: dict[str, Setting] = {}
    for number, (name, split) in enumerate((("rivers", "test"), ("rivers", "dev"), ("odes", "test"))):
        key = f"{name}/{split}"
        corpora[key] = corpus_of(name, split, seed=number)  # type: ignore[arg-type]
        imports[key] = import_corpus(store, corpora[key], domain(name, "target", TYPES), number)
        for seed in range(2 if split == "test" else 1):
            for side, luck in (("before", 0.2), ("after", 0.8)):
                made = 10 * number + 2 * seed + (side == "after")
                found = predicted_setting(store, corpora[key], imports[key], seed=made, luck=luck)
                settings[f"{key}/{side}/{seed}"] = found
    first, last = (settings[f"rivers/test/{side}/0"] for side in ("before", "after"))
    matrix = _quantify(store, first.train, corpora["rivers/dev"], imports["rivers/dev"])
    labels = [(first.predict, "predict:without_all/test"), (last.predict, "predict:full/test")]
    label_experiment(store, "brooks", labels)
    for name in ("rivers", "odes"):
        for seed in (0, 1):
            sides = [settings[f"{name}/test/{side}/{seed}"].predict for side in ("before", "after")]
            named = list(zip(sides, ("predict:without_all/test", "predict:full/test"), strict=True))
            for n in (5, 9):  # cells that differ in name only
                label_experiment(store, f"varied@cpu[target={name},n={n},seed={seed}]", named)
    finish_run(store, "quantify", settings["odes/test/before/0"].predict, seed=51)  # on test: no evidence
    evaluate = finish_run(store, "evaluate", last.predict, imports["rivers/test"])
    partial = predicted_setting(store, corpora["rivers/test"], imports["rivers/test"], seed=99, luck=0.5, n=7)
    return ComparedStore(path, corpora, settings, matrix, partial, evaluate)


def _quantify(store: Store, train: str, dev: Corpus, dev_import: str) -> ConfusionMatrix:
    """A quantify run on this model's dev predictions."""
    predict = finish_run(store, "predict", train, dev_import, seed=50)
    items = [(i, item, _GENERATION) for i, item in enumerate(predictions_for(dev, seed=50, luck=0.2))]
    save_predictions(store, predict, items, corpus_run_id=dev_import)
    quantify = finish_run(store, "quantify", predict, dev_import, seed=50)
    matrix = ConfusionMatrix("v_conf", TYPES, np.array([[0.0, 0.7, 0.3], [0.4, 0.0, 0.6], [0.1, 0.9, 0.0]]))
    save_confusion(store, quantify, [matrix])
    return matrix
