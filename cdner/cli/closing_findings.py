"""What a finished experiment shows besides its scores: which differences are more than chance, and one sentence.

Read from stored predictions, texts and verdicts; loads no model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from cdner.compare.comparison import by_domain, compare_f1, load_pair
from cdner.config import SETTINGS, Setting
from cdner.evaluate.significance import Difference
from cdner.experiment.plan import Plan
from cdner.experiment.summary import compared_setting
from cdner.spans import index_by_span
from cdner.steps.context import Context
from cdner.steps.judging import probabilities_of
from cdner.steps.step import Step
from cdner.store import llm_log as stored_reasoning
from cdner.store import predictions as stored_predictions
from cdner.store import verdicts as stored_verdicts
from cdner.store.corpora import load_sentences
from cdner.types import Entity, Prediction, ReasoningChain, Sentence, Split

BASE: Setting = "without_all"


@dataclass(frozen=True, slots=True)
class DecidedMention:
    """A mention whose type differs between ``without_all`` and the setting compared with it."""

    entity: Entity  # the type before
    gold: str
    after: str
    verdict: Mapping[str, float]  # type -> the LLM's probability; empty without a verdict


@dataclass(frozen=True, slots=True)
class ExampleSentence:
    """A sentence in which the compared setting corrects a type."""

    sentence: Sentence
    setting: Setting
    mentions: tuple[DecidedMention, ...]
    chain: ReasoningChain | None  # what ``full`` read, where the experiment has it


def differences(plan: Plan, context: Context) -> list[tuple[Setting, Split, Difference]]:
    """Strict F1 of each other setting minus that of ``without_all``, per split, with its 95 % interval and p-value."""
    found = []
    for split, before, setting, after in _pairs(plan):
        pair = load_pair(context.store, before.spec.run_id, after.spec.run_id)
        strict = next(row for row in compare_f1(by_domain([pair])) if row.metric == "strict")
        found.append((setting, split, strict.difference))
    return found


def _pairs(plan: Plan) -> Iterator[tuple[Split, Step, Setting, Step]]:
    for split in plan.experiment.splits:
        before = _prediction(plan, BASE, split)
        for setting in plan.experiment.settings:
            after = _prediction(plan, setting, split)
            if before and after and setting != BASE:
                yield split, before, setting, after


def _prediction(plan: Plan, setting: Setting, split: Split) -> Step | None:
    label = f"{SETTINGS[setting].prediction_step}:{setting}/{split}"
    return next((step for step in plan.steps if step.label == label), None)


def example_sentence(plan: Plan, context: Context) -> ExampleSentence | None:
    """The first sentence of the last split in which most wrong types are corrected and none is made wrong.

    None where there is no such sentence, or nothing to compare.
    """
    setting = compared_setting(plan.experiment)
    split = plan.experiment.splits[-1]
    before = _prediction(plan, BASE, split)
    after = _prediction(plan, setting, split) if setting else None
    if setting is None or before is None or after is None:
        return None
    predicted = [
        stored_predictions.load_predictions(context.store, run.spec.run_id) for run in (before, after)
    ]
    positions = sorted(predicted[0].keys() & predicted[1].keys())
    corpus = stored_predictions.predicted_corpus(context.store, before.spec.run_id)
    sentences = dict(zip(positions, load_sentences(context.store, corpus, positions), strict=True))
    changed = {
        position: _changed(sentences[position], predicted[0][position], predicted[1][position])
        for position in positions
    }
    right = {
        position: len(mentions)
        for position, mentions in changed.items()
        if mentions and all(mention.after == mention.gold for mention in mentions)
    }
    if not right:
        return None
    position = max(right, key=lambda place: (right[place], -place))
    verdicts = _verdicts(plan, context, setting, split, position)
    mentions = tuple(
        replace(mention, verdict=verdicts.get((mention.entity.start, mention.entity.end), {}))
        for mention in changed[position]
    )
    return ExampleSentence(sentences[position], setting, mentions, _chain(plan, context, split, position))


def _changed(sentence: Sentence, before: Prediction, after: Prediction) -> list[DecidedMention]:
    """The gold spans that both predict with different types."""
    gold, other = index_by_span(sentence.entities), index_by_span(after.entities)
    return [
        DecidedMention(entity, gold[span], other[span], {})
        for entity in before.entities
        for span in [(entity.start, entity.end)]
        if span in gold and other.get(span, entity.type) != entity.type
    ]


def _verdicts(
    plan: Plan, context: Context, setting: Setting, split: Split, position: int
) -> dict[tuple[int, int], Mapping[str, float]]:
    judged = SETTINGS[setting].fused
    step = next((step for step in plan.steps if step.label == f"judge:{judged}/{split}"), None)
    if step is None:
        return {}
    found = stored_verdicts.load_verdicts(context.store, step.spec.run_id)
    return {
        (mention.start, mention.end): probabilities_of(verdict)
        for mention, verdict in found.items()
        if mention.position == position
    }


def _chain(plan: Plan, context: Context, split: Split, position: int) -> ReasoningChain | None:
    step = next((step for step in plan.steps if step.label == f"reason:full/{split}"), None)
    if step is None:
        return None
    return stored_reasoning.load_reasoning(context.store, step.spec.run_id, [position]).get(position)
