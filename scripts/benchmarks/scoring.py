"""Scores, error and confusion tables, and the bootstrap, beside what a user would take instead. Pairs interleaved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from measured import best_of, cpu_seconds, slope
from nervaluate import Evaluator
from resampled import predicted, resampled, retyped, tags
from rows import Row, at_least, stated
from seqeval.metrics import classification_report

from cdner.evaluate import evaluate_predictions
from cdner.evaluate.scores import sentence_counts
from cdner.evaluate.significance import micro_f1, resampled_differences
from cdner.spans import bio_to_entities
from cdner.types import Corpus, Prediction, Sentence

N_PIECES = 5
BOOTSTRAP_SENTENCES = 5_000
N_TYPES = (4, 16, 65)
Table = tuple[Corpus, tuple[Prediction, ...]]


def all_tables(corpus: Corpus, predictions: Sequence[Prediction]) -> float:
    """Scores of all metrics, errors and confusion per type; the strict micro F1."""
    return evaluate_predictions(corpus.sentences, predictions, corpus.types).scores[0].f1


def scoring(real: Sequence[Sentence], n_sentences: int) -> tuple[list[Row], dict[str, Any]]:
    """All at once by us before each fifth of theirs, which are loops and cost as much in pieces."""
    corpus = resampled(real, n_sentences)
    predictions = predicted(corpus)
    ours, by_seqeval, by_nervaluate, reading = [], 0.0, 0.0, 0.0
    for piece in np.array_split(np.arange(n_sentences), N_PIECES):
        part = slice(int(piece[0]), int(piece[-1]) + 1)
        sentences = corpus.sentences[part]
        gold_tags, predicted_tags = tags(sentences, sentences), tags(sentences, predictions[part])
        ours.append(cpu_seconds(lambda: all_tables(corpus, predictions))[0])
        f1 = all_tables(replace(corpus, sentences=sentences), predictions[part])
        seconds, report = cpu_seconds(
            lambda gold=gold_tags, found=predicted_tags: classification_report(gold, found, output_dict=True)  # type: ignore[misc]
        )
        by_seqeval += seconds
        seconds, overall = cpu_seconds(
            lambda gold=gold_tags, found=predicted_tags: _nervaluate(gold, found, corpus.types)  # type: ignore[misc]
        )
        by_nervaluate += seconds
        for theirs in (report["micro avg"]["f1-score"], overall["strict"].f1):
            if abs(theirs - f1) > 1e-12:
                raise RuntimeError(f"F1 {f1} here, {theirs} there")
        reading += cpu_seconds(lambda: [bio_to_entities(row) for row in (*gold_tags, *predicted_tags)])[0]  # noqa: B023 called at once
    mean = sum(ours) / len(ours)
    on = f"{n_sentences:,} sentences, {len(corpus.types)} types, same F1"
    what = "scores with error and confusion tables"
    rows = [
        at_least(what, by_seqeval / mean, 20, against="seqeval classification_report", on=on),
        at_least(what, by_nervaluate / mean, 30, against="nervaluate", on=on),
        stated(
            f"{what}, entities read from tags first",
            by_seqeval / (mean + reading),
            unit="x",
            against="seqeval classification_report",
            on=on,
        ),
    ]
    details = {
        "cdner_cpu_seconds": ours,
        "seqeval_cpu_seconds": by_seqeval,
        "nervaluate_cpu_seconds": by_nervaluate,
        "reading_tags_cpu_seconds": reading,
        "n_gold": sum(len(s.entities) for s in corpus.sentences),
        "n_predicted": sum(len(p.entities) for p in predictions),
    }
    return rows, details


def bootstrap(real: Sequence[Sentence], n_resamples: int) -> tuple[list[Row], dict[str, Any]]:
    """Two settings on the same sentences. The plain loop draws sentence indices and sums their rows with numpy."""
    corpus = resampled(real, BOOTSTRAP_SENTENCES)
    before, after = (
        sentence_counts(corpus.sentences, predicted(corpus, seed=seed), "strict")[None] for seed in (1, 2)
    )
    ours = plain = by_rows = 0.0
    per_piece = n_resamples // N_PIECES
    for piece in range(N_PIECES):
        seconds, found = cpu_seconds(
            lambda seed=piece: resampled_differences(before, after, seed=seed, n_resamples=per_piece)  # type: ignore[misc]
        )
        ours += seconds
        seconds, expected = cpu_seconds(
            lambda seed=piece: _plain_loop(before[0], after[0], seed, per_piece)  # type: ignore[misc]
        )
        plain += seconds
        if not np.array_equal(found, expected):
            raise RuntimeError("the resampled differences are not the plain loop's")
        by_rows += cpu_seconds(lambda seed=piece: _loop_over_rows(before[0], after[0], seed))[0]  # type: ignore[misc]
    on = f"{n_resamples:,} resamples of {BOOTSTRAP_SENTENCES:,} sentences, same numbers"
    rows = [
        at_least("paired bootstrap of F1", plain / ours, 50, against="loop over numpy resamples", on=on),
        stated(
            "paired bootstrap of F1",
            by_rows / N_PIECES * n_resamples / ours,
            unit="x",
            against="loop over the rows drawn",
            on=on,
        ),
    ]
    details = {
        "cdner_cpu_seconds": ours,
        "plain_cpu_seconds": plain,
        "drawing_alone_cpu_seconds": cpu_seconds(lambda: _only_draw(n_resamples))[0],
        "row_loop_cpu_seconds_per_resample": by_rows / N_PIECES,
    }
    return rows, details


def growth(real: Sequence[Sentence], n_sentences: int) -> tuple[list[Row], dict[str, Any]]:
    """Of scoring and bootstrap, over three numbers of sentences and of types."""
    sizes = [n_sentences // 4, n_sentences // 2, n_sentences]
    tables = [_table(resampled(real, size)) for size in sizes]
    scored = [best_of(3, lambda table=table: all_tables(*table)) for table in tables]  # type: ignore[misc]
    of_types = [_table(resampled(retyped(real, k), n_sentences // 4)) for k in N_TYPES]
    by_types = [best_of(3, lambda table=table: all_tables(*table)) for table in of_types]  # type: ignore[misc]
    drawn = [BOOTSTRAP_SENTENCES // 4, BOOTSTRAP_SENTENCES, 4 * BOOTSTRAP_SENTENCES]
    counts = [np.random.default_rng(0).integers(0, 9, (1, n, 3)) for n in drawn]
    bootstrapped = [
        best_of(3, lambda c=count: resampled_differences(c, c, n_resamples=500))  # type: ignore[misc]
        for count in counts
    ]
    rows = [
        stated("growth of scoring", slope(sizes, scored), unit="", on=_list(sizes, "sentences")),
        stated("growth of scoring", slope(N_TYPES, by_types), unit="", on=_list(N_TYPES, "types")),
        stated("growth of the bootstrap", slope(drawn, bootstrapped), unit="", on=_list(drawn, "sentences")),
    ]
    details = {
        "scoring": dict(zip(sizes, scored, strict=True)),
        "scoring_by_types": dict(zip(N_TYPES, by_types, strict=True)),
        "bootstrap": dict(zip(drawn, bootstrapped, strict=True)),
    }
    return rows, details


def _table(corpus: Corpus) -> Table:
    return corpus, predicted(corpus)


def _list(sizes: Sequence[int], of: str) -> str:
    return f"{', '.join(f'{size:,}' for size in sizes)} {of}"


def _nervaluate(gold: list[list[str]], found: list[list[str]], types: Sequence[str]) -> Any:
    return Evaluator(gold, found, tags=list(types), loader="list").evaluate()["overall"]


def _plain_loop(before: Any, after: Any, seed: int, n_resamples: int) -> Any:
    generator = np.random.default_rng(seed)
    n = len(before)
    differences = np.empty(n_resamples)
    for k in range(n_resamples):
        drawn = generator.integers(0, n, n)
        differences[k] = micro_f1(after[drawn].sum(axis=0)) - micro_f1(before[drawn].sum(axis=0))
    return differences


def _loop_over_rows(before: Any, after: Any, seed: int) -> float:
    """One resample, row by row."""
    totals = np.zeros((2, 3), dtype=np.int64)
    for index in np.random.default_rng(seed).integers(0, len(before), len(before)):
        totals[0] += before[index]
        totals[1] += after[index]
    return float(micro_f1(totals[1]) - micro_f1(totals[0]))


def _only_draw(n_resamples: int) -> None:
    generator = np.random.default_rng(0)
    for _ in range(n_resamples):
        generator.integers(0, BOOTSTRAP_SENTENCES, BOOTSTRAP_SENTENCES)
