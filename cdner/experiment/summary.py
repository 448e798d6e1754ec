"""What an experiment found, as rows for the table at its end. Reads scores and predictions from the store."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, stdev
from typing import cast

from cdner.config import PREDICTION_STEPS, SETTINGS, Experiment, Setting
from cdner.experiment.plan import Plan
from cdner.steps.context import Context
from cdner.steps.step import Step
from cdner.store import predictions as stored_predictions
from cdner.store import scores as stored_scores
from cdner.store.scores import ScoreRow

Rows = list[tuple[object, ...]]
SCORE_COLUMNS = (
    "setting",
    "domain",
    "split",
    "strict_precision",
    "strict_recall",
    "strict_f1",
    "span_f1",
    "macro_f1",
    "mention_multiset_f1",
    "mention_set_f1",
    "run_id",
)
N_PAIRS = 10
SEED_AXIS = "seed="  # in a cell's name: cells that differ in nothing else are averaged


def setting_scores(plan: Plan, context: Context) -> tuple[tuple[str, ...], Rows]:
    """One row per evaluated setting and split; all figures in percent, micro average unless named macro."""
    rows: Rows = []
    for step, scored in _scored(plan, context):
        scores = {(row.metric_family, row.entity_type): row for row in scored}
        strict = scores["strict", "*"]
        figures = (
            strict.precision,
            strict.recall,
            strict.f1,
            scores["span", "*"].f1,
            scores["strict", "macro"].f1,
            scores["mention_multiset", "*"].f1,
            scores["mention_set", "*"].f1,
        )
        split = step.split
        percents = tuple(round(100 * figure, 2) for figure in figures)
        rows.append((step.setting, plan.target.name, split, *percents, step.spec.run_id))
    return SCORE_COLUMNS, rows


def _scored(plan: Plan, context: Context) -> list[tuple[Step, tuple[ScoreRow, ...]]]:
    steps = [step for step in plan.steps if step.kind == "evaluate"]
    if not steps:
        return []
    with context.store.reading():  # opened once
        return [(step, stored_scores.load_scores(context.store, step.spec.run_id)) for step in steps]


def averaged_scores(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> tuple[tuple[str, ...], Rows]:
    """Cells that differ in their seed alone as one row: how many, mean and sample deviation (n > 1) in percent.

    ``rows`` have ``SCORE_COLUMNS`` behind the cell's name, ``experiment[axis=value,...]``.
    """
    figures = ("strict_precision", "strict_recall", "strict_f1", "span_f1", "macro_f1")
    groups: dict[tuple[str, str, str], list[dict[str, object]]] = {}
    for row in rows:
        named = dict(zip(columns, row, strict=True))
        axes = str(named["experiment"]).partition("[")[2].rstrip("]").split(",")
        cell = ", ".join(axis for axis in axes if not axis.startswith(SEED_AXIS))
        groups.setdefault((cell, str(named["setting"]), str(named["split"])), []).append(named)
    averages: Rows = []
    for key, members in groups.items():
        values = [[cast(float, member[name]) for member in members] for name in figures]
        f1 = values[figures.index("strict_f1")]
        deviation = f"{stdev(f1):.2f}" if len(f1) > 1 else ""
        averages.append((*key, len(members), *(f"{fmean(value):.2f}" for value in values), deviation))
    return ("cell", "setting", "split", "n", "P", "R", "F1", "span F1", "macro F1", "F1 dev."), averages


def compared_setting(experiment: Experiment) -> Setting | None:
    """What the most confused pairs of without_all are set beside: the last setting that reads reasoning or verdicts."""
    settings = [
        name
        for name in experiment.settings
        if SETTINGS[name].fused or (SETTINGS[name].reads_texts and SETTINGS[name].trains_on_source)
    ]
    return settings[-1] if settings else None


def confusion_changes(plan: Plan, context: Context) -> tuple[tuple[str, ...], Rows]:
    """The most confused pairs before (w/o all) and after (``compared_setting``), per split."""
    predicted = {step.label: step for step in plan.steps if step.kind in PREDICTION_STEPS}
    last = compared_setting(plan.experiment)
    columns = (
        "split",
        "gold_type",
        "confused_type",
        "n_gold",
        "n_before",
        "n_after",
        "ratio_before",
        "ratio_after",
    )
    rows: Rows = []
    if last is None:
        return columns, rows
    with context.store.reading():  # opened once
        for split in plan.experiment.splits:
            before = predicted.get(f"predict:without_all/{split}")
            after = predicted.get(f"{SETTINGS[last].prediction_step}:{last}/{split}")
            if before and after:
                rows += _changes(split, before, after, context)
    return columns, rows


def _changes(split: str, before: Step, after: Step, context: Context) -> Rows:
    n_gold, n_before = stored_predictions.count_confused(context.store, before.spec.run_id)
    _, n_after = stored_predictions.count_confused(context.store, after.spec.run_id)
    pairs = sorted(n_before | n_after, key=lambda pair: (-n_before[pair], -n_after[pair], pair))
    return [
        (
            split,
            *pair,
            n_gold[pair[0]],
            n_before[pair],
            n_after[pair],
            round(n_before[pair] / n_gold[pair[0]], 4),
            round(n_after[pair] / n_gold[pair[0]], 4),
        )
        for pair in pairs[:N_PAIRS]
    ]
