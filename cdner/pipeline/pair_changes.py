"""Confused pairs of types before and after: counts, R_M of the compared predictions, and MCQM's v_conf beside them.

R_M here is equation 11 on the split compared. v_conf is what a quantify run measured on dev for the very model; most
final models have none, since MCQM looks at the model before reasoning.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from cdner.evaluate.changes import confused_pairs
from cdner.pipeline.comparison import ComparedRuns
from cdner.store import Store
from cdner.store.compared_runs import quantified_model
from cdner.store.confusion import load_confusion
from cdner.types import ConfusionMatrix


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
