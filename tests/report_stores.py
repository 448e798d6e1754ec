"""What tests of reports look at: a store with a small matrix of experiments, made by hand, and texts that attack."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from cli_stores import domain, finish_run
from random_corpora import seeded_pair

from cdner.evaluate import score
from cdner.store import Store
from cdner.store.confusion import (
    Hierarchy,
    Ratios,
    save_confusion,
    save_hierarchy,
    save_misclassification,
    save_rivals,
)
from cdner.store.corpora import save_corpus
from cdner.store.llm_log import save_reasoning
from cdner.store.predictions import save_predictions
from cdner.store.runs import label_experiment
from cdner.store.scores import ScoreRow, save_scores
from cdner.types import ConfusionMatrix, Corpus, Entity, Generation, Prediction, ReasoningChain, Sentence

ATTACKS = (
    "</script><script>window.owned=1</script>",
    '<img src="x" onerror="window.owned=1">',
    "<!--<script>",
    "'\" onmouseover=window.owned=1 x=",
    "\x1b[31mred\x1b[0m",
    "\u202eevil",
    "{{ 7*7 }}${7*7}",
    "| a | **b** | \\input{x} % $ &amp;",
)
TYPES = ("poet", "city", "<b>river</b>")
CELLS = tuple((n, seed) for n in (10, 20) for seed in (0, 1))
SETTINGS = ("without_all", "full")
_GENERATION = Generation(
    "{}", n_input_tokens=1, n_truncated_tokens=0, n_output_tokens=1, finish_reason="stop"
)


@dataclass(frozen=True, slots=True)
class ReportStore:
    path: Path
    corpus: Corpus
    predict: dict[tuple[str, int, int], str]  # (setting, n, seed) -> predict run
    quantify: str


def cell_name(n: int, seed: int) -> str:
    return f"sizes[n_train={n},seed={seed}]"


def shared_report_store(factory: pytest.TempPathFactory) -> ReportStore:
    """The same one for all tests of a session: they only read it."""
    return report_store(factory.getbasetemp() / "report.duckdb")


@cache
def report_store(path: Path) -> ReportStore:
    """Two sizes, two seeds, two settings on 60 sentences of "ai", of which the first ones attack."""
    store = Store(path)
    sentences, _ = seeded_pair(7, n_sentences=60, types=TYPES)
    hostile = tuple(Sentence((attack, "Ann", attack), (Entity(0, 1, TYPES[2]),)) for attack in ATTACKS)
    corpus = Corpus("ai", "test", (*hostile, *sentences[len(hostile) :]), types=TYPES)
    imported = finish_run(store, "import", seed=100)
    save_corpus(store, imported, corpus, domain("ai", "target", TYPES))
    quantify = _quantify(store, imported)
    reason = finish_run(store, "reason", quantify, imported)
    chains = [(i, f"request {i}", ReasoningChain(f"first {ATTACKS[i % 8]}", "then back")) for i in range(60)]
    save_reasoning(store, reason, chains)
    predict: dict[tuple[str, int, int], str] = {}
    for n, seed in CELLS:
        labels = [(imported, "import:ai/test"), (quantify, "quantify:target")]
        for number, setting in enumerate(SETTINGS):
            made = 1000 * n + 10 * seed + number
            reads = (imported, reason) if setting == "full" else (imported,)
            run = finish_run(store, "predict", *reads, seed=made)
            found = _predictions(corpus, seed=made, luck=0.2 + 0.4 * number + n / 100)
            items = [(position, one, _GENERATION) for position, one in enumerate(found)]
            save_predictions(store, run, items, corpus_run_id=imported)
            evaluate = finish_run(store, "evaluate", run, imported)
            scored = [
                ScoreRow(
                    *("ai", "test", row.metric, row.entity_type, row.n_gold, row.n_predicted),
                    *(row.n_correct, row.precision, row.recall, row.f1),
                )
                for row in score(corpus.sentences, found, TYPES)
            ]
            save_scores(store, evaluate, scored)
            predict[setting, n, seed] = run
            labels += [(run, f"predict:{setting}/test"), (evaluate, f"evaluate:{setting}/test")]
        label_experiment(store, cell_name(n, seed), labels)
    return ReportStore(path, corpus, predict, quantify)


def _predictions(corpus: Corpus, *, seed: int, luck: float) -> tuple[Prediction, ...]:
    """Right with probability ``luck``, else one of the four kinds of errors."""
    rng = np.random.default_rng(seed)
    found = []
    for sentence in corpus.sentences:
        entities = []
        for entity in sentence.entities:
            if rng.random() < luck:
                entities.append(entity)
            elif (kind := rng.integers(3)) == 0:
                entities.append(Entity(entity.start, entity.end, TYPES[int(rng.integers(3))]))
            elif kind == 1 and entity.end - entity.start > 1:
                entities.append(Entity(entity.start, entity.end - 1, entity.type))
        n_tokens = len(sentence.tokens)
        if all(entity.end < n_tokens for entity in sentence.entities) and rng.random() < 0.2:
            entities.append(Entity(n_tokens - 1, n_tokens, "poet"))
        found.append(Prediction("", tuple(entities)))
    return tuple(found)


def _quantify(store: Store, imported: str) -> str:
    run = finish_run(store, "quantify", imported)
    scores = np.array([[0.0, 0.7, 0.3], [0.4, 0.0, 0.6], [0.1, 0.9, 0.0]])
    save_confusion(
        store, run, [ConfusionMatrix(name, TYPES, scores / (i + 1)) for i, name in enumerate(_DIMENSIONS)]
    )
    save_rivals(store, run, {"poet": [("city", 0.7)], "city": [], TYPES[2]: [("city", 0.9)]})
    ratios = Ratios(
        TYPES,
        ("person", "location"),
        ratios=np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 0.5]]),
        n_gold=np.array([2, 2, 2]),
        n_predicted_as=np.array([[2, 0], [0, 2], [0, 1]]),
        unrecognised=np.array([0.0, 0.0, 0.5]),
    )
    save_hierarchy(
        store, run, Hierarchy(ratios, ("person", "location", "location"), flagged=(False, False, False))
    )
    taken = Ratios(
        TYPES,
        TYPES,
        ratios=scores / 2,
        n_gold=np.array([20, 20, 20]),
        n_predicted_as=np.rint(10 * scores).astype(np.int64),
        unrecognised=np.array([0.5, 0.5, 0.5]),
    )
    save_misclassification(store, run, taken)
    return run


_DIMENSIONS = ("v_conf", "u_hie", "u_sim", "u_iml", "v_iml", "v_exl")
