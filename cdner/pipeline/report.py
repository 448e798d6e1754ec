"""Gathers what a report shows: rows of the store's views, averaged over seeds. Loads no model, prints nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from statistics import fmean, stdev
from typing import NamedTuple

import numpy as np

from cdner import __version__
from cdner.errors import StoreError
from cdner.evaluate.calibration import expected_calibration_error, reliability
from cdner.pipeline.report_errors import ablations, errors_per_type, gather_models, prediction_errors
from cdner.pipeline.report_verdicts import fusion_weights, verdict_shares, with_verdicts
from cdner.report.content import (
    AVERAGE,
    ConfusionMap,
    Provenance,
    PublishedScore,
    Reliability,
    ReliabilityBin,
    Report,
    Score,
    Usage,
    Where,
    cell_of,
)
from cdner.store import Store, reported
from cdner.store.lookup import short_names
from cdner.store.ratios import load_hierarchy
from cdner.store.usage import load_usage

_CONFUSION = {"v_conf", "u_hie", "u_sim", "u_iml", "v_iml", "v_exl"}  # views' columns; R_M is r_m there


class Evaluated(NamedTuple):
    """An evaluate run with its place; ``experiment`` is the cell."""

    where: Where
    experiment: str
    run_id: str
    predict_run_id: str


def gather(store: Store, names: Sequence[str] = (), *, title: str = "", n_resamples: int = 10_000) -> Report:
    """Everything the store has of these experiments (all without a name); of a matrix all its cells.

    UsageError for an unknown name, InputError for a store without experiments.
    """
    labels = reported.labelled_runs(store, names)
    scores = {
        (row.run_id, row.metric_family, row.average): row
        for row in reported.score_rows(store, _runs(labels, "evaluate"))
    }
    evaluated = _evaluated(store, labels, scores)
    lines = _scores(evaluated, scores)
    corpora, models = gather_models(store, evaluated)
    models = with_verdicts(store, labels, models)
    errors = prediction_errors(store, models)
    return Report(
        title=title or ", ".join(dict.fromkeys(cell_of(name).study for name in labels)),
        version=__version__,
        made_utc=datetime.now(UTC).isoformat(" ", "minutes").removesuffix("+00:00"),
        experiments=tuple(labels),
        scores=(*lines, *domain_averages(lines)),
        published=_published(store, [item.run_id for item in evaluated]),
        ablations=ablations(corpora, models, n_resamples=n_resamples),
        errors_per_type=errors_per_type(corpora, models, errors),
        maps=_maps(store, labels),
        usage=_usage(store, labels),
        provenance=_provenance(store, labels),
        corpora=corpora,
        models=models,
        errors=errors,
        reliability=_reliability(store, evaluated),
        verdict_shares=verdict_shares(store, labels),
        fusion_weights=fusion_weights(store, labels),
    )


def _runs(labels: Mapping[str, Mapping[str, str]], *steps: str) -> list[str]:
    """Run ids of the steps (all without one), each once."""
    found = (
        run_id
        for runs in labels.values()
        for label, run_id in runs.items()
        if not steps or label.partition(":")[0] in steps
    )
    return list(dict.fromkeys(found))


ScoreRows = Mapping[tuple[str, str, str], reported.ScoreRow]


def _evaluated(
    store: Store, labels: Mapping[str, Mapping[str, str]], scores: ScoreRows
) -> tuple[Evaluated, ...]:
    """Labelled evaluate runs that have scores, in order of first labels."""
    predicted = reported.predictions_scored(store, _runs(labels, "evaluate"))
    found = []
    for experiment, runs in labels.items():
        cell = cell_of(experiment)
        for label, run_id in runs.items():
            row = scores.get((run_id, "strict", "micro"))
            if not label.startswith("evaluate:") or row is None or run_id not in predicted:
                continue
            setting = label.partition(":")[2].rpartition("/")[0]
            where = Where(cell.study, cell.axes, row.domain, row.split, setting)
            found.append(Evaluated(where, experiment, run_id, predicted[run_id]))
    return tuple(found)


def _scores(evaluated: Sequence[Evaluated], rows: ScoreRows) -> tuple[Score, ...]:
    groups: dict[Where, list[str]] = {}
    for item in evaluated:
        groups.setdefault(item.where, []).append(item.run_id)
    found = []
    for where, run_ids in groups.items():
        strict = [rows[run_id, "strict", "micro"] for run_id in run_ids]
        f1 = [row.f1 for row in strict]
        found.append(
            Score(
                where,
                n_seeds=len(f1),
                n_gold=strict[0].n_gold,
                precision=fmean(row.precision for row in strict),
                recall=fmean(row.recall for row in strict),
                f1=fmean(f1),
                deviation=stdev(f1) if len(f1) > 1 else None,
                span_f1=fmean(rows[run_id, "span", "micro"].f1 for run_id in run_ids),
                macro_f1=fmean(rows[run_id, "strict", "macro"].f1 for run_id in run_ids),
            )
        )
    return tuple(found)


def _reliability(store: Store, evaluated: Sequence[Evaluated]) -> tuple[Reliability, ...]:
    """One for each line whose predictions have probabilities."""
    rows: dict[str, list[reported.ConfidenceRow]] = {}
    for row in reported.confidence_rows(store, [item.predict_run_id for item in evaluated]):
        rows.setdefault(row.run_id, []).append(row)
    groups: dict[Where, list[reported.ConfidenceRow]] = {}
    for item in evaluated:
        if item.predict_run_id in rows:
            groups.setdefault(item.where, []).extend(rows[item.predict_run_id])
    found = []
    for where, said in groups.items():
        confidence = np.array([row.probability for row in said])
        is_right = np.array([row.is_right for row in said])
        bins = tuple(
            ReliabilityBin(one.low, one.high, one.n, one.mean_confidence, one.share_correct)
            for one in reliability(confidence, is_right)
            if one.n
        )
        found.append(Reliability(where, expected_calibration_error(confidence, is_right), bins))
    return tuple(found)


def domain_averages(scores: Sequence[Score]) -> tuple[Score, ...]:
    """One line a setting of a study with several target domains: their unweighted mean, as tables' "Avg." is."""
    groups: dict[Where, list[Score]] = {}
    for score in scores:
        axes = tuple(axis for axis in score.where.axes if axis[1] != score.where.domain)
        groups.setdefault(replace(score.where, axes=axes, domain=AVERAGE), []).append(score)
    return tuple(
        Score(
            where,
            n_seeds=min(score.n_seeds for score in group),
            n_gold=sum(score.n_gold for score in group),
            precision=fmean(score.precision for score in group),
            recall=fmean(score.recall for score in group),
            f1=fmean(score.f1 for score in group),
            deviation=None,  # seeds of different domains do not belong together
            span_f1=fmean(score.span_f1 for score in group),
            macro_f1=fmean(score.macro_f1 for score in group),
        )
        for where, group in groups.items()
        if len({score.where.domain for score in group}) > 1
    )


def _published(store: Store, run_ids: Sequence[str]) -> tuple[PublishedScore, ...]:
    return tuple(
        PublishedScore(
            domain=row.target_domain,
            metric="span F1" if row.metric_family == "span" else "F1",
            method=row.method,
            year=row.year,
            setting=row.published_setting,
            source=row.published_source_domain,
            same_source=row.published_source_domain == row.source_domain,
            shots=row.shots,
            backbone=row.published_backbone,
            llm=row.published_llm,
            f1=row.published_f1,
            comparable=row.comparable,
            why_not=row.why_not,
            difference=row.difference,
            read_in=f"{row.source_table}: {row.publication}",
        )
        for row in reported.published_rows(store, run_ids)
    )


def _maps(store: Store, labels: Mapping[str, Mapping[str, str]]) -> tuple[ConfusionMap, ...]:
    """One map a quantify run, under the first experiment that has it: cells of a matrix share them."""
    names: dict[str, str] = {}
    for experiment, runs in labels.items():
        if run_id := runs.get("quantify:target"):
            names.setdefault(run_id, experiment)
    by_run: dict[str, list[reported.ConfusionRow]] = {}
    for row in reported.confusion_rows(store, list(names)):
        by_run.setdefault(row.run_id, []).append(row)
    return tuple(_map(store, names[run_id], run_id, by_run[run_id]) for run_id in names if run_id in by_run)


def _map(store: Store, experiment: str, run_id: str, rows: Sequence[reported.ConfusionRow]) -> ConfusionMap:
    types, prefixes = _types_and_prefixes(store, run_id, rows)
    cells = {(row.gold_type, row.confused_type): row for row in rows}
    scores = {}
    for dimension in (*sorted(_CONFUSION), "R_M"):
        table = tuple(
            tuple(
                getattr(cells[gold, confused], dimension.lower()) if (gold, confused) in cells else None
                for confused in types
            )
            for gold in types
        )
        if any(score is not None for line in table for score in line):
            scores[dimension] = table
    ranked = sorted((row for row in rows if row.rival_rank), key=lambda row: row.rival_rank or 0)
    rivals = {gold: tuple(row.confused_type for row in ranked if row.gold_type == gold) for gold in types}
    domain = reported.target_domain(store, run_id)
    return ConfusionMap(experiment, domain, run_id, types, prefixes, scores, rivals)


def _types_and_prefixes(
    store: Store, run_id: str, rows: Sequence[reported.ConfusionRow]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Types in their declared order where the hierarchy knows it, with the source type's short name."""
    try:
        hierarchy = load_hierarchy(store, run_id)
    except StoreError:
        types = tuple(dict.fromkeys(row.gold_type for row in rows))
        return types, ("",) * len(types)
    short = short_names(store, run_id, hierarchy.ratios.predicted_types)
    return hierarchy.ratios.gold_types, tuple(short[name] for name in hierarchy.prefixes)


def _usage(store: Store, labels: Mapping[str, Mapping[str, str]]) -> tuple[Usage, ...]:
    """One row a run and model, under the first experiment that has the run."""
    named: dict[str, tuple[str, str]] = {}
    for experiment, runs in labels.items():
        for label, run_id in runs.items():
            named.setdefault(run_id, (experiment, label))
    return tuple(
        Usage(
            *named[run_id],
            run_id,
            model=f"{row.account.backend_family} {row.account.model}",
            n_requests=row.n_requests,
            n_calls=row.account.n_calls,
            n_reused=row.n_reused,
            n_input_tokens=row.account.n_input_tokens,
            cached_share=row.account.cached_share,
            n_output_tokens=row.account.n_output_tokens,
            cost_usd=row.account.cost_usd,
            wall_seconds=row.account.wall_seconds,
            n_gaps=row.account.n_gaps,
            n_parse_failures=row.account.n_parse_failures,
        )
        for run_id, rows in load_usage(store, list(named)).items()
        for row in rows
    )


def _provenance(store: Store, labels: Mapping[str, Mapping[str, str]]) -> tuple[Provenance, ...]:
    executed = {row.run_id: row for row in reported.executed_rows(store, _runs(labels))}
    found: dict[str, Provenance] = {}
    for experiment, runs in labels.items():
        for label, run_id in runs.items():
            row = executed.get(run_id)
            if row is None or run_id in found:
                continue
            finished = row.finished_utc.isoformat(" ", "seconds") if row.finished_utc else ""
            checksum = f"weights {row.weights_sha256}" if row.weights_sha256 else ""
            found[run_id] = Provenance(
                *(experiment, label, run_id, row.status or "never executed", finished, row.seconds),
                checksum or (f"file {row.file_sha256}" if row.file_sha256 else ""),
                row.settings,
            )
    return tuple(found.values())
