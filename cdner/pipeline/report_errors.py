"""What the models of a report predicted, what of it is wrong, and how sure their scores are. Loads no model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, cast

import numpy as np

from cdner.evaluate.scores import sentence_counts
from cdner.evaluate.significance import (
    Counts,
    difference_of,
    f1_difference,
    micro_f1,
    percentile_interval,
    resampled_f1,
)
from cdner.report.content import (
    Ablation,
    Difference,
    ErrorKind,
    ErrorShare,
    Model,
    PredictionError,
    Where,
)
from cdner.store import Store, reported
from cdner.store.corpora import load_corpus, load_domain
from cdner.store.predictions import load_predictions, predicted_corpus
from cdner.store.reasoning import load_reasoning
from cdner.types import Corpus, Prediction

if TYPE_CHECKING:
    from cdner.pipeline.report import Evaluated

ALL_TYPES = "*"
_Read = tuple[int, tuple[int, ...]]  # a corpus and the positions predicted of it
_BASELINES = ("without_all", "without_source")  # the first of them that was evaluated


def gather_models(
    store: Store, evaluated: Sequence[Evaluated]
) -> tuple[tuple[Corpus, ...], tuple[Model, ...]]:
    """Corpora, each once and with its declared types, and what each evaluated run's model predicted."""
    reasoned = reported.reasoning_inputs(store, [item.predict_run_id for item in evaluated])
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
    by_run: dict[str, list[reported.ErrorRow]] = {}
    for row in reported.error_rows(store, list({model.run_id for model in models})):
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
