"""What a report says of verdicts: who is right, how the opinions are weighed, what the LLM says of each mention."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import cast

from cdner.config import FUSED_OF, Setting
from cdner.report.content import FusionWeights, Model, Verdict, VerdictShare, Where, cell_of
from cdner.store import Store, reported

ALL_TYPES = "*"
Labels = Mapping[str, Mapping[str, str]]  # experiment -> label -> run
_COUNTS = ("n_mentions", "n_both", "n_backbone_only", "n_llm_only", "n_neither")


def verdict_shares(store: Store, labels: Labels) -> tuple[VerdictShare, ...]:
    """Per judged setting and split "*" first, then the types in their declared order; seeds are summed."""
    rows: dict[str, list[reported.VerdictRightRow]] = {}
    for row in reported.verdict_right_rows(store, [run_id for *_, run_id in _labelled(labels, "judge")]):
        rows.setdefault(row.run_id, []).append(row)
    groups: dict[Where, dict[str, Counter[str]]] = {}
    for experiment, setting, _, run_id in _labelled(labels, "judge"):
        for row in rows.get(run_id, ()):
            where = _where(experiment, setting, row.domain, row.split)
            of_types = groups.setdefault(where, {ALL_TYPES: Counter()})
            for name in (ALL_TYPES, row.gold_type):
                of_types.setdefault(name, Counter()).update({count: getattr(row, count) for count in _COUNTS})
    return tuple(
        VerdictShare(where, name, **{count: counts[count] for count in _COUNTS})
        for where, of_types in groups.items()
        for name, counts in of_types.items()
    )


def fusion_weights(store: Store, labels: Labels) -> tuple[FusionWeights, ...]:
    """Per fused setting, mean over seeds. Runs on dev and on test have the same weights: those of test where it is."""
    rows: dict[str, list[reported.FusionWeightRow]] = {}
    for row in reported.fusion_weight_rows(store, [run_id for *_, run_id in _labelled(labels, "fuse")]):
        rows.setdefault(row.run_id, []).append(row)
    groups: dict[Where, list[dict[str, float]]] = {}
    for experiment, setting, split, run_id in _labelled(labels, "fuse"):
        is_repeated = split == "dev" and f"fuse:{setting}/test" in labels[experiment]
        if run_id in rows and not is_repeated:
            where = _where(experiment, setting, rows[run_id][0].domain, rows[run_id][0].split)
            groups.setdefault(where, []).append({row.name: row.value for row in rows[run_id]})
    return tuple(
        FusionWeights(
            where,
            n_seeds=len(seeds),
            weights={name: fmean(seed[name] for seed in seeds) for name in seeds[0]},
        )
        for where, seeds in groups.items()
    )


def with_verdicts(store: Store, labels: Labels, models: Sequence[Model]) -> tuple[Model, ...]:
    """The models with what the LLM says of their mentions, where the experiment has judged them."""
    judges = [_judge_run(labels, model) for model in models]
    found: dict[str, dict[int, list[Verdict]]] = {}
    for row in reported.judged_rows(store, [run_id for run_id in dict.fromkeys(judges) if run_id]):
        verdict = Verdict(row.start_token, row.end_token, row.llm_type, row.llm_probability)
        found.setdefault(row.run_id, {}).setdefault(row.position, []).append(verdict)
    return tuple(
        replace(model, verdicts={position: tuple(said) for position, said in found[run_id].items()})
        if run_id in found
        else model
        for model, run_id in zip(models, judges, strict=True)
    )


def _judge_run(labels: Labels, model: Model) -> str | None:
    setting = cast(Setting, model.where.setting)
    return labels[model.experiment].get(f"judge:{FUSED_OF.get(setting, setting)}/{model.where.split}")


def _labelled(labels: Labels, step: str) -> list[tuple[str, str, str, str]]:
    """(experiment, setting, split, run id) of every run of a step."""
    return [
        (experiment, *_parts(label), run_id)
        for experiment, runs in labels.items()
        for label, run_id in runs.items()
        if label.startswith(f"{step}:")
    ]


def _parts(label: str) -> tuple[str, str]:
    setting, _, split = label.partition(":")[2].rpartition("/")
    return setting, split


def _where(experiment: str, setting: str, domain: str, split: str) -> Where:
    cell = cell_of(experiment)
    return Where(cell.study, cell.axes, domain, split, setting)
