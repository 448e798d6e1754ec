"""Two settings side by side, from stored predictions: differences with intervals, and the entities that changed.

A pair of runs is one seed of one domain, before and after; several pairs are further seeds or domains. Confused pairs
of types are counted before and after: R_M here is equation 11 on the split compared, v_conf is what a quantify run
measured on dev for the same model. Most final models have no v_conf, since MCQM looks at the model before reasoning.
Loads no model and prints nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from cdner.compare.queries import quantified_model
from cdner.errors import InputError, UsageError
from cdner.evaluate import MICRO, Metric
from cdner.evaluate.changes import EntityChange, TypeDecisions, confused_pairs, entity_changes, type_decisions
from cdner.evaluate.scores import sentence_counts
from cdner.evaluate.significance import (
    N_RESAMPLES,
    Difference,
    SeedSpread,
    difference_of,
    f1_difference,
    mcnemar_p_value,
    resampled_differences,
    seed_spread,
)
from cdner.store import Store
from cdner.store import corpora as stored_corpora
from cdner.store import predictions as stored_predictions
from cdner.store.confusion import load_confusion
from cdner.types import ConfusionMatrix, Corpus, FloatArray, Prediction, Sentence


@dataclass(frozen=True, slots=True)
class PairChange:
    """One confused pair of one domain; counts are summed over its seeds."""

    domain: str
    gold_type: str
    confused_type: str
    n_gold: int
    n_before: int
    n_after: int
    ratio_before: float  # R_M: n_before / n_gold
    ratio_after: float
    v_conf_before: float | None  # of the first pair's model; None: no quantify run measured it
    v_conf_after: float | None


def changed_pairs(store: Store, groups: Sequence[Sequence[ComparedRuns]]) -> tuple[PairChange, ...]:
    """Pairs whose count changed, by domain; there the largest change first, ties by name."""
    return tuple(change for group in groups for change in _of_domain(store, group))


def _of_domain(store: Store, group: Sequence[ComparedRuns]) -> list[PairChange]:
    n_gold: Counter[str] = Counter()
    n_before: Counter[tuple[str, str]] = Counter()
    n_after: Counter[tuple[str, str]] = Counter()
    for pair in group:
        found = confused_pairs(pair.gold, pair.before, pair.after)
        n_gold.update(found.n_gold)
        n_before.update(found.n_before)
        n_after.update(found.n_after)
    changed = [names for names in n_before | n_after if n_before[names] != n_after[names]]
    changed.sort(key=lambda names: (-abs(n_after[names] - n_before[names]), names))
    v_before = _v_conf(store, group[0].before_run_id)
    v_after = _v_conf(store, group[0].after_run_id)
    return [
        PairChange(
            group[0].domain,
            *names,
            n_gold=n_gold[names[0]],
            n_before=n_before[names],
            n_after=n_after[names],
            ratio_before=n_before[names] / n_gold[names[0]],
            ratio_after=n_after[names] / n_gold[names[0]],
            v_conf_before=_cell(v_before, *names),
            v_conf_after=_cell(v_after, *names),
        )
        for names in changed
    ]


def _v_conf(store: Store, run_id: str) -> ConfusionMatrix | None:
    quantify = quantified_model(store, run_id)
    return load_confusion(store, quantify).get("v_conf") if quantify else None


def _cell(matrix: ConfusionMatrix | None, gold_type: str, confused_type: str) -> float | None:
    if matrix is None or not {gold_type, confused_type} <= set(matrix.types):
        return None
    return float(matrix.scores[matrix.types.index(gold_type), matrix.types.index(confused_type)])


METRICS: tuple[Metric, ...] = ("strict", "span")
ALL_DOMAINS = MICRO


@dataclass(frozen=True, slots=True)
class ComparedRuns:
    """One seed of one domain: what two settings predicted for the same sentences, in text order."""

    before_run_id: str
    after_run_id: str
    corpus_run_id: str
    domain: str
    split: str
    positions: tuple[int, ...]  # in the corpus
    gold: tuple[Sentence, ...]
    before: tuple[Prediction, ...]
    after: tuple[Prediction, ...]


@dataclass(frozen=True, slots=True)
class F1Comparison:
    """One domain, or all ("*"): there the mean over domains, as tables' "Avg." is, not one sum of counts."""

    metric: Metric
    domain: str
    split: str
    n_sentences: int
    before: SeedSpread
    after: SeedSpread
    difference: Difference  # of the means over seeds


@dataclass(frozen=True, slots=True)
class TypeComparison:
    """McNemar's test of one pair of runs. No test spans several seeds: they decide the same spans again."""

    domain: str
    seed: int  # 1-based place of the pair among those of its domain
    decisions: TypeDecisions
    p_value: float


def load_pair(store: Store, before_run_id: str, after_run_id: str) -> ComparedRuns:
    """UsageError unless both predict the same sentences of the same corpus."""
    corpora = [stored_predictions.predicted_corpus(store, run) for run in (before_run_id, after_run_id)]
    corpus = stored_corpora.load_corpus(store, corpora[0])
    if corpora[0] != corpora[1]:
        other = stored_corpora.load_corpus(store, corpora[1])
        raise UsageError(
            f"Run {before_run_id} predicts {_named(corpus, corpora[0])}, run {after_run_id} predicts "
            f"{_named(other, corpora[1])}: only predictions for the same corpus can be compared."
        )
    before = stored_predictions.load_predictions(store, before_run_id)
    after = stored_predictions.load_predictions(store, after_run_id)
    if before.keys() != after.keys():
        raise UsageError(
            f"Run {before_run_id} predicts {len(before)} sentences of {_named(corpus, corpora[0])}, run "
            f"{after_run_id} {len(after)}, not all the same: finish or repeat the one that lacks some."
        )
    if not before:
        raise InputError(f"Runs {before_run_id} and {after_run_id} hold no prediction: run them again.")
    return ComparedRuns(
        before_run_id,
        after_run_id,
        corpora[0],
        corpus.domain,
        corpus.split,
        positions=tuple(before),
        gold=tuple(corpus.sentences[position] for position in before),
        before=tuple(before.values()),
        after=tuple(after.values()),
    )


def by_domain(pairs: Sequence[ComparedRuns]) -> list[tuple[ComparedRuns, ...]]:
    """Pairs grouped by domain, in order of first appearance; those of one domain are its seeds.

    UsageError for different splits, for a domain with two corpora, and for a run named twice on one side.
    """
    if len(splits := sorted({pair.split for pair in pairs})) > 1:
        raise UsageError(f"The runs predict different splits: {', '.join(splits)}. Compare one at a time.")
    for side in ("before_run_id", "after_run_id"):
        runs = [getattr(pair, side) for pair in pairs]
        if repeated := next((run for run in runs if runs.count(run) > 1), None):
            raise UsageError(
                f"Run {repeated} stands twice on the same side: every pair is another seed or domain."
            )
    order = list(dict.fromkeys(pair.domain for pair in pairs))
    ranked = sorted(pairs, key=lambda pair: order.index(pair.domain))
    groups = [tuple(group) for _, group in groupby(ranked, key=lambda pair: pair.domain)]
    for group in groups:
        if len({(pair.corpus_run_id, pair.positions) for pair in group}) > 1:
            raise UsageError(
                f"The runs predict different sentences of {group[0].domain}/{group[0].split}: seeds must share them."
            )
    return groups


def compare_f1(
    groups: Sequence[Sequence[ComparedRuns]], *, seed: int = 0, n_resamples: int = N_RESAMPLES
) -> tuple[F1Comparison, ...]:
    """Per metric one row a domain, then one over all domains where there are several.

    Over domains, each resample draws within every domain and averages their differences.
    """
    rows: list[F1Comparison] = []
    for metric in METRICS:
        compared = [
            _compare_domain(group, metric, seed=(seed, index), n_resamples=n_resamples)
            for index, group in enumerate(groups)
        ]
        rows += [row for row, _ in compared]
        if len(compared) > 1:
            rows.append(_over_domains([row for row, _ in compared], [drawn for _, drawn in compared]))
    return tuple(rows)


def _compare_domain(
    group: Sequence[ComparedRuns], metric: Metric, *, seed: Sequence[int], n_resamples: int
) -> tuple[F1Comparison, FloatArray]:
    before = np.stack([sentence_counts(pair.gold, pair.before, metric) for pair in group])
    after = np.stack([sentence_counts(pair.gold, pair.after, metric) for pair in group])
    drawn = resampled_differences(before, after, seed=seed, n_resamples=n_resamples)
    row = F1Comparison(
        metric,
        group[0].domain,
        group[0].split,
        n_sentences=before.shape[1],
        before=seed_spread(before),
        after=seed_spread(after),
        difference=difference_of(f1_difference(before, after), drawn),
    )
    return row, drawn


def _over_domains(rows: Sequence[F1Comparison], drawn: Sequence[FloatArray]) -> F1Comparison:
    value = float(np.mean([row.difference.value for row in rows]))
    return F1Comparison(
        rows[0].metric,
        ALL_DOMAINS,
        rows[0].split,
        n_sentences=sum(row.n_sentences for row in rows),
        before=_mean_spread([row.before for row in rows]),
        after=_mean_spread([row.after for row in rows]),
        difference=difference_of(value, np.mean(drawn, axis=0)),
    )


def _mean_spread(spreads: Sequence[SeedSpread]) -> SeedSpread:
    """The mean over domains. No deviation: seeds of different domains do not belong together."""
    n_seeds = min(spread.n_seeds for spread in spreads)
    return SeedSpread(n_seeds, float(np.mean([spread.mean for spread in spreads])), None)


def compare_types(groups: Sequence[Sequence[ComparedRuns]]) -> tuple[TypeComparison, ...]:
    """One row a pair of runs."""
    rows = []
    for group in groups:
        for number, pair in enumerate(group, start=1):
            decisions = type_decisions(pair.gold, pair.before, pair.after)
            p_value = mcnemar_p_value(decisions.n_fixed, decisions.n_broken)
            rows.append(TypeComparison(pair.domain, number, decisions, p_value))
    return tuple(rows)


def changed_entities(
    groups: Sequence[Sequence[ComparedRuns]],
) -> tuple[tuple[ComparedRuns, int, EntityChange], ...]:
    """Gold entities only one side got right, with their pair and its 1-based number in its domain."""
    return tuple(
        (pair, number, change)
        for group in groups
        for number, pair in enumerate(group, start=1)
        for change in entity_changes(pair.gold, pair.before, pair.after)
    )


def _named(corpus: Corpus, run_id: str) -> str:
    return f"{corpus.domain}/{corpus.split} ({run_id})"
