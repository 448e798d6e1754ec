"""The step fuse: the entities of a setting, with types decided by the backbone and the LLM together.

Spans do not change. The weights are fitted on dev mentions with the right span. Dev itself is predicted in folds, each
with weights fitted on the sentences of the other folds. No model is loaded; the step takes seconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np

from cdner.codec import encode_entities
from cdner.config import Experiment
from cdner.config import Fusion as FusionSettings
from cdner.errors import InputError
from cdner.files import Json
from cdner.spans import index_by_span
from cdner.steps.context import Context
from cdner.steps.judging import probabilities_of
from cdner.steps.protocol import StepKind
from cdner.steps.step import Step
from cdner.steps.windows import EVALUATED, windows
from cdner.store import predictions as stored_predictions
from cdner.store import verdicts as stored_verdicts
from cdner.store.corpora import load_sentences
from cdner.store.verdicts import MentionKey, Verdict
from cdner.types import Domain, Entity, FloatArray, Generation, Prediction, Sentence
from cdner.verdicts import Fusion, decide, fit_fusion

Span = tuple[int, int]
Opinion = tuple[Mapping[str, float], bool]  # distribution over types, whether the LLM took part in it


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """Mentions with the probabilities of backbone and LLM, (n, K) each; rows sum to 1."""

    mentions: list[MentionKey]
    p_backbone: FloatArray
    p_llm: FloatArray

    def of(self, rows: Sequence[int]) -> Judged:
        return Judged([self.mentions[row] for row in rows], self.p_backbone[rows], self.p_llm[rows])


def settings(experiment: Experiment, target: Domain) -> dict[str, Json]:
    """What identifies fused predictions, beside their inputs and the sample."""
    return {"fuse": experiment.fuse.identity(), "types": list(target.types)}


def fuse(step: Step, context: Context) -> None:
    """Decide the types and store them as predictions."""
    settings = FusionSettings.model_validate(cast(Mapping[str, Any], step.spec.settings)["fuse"])
    types = tuple(cast(Mapping[str, Any], step.spec.settings)["types"])
    context.progress.start(step.label)
    judged = _judged(step, context, "predictions", "verdicts", types)
    if "dev" in step.inputs:
        dev = _judged(step, context, "dev_predictions", "dev_verdicts", types)
        gold = _gold_types(context, context.input_run(step, "dev"), dev.mentions, types)
        fusion = _fitted(dev, gold, settings)
        decided = decide(fusion, judged.p_backbone, judged.p_llm)
    else:
        gold = _gold_types(context, context.input_run(step, "corpus"), judged.mentions, types)
        fusion = _fitted(judged, gold, settings)
        decided = _by_folds(judged, gold, settings)
    n_fitted = sum(index is not None for index in gold)
    _save_weights(step, context, fusion, types, n_fitted)
    _store(step, context, distributions(judged, decided, types), types)


def distributions(
    judged: Judged, decided: FloatArray, types: tuple[str, ...]
) -> dict[MentionKey, dict[str, float]]:
    """Mention -> type -> fused probability, from (n, K) ``decided``."""
    return {
        mention: dict(zip(types, map(float, row), strict=True))
        for mention, row in zip(judged.mentions, decided, strict=True)
    }


def _judged(step: Step, context: Context, predictions: str, verdicts: str, types: tuple[str, ...]) -> Judged:
    """The mentions with a verdict and with probabilities of the backbone."""
    predicted_run = context.input_run(step, predictions)
    probabilities = stored_predictions.load_type_probabilities(context.store, predicted_run)
    found = stored_verdicts.load_verdicts(context.store, context.input_run(step, verdicts))
    if found and not probabilities:
        raise InputError(
            f"{step.label}: the predictions of run {predicted_run} have no probabilities of types. "
            "Predict with them: --set predict.confidence=true (a tagger always has them)."
        )
    return both_opinions(probabilities, found, types)


def both_opinions(
    backbone: Mapping[int, Mapping[Span, Mapping[str, float]]],
    verdicts: Mapping[MentionKey, Verdict],
    types: tuple[str, ...],
) -> Judged:
    """The mentions with probabilities of both. ``backbone``: position -> span -> distribution over types."""
    both = {
        mention: (backbone[mention.position][mention.start, mention.end], probabilities_of(verdict))
        for mention, verdict in verdicts.items()
        if verdict.gap_reason is None and (mention.start, mention.end) in backbone.get(mention.position, {})
    }
    p_backbone, p_llm = np.zeros((len(both), len(types))), np.zeros((len(both), len(types)))
    for row, (of_backbone, of_llm) in enumerate(both.values()):
        p_backbone[row] = [of_backbone.get(name, 0.0) for name in types]
        p_llm[row] = [of_llm.get(name, 0.0) for name in types]
    return Judged(list(both), p_backbone, p_llm)


def _gold_types(
    context: Context, corpus_run: str, mentions: Sequence[MentionKey], types: tuple[str, ...]
) -> list[int | None]:
    """The index of each mention's gold type; None if its span is not a gold entity."""
    positions = sorted({mention.position for mention in mentions})
    sentences = load_sentences(context.store, corpus_run, positions)
    gold = {
        position: index_by_span(sentence.entities)
        for position, sentence in zip(positions, sentences, strict=True)
    }
    names = [gold[mention.position].get((mention.start, mention.end)) for mention in mentions]
    return [types.index(name) if name in types else None for name in names]


def _fitted(judged: Judged, gold: Sequence[int | None], settings: FusionSettings) -> Fusion:
    rows = [row for row, index in enumerate(gold) if index is not None]
    kept = judged.of(rows)
    indices = np.array([gold[row] for row in rows], dtype=np.int64)
    return fit_fusion(kept.p_backbone, kept.p_llm, indices, penalty=settings.penalty, biases=settings.biases)


def _by_folds(judged: Judged, gold: Sequence[int | None], settings: FusionSettings) -> FloatArray:
    """(n, K): the mentions of each sentence, with weights fitted on the sentences of the other folds."""
    decided = np.zeros_like(judged.p_backbone)
    positions = sorted({mention.position for mention in judged.mentions})
    fold_of = {position: number % settings.folds for number, position in enumerate(positions)}
    for fold in range(settings.folds):
        inside = [row for row, mention in enumerate(judged.mentions) if fold_of[mention.position] == fold]
        outside = [row for row in range(len(judged.mentions)) if row not in set(inside)]
        fusion = _fitted(judged.of(outside), [gold[row] for row in outside], settings)
        held_out = judged.of(inside)
        decided[inside] = decide(fusion, held_out.p_backbone, held_out.p_llm)
    return decided


def _save_weights(
    step: Step, context: Context, fusion: Fusion, types: tuple[str, ...], n_fitted: int
) -> None:
    weights = {"backbone": fusion.backbone, "llm": fusion.llm, "n_dev_mentions": float(n_fitted)}
    weights |= {f"bias:{name}": float(value) for name, value in zip(types, fusion.biases, strict=True)}
    stored_verdicts.save_fusion_weights(context.store, step.spec.run_id, weights)


def _store(
    step: Step, context: Context, fused: Mapping[MentionKey, Mapping[str, float]], types: tuple[str, ...]
) -> None:
    corpus_run, predicted_run = context.input_run(step, "corpus"), context.input_run(step, "predictions")
    predicted = stored_predictions.load_predictions(context.store, predicted_run)
    opinions = opinions_of(fused, stored_predictions.load_type_probabilities(context.store, predicted_run))
    for window in windows(sorted(predicted), EVALUATED):
        sentences = dict(zip(window, load_sentences(context.store, corpus_run, window), strict=True))
        rows = []
        for position in window:
            decided = retyped(predicted[position], sentences[position], opinions.get(position, {}), types)
            rows.append((position, decided, Generation("", 0, 0, 0, "stop")))
        stored_predictions.save_predictions(
            context.store, step.spec.run_id, rows, corpus_run_id=corpus_run, sentences=sentences
        )


def opinions_of(
    fused: Mapping[MentionKey, Mapping[str, float]],
    backbone: Mapping[int, Mapping[Span, Mapping[str, float]]],
) -> dict[int, dict[Span, Opinion]]:
    """Position -> span -> its distribution over types, and whether the LLM took part in it."""
    found: dict[int, dict[Span, Opinion]] = {
        position: {span: (probabilities, False) for span, probabilities in spans.items()}
        for position, spans in backbone.items()
    }
    for mention, probabilities in fused.items():
        found.setdefault(mention.position, {})[mention.start, mention.end] = (probabilities, True)
    return found


def retyped(
    prediction: Prediction, sentence: Sentence, opinions: Mapping[Span, Opinion], types: tuple[str, ...]
) -> Prediction:
    """The entities of a sentence with fused types; an entity without a verdict keeps the type of the backbone."""
    entities, distributions = [], []
    for entity in prediction.entities:
        probabilities, is_judged = opinions.get((entity.start, entity.end), ({}, False))
        decided = max(probabilities, key=lambda name: probabilities[name]) if is_judged else entity.type
        entities.append(Entity(entity.start, entity.end, decided))
        distributions.append(probabilities)
    kept = replace(sentence, entities=tuple(entities))
    return Prediction(
        encode_entities(kept, types), tuple(entities), prediction.malformed, tuple(distributions)
    )


KIND = StepKind("fuse", 1, fuse)
