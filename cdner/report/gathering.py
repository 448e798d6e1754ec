"""Gathers what a report shows: rows of the store's views, averaged over seeds, with errors and verdicts.

Loads no model and prints nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from statistics import fmean, stdev
from typing import NamedTuple, cast

import numpy as np

from cdner.config import Label, parts_of
from cdner.errors import StoreError
from cdner.evaluate.calibration import expected_calibration_error, reliability
from cdner.evaluate.scores import sentence_counts
from cdner.evaluate.significance import (
    Counts,
    difference_of,
    f1_difference,
    micro_f1,
    percentile_interval,
    resampled_f1,
)
from cdner.report import queries
from cdner.report.content import (
    AVERAGE,
    Ablation,
    ConfusionMap,
    Difference,
    ErrorKind,
    ErrorShare,
    FusionWeights,
    Model,
    PredictionError,
    Provenance,
    PublishedScore,
    Reliability,
    ReliabilityBin,
    Report,
    Score,
    Usage,
    Verdict,
    VerdictShare,
    Where,
    cell_of,
)
from cdner.store import Store
from cdner.store.confusion import load_hierarchy
from cdner.store.corpora import load_corpus, load_domain
from cdner.store.find import short_names
from cdner.store.llm_log import load_reasoning, load_usage
from cdner.store.predictions import load_predictions, predicted_corpus
from cdner.types import Corpus, Prediction
from cdner.version import __version__

OF_ALL_TYPES = "*"
Labels = Mapping[str, Mapping[str, str]]  # experiment -> label -> run
_COUNTS = ("n_mentions", "n_both", "n_backbone_only", "n_llm_only", "n_neither")


def verdict_shares(store: Store, labels: Labels) -> tuple[VerdictShare, ...]:
    """Per judged setting and split "*" first, then the types in their declared order; seeds are summed."""
    rows: dict[str, list[queries.VerdictRightRow]] = {}
    for row in queries.verdict_right_rows(store, [run_id for *_, run_id in _labelled(labels, "judge")]):
        rows.setdefault(row.run_id, []).append(row)
    groups: dict[Where, dict[str, Counter[str]]] = {}
    for experiment, setting, _, run_id in _labelled(labels, "judge"):
        for row in rows.get(run_id, ()):
            where = _where(experiment, setting, row.domain, row.split)
            of_types = groups.setdefault(where, {OF_ALL_TYPES: Counter()})
            for name in (OF_ALL_TYPES, row.gold_type):
                of_types.setdefault(name, Counter()).update({count: getattr(row, count) for count in _COUNTS})
    return tuple(
        VerdictShare(where, name, **{count: counts[count] for count in _COUNTS})
        for where, of_types in groups.items()
        for name, counts in of_types.items()
    )


def fusion_weights(store: Store, labels: Labels) -> tuple[FusionWeights, ...]:
    """Per fused setting, mean over seeds. Runs on dev and on test have the same weights: those of test where it is."""
    rows: dict[str, list[queries.FusionWeightRow]] = {}
    for row in queries.fusion_weight_rows(store, [run_id for *_, run_id in _labelled(labels, "fuse")]):
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
    for row in queries.judged_rows(store, [run_id for run_id in dict.fromkeys(judges) if run_id]):
        verdict = Verdict(row.start_token, row.end_token, row.llm_type, row.llm_probability)
        found.setdefault(row.run_id, {}).setdefault(row.position, []).append(verdict)
    return tuple(
        replace(model, verdicts={position: tuple(said) for position, said in found[run_id].items()})
        if run_id in found
        else model
        for model, run_id in zip(models, judges, strict=True)
    )


def _judge_run(labels: Labels, model: Model) -> str | None:
    judged = parts_of(model.where.setting).fused or model.where.setting
    return labels[model.experiment].get(f"judge:{judged}/{model.where.split}")


def _labelled(labels: Labels, step: str) -> list[tuple[str, str, str, str]]:
    """(experiment, setting, split, run id) of every run of a step."""
    return [
        (experiment, label.subject, label.split, run_id)
        for experiment, runs in labels.items()
        for label, run_id in ((Label.of(text), run_id) for text, run_id in runs.items())
        if label.kind == step
    ]


def _where(experiment: str, setting: str, domain: str, split: str) -> Where:
    cell = cell_of(experiment)
    return Where(cell.study, cell.axes, domain, split, setting)


ALL_TYPES = "*"
_Read = tuple[int, tuple[int, ...]]  # a corpus and the positions predicted of it
_BASELINES = ("without_all", "without_source")  # the first of them that was evaluated


def gather_models(
    store: Store, evaluated: Sequence[Evaluated]
) -> tuple[tuple[Corpus, ...], tuple[Model, ...]]:
    """Corpora, each once and with its declared types, and what each evaluated run's model predicted."""
    reasoned = queries.reasoning_inputs(store, [item.predict_run_id for item in evaluated])
    corpora: dict[str, Corpus] = {}
    models = []
    for item in evaluated:
        corpus_run = predicted_corpus(store, item.predict_run_id)
        if corpus_run not in corpora:
            declared = load_domain(store, corpus_run).types
            corpora[corpus_run] = replace(load_corpus(store, corpus_run), types=declared)
        predictions = load_predictions(store, item.predict_run_id)
        models.append(
            Model(
                item.where,
                item.experiment,
                item.predict_run_id,
                corpus=list(corpora).index(corpus_run),
                predicted={position: found.entities for position, found in predictions.items()},
                # An LLM alone stores what it reasoned with its own run.
                reasoning=load_reasoning(store, reasoned.get(item.predict_run_id, item.predict_run_id)),
            )
        )
    return tuple(corpora.values()), tuple(models)


def prediction_errors(store: Store, models: Sequence[Model]) -> tuple[PredictionError, ...]:
    """Every error of every model, by model and then in text order; a run of two models counts for both."""
    by_run: dict[str, list[queries.ErrorRow]] = {}
    for row in queries.error_rows(store, list({model.run_id for model in models})):
        by_run.setdefault(row.run_id, []).append(row)
    return tuple(
        PredictionError(
            number,
            row.position,
            cast(ErrorKind, row.kind),
            gold=row.gold_type or "",
            predicted=row.predicted_type or "",
            start=row.start_token,
            end=row.end_token,
        )
        for number, model in enumerate(models)
        for row in by_run.get(model.run_id, ())
    )


def errors_per_type(
    corpora: Sequence[Corpus], models: Sequence[Model], errors: Sequence[PredictionError]
) -> tuple[ErrorShare, ...]:
    """Figure 6: per line of the leaderboard "*" first, then the types in their declared order."""
    n_gold: dict[Where, Counter[str]] = {}
    types: dict[Where, tuple[str, ...]] = {}
    n_wrong: Counter[tuple[Where, str, str]] = Counter()
    for model in models:
        corpus = corpora[model.corpus]
        types[model.where] = corpus.types
        counts = n_gold.setdefault(model.where, Counter())
        counts.update(entity.type for p in model.predicted for entity in corpus.sentences[p].entities)
    for error in errors:
        for name in (error.gold or error.predicted, ALL_TYPES):
            n_wrong[models[error.model].where, name, error.kind] += 1
    return tuple(
        ErrorShare(
            where,
            name,
            n_gold=n_gold[where].total() if name == ALL_TYPES else n_gold[where][name],
            n_misclassified=n_wrong[where, name, "type"],
            n_boundary=n_wrong[where, name, "boundary"],
            n_not_found=n_wrong[where, name, "missed"],
            n_spurious=n_wrong[where, name, "spurious"],
        )
        for where, names in types.items()
        for name in (ALL_TYPES, *names)
    )


def ablations(
    corpora: Sequence[Corpus], models: Sequence[Model], *, n_resamples: int
) -> tuple[Ablation, ...]:
    """One bar a line of the leaderboard, compared with the plain backbone of the same cells where there is one.

    Seeds of one line, and the settings compared, must have predicted the same sentences; else there is no interval
    to give, and the bar or the difference is left out.
    """
    counted: dict[_Read, dict[Where, Counts]] = {}
    for where in dict.fromkeys(model.where for model in models):
        seeds = [model for model in models if model.where == where]
        read = {(model.corpus, tuple(sorted(model.predicted))) for model in seeds}
        if len(read) == 1 and seeds[0].predicted:
            counts = np.stack([_counts(corpora, model) for model in seeds])
            counted.setdefault(read.pop(), {})[where] = counts
    made = {bar.where: bar for group in counted.values() for bar in _bars(group, n_resamples=n_resamples)}
    return tuple(made[where] for where in dict.fromkeys(model.where for model in models) if where in made)


def _counts(corpora: Sequence[Corpus], model: Model) -> Counts:
    positions = sorted(model.predicted)
    gold = [corpora[model.corpus].sentences[position] for position in positions]
    predictions = [Prediction("", model.predicted[position]) for position in positions]
    return sentence_counts(gold, predictions, "strict")


def _bars(group: Mapping[Where, Counts], *, n_resamples: int) -> list[Ablation]:
    """All lines over the same sentences share each resample: drawn once, every difference is a paired one."""
    scores = resampled_f1(np.concatenate(list(group.values())), n_resamples=n_resamples)
    ends = np.cumsum([len(counts) for counts in group.values()])
    drawn = {
        where: part.mean(1) for where, part in zip(group, np.split(scores, ends[:-1], axis=1), strict=True)
    }
    bars = []
    for where, counts in group.items():
        low, high = percentile_interval(drawn[where])
        baseline = next((at for name in _BASELINES if (at := replace(where, setting=name)) in group), None)
        difference = None
        if baseline is not None and baseline != where:
            value = f1_difference(group[baseline], counts)
            found = difference_of(value, drawn[where] - drawn[baseline])
            difference = Difference(baseline.setting, found.value, found.low, found.high, found.p_value)
        f1 = float(micro_f1(counts.sum(axis=1)).mean())
        bars.append(Ablation(where, len(counts), f1, low, high, difference))
    return bars


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
    labels = queries.labelled_runs(store, names)
    scores = {
        (row.run_id, row.metric_family, row.average): row
        for row in queries.score_rows(store, _runs(labels, "evaluate"))
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
        if not steps or Label.of(label).kind in steps
    )
    return list(dict.fromkeys(found))


ScoreRows = Mapping[tuple[str, str, str], queries.ScoreRow]


def _evaluated(
    store: Store, labels: Mapping[str, Mapping[str, str]], scores: ScoreRows
) -> tuple[Evaluated, ...]:
    """Labelled evaluate runs that have scores, in order of first labels."""
    predicted = queries.predictions_scored(store, _runs(labels, "evaluate"))
    found = []
    for experiment, runs in labels.items():
        cell = cell_of(experiment)
        for label, run_id in runs.items():
            row = scores.get((run_id, "strict", "micro"))
            if Label.of(label).kind != "evaluate" or row is None or run_id not in predicted:
                continue
            setting = Label.of(label).subject
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
    rows: dict[str, list[queries.ConfidenceRow]] = {}
    for row in queries.confidence_rows(store, [item.predict_run_id for item in evaluated]):
        rows.setdefault(row.run_id, []).append(row)
    groups: dict[Where, list[queries.ConfidenceRow]] = {}
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
        for row in queries.published_rows(store, run_ids)
    )


def _maps(store: Store, labels: Mapping[str, Mapping[str, str]]) -> tuple[ConfusionMap, ...]:
    """One map a quantify run, under the first experiment that has it: cells of a matrix share them."""
    names: dict[str, str] = {}
    for experiment, runs in labels.items():
        if run_id := runs.get("quantify:target"):
            names.setdefault(run_id, experiment)
    by_run: dict[str, list[queries.ConfusionRow]] = {}
    for row in queries.confusion_rows(store, list(names)):
        by_run.setdefault(row.run_id, []).append(row)
    return tuple(_map(store, names[run_id], run_id, by_run[run_id]) for run_id in names if run_id in by_run)


def _map(store: Store, experiment: str, run_id: str, rows: Sequence[queries.ConfusionRow]) -> ConfusionMap:
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
    domain = queries.target_domain(store, run_id)
    return ConfusionMap(experiment, domain, run_id, types, prefixes, scores, rivals)


def _types_and_prefixes(
    store: Store, run_id: str, rows: Sequence[queries.ConfusionRow]
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
    executed = {row.run_id: row for row in queries.executed_rows(store, _runs(labels))}
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
