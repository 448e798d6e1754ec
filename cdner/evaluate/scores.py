"""Scores and errors of predictions against gold entities: pure counting, no model, no store, no printing.

Conventions, stated once: every proportion is a fraction in [0, 1]; 0 / 0 is 0, and the counts beside it show
why. Strict scores are over token spans; the two mention scores compare surfaces, as papers on generation do,
and are named apart so that nobody takes one for the other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cdner.errors import InputError
from cdner.spans import index_by_span
from cdner.types import Entity, Prediction, Sentence

Metric = Literal["strict", "span", "mention_multiset", "mention_set"]
MICRO = "*"
MACRO = "macro"


@dataclass(frozen=True, slots=True)
class ScoreRow:
    metric: Metric
    entity_type: str  # a type, "*" (micro average) or "macro"
    n_gold: int
    n_predicted: int
    n_correct: int
    precision: float  # n_correct / n_predicted; the macro row holds the mean over types
    recall: float  # n_correct / n_gold; likewise
    f1: float  # harmonic mean; the macro row holds the mean of the types' F1


@dataclass(frozen=True, slots=True)
class ErrorRow:
    """What became of the gold entities of one type ("*" = all). n_gold = correct + misclassified + missed."""

    entity_type: str
    n_gold: int
    n_correct: int  # exact span, right type
    n_misclassified: int  # exact span, wrong type
    n_missed: int  # no predicted entity with this exact span (the paper's figure 6) = boundary + not found
    n_boundary: int  # ... but one that shares a token with it
    n_not_found: int  # ... and none that shares a token
    n_spurious: int  # predicted entities of this type that share no token with any gold entity
    error_proportion: float  # (missed + misclassified) / gold
    missed_proportion: float
    misclassified_proportion: float  # the paper's type-classification error proportion


def score(
    gold: Sequence[Sentence], predictions: Sequence[Prediction], types: Sequence[str]
) -> tuple[ScoreRow, ...]:
    """Rows per metric: "*" first, then "macro", then every type in the order given; "span" has only "*".

    The macro average is over types that occur in gold or predictions (as seqeval does). InputError when the
    lists differ in length or a type is not among ``types``.
    """
    _check(gold, predictions, types)
    rows: list[ScoreRow] = []
    for metric, items in _ITEMS.items():
        counts = _Counts()
        for sentence, prediction in zip(gold, predictions, strict=True):
            counts.add(items(sentence, sentence.entities), items(sentence, prediction.entities))
        rows += counts.rows(metric, types if metric != "span" else ())
    return tuple(rows)


def error_proportions(
    gold: Sequence[Sentence], predictions: Sequence[Prediction], types: Sequence[str]
) -> tuple[ErrorRow, ...]:
    """Figure 6 per gold type, "*" first, with boundary errors and spurious predictions told apart."""
    _check(gold, predictions, types)
    outcomes: Counter[tuple[str, str]] = Counter()
    for sentence, prediction in zip(gold, predictions, strict=True):
        predicted = index_by_span(prediction.entities)
        gold_tokens = _covered(sentence.entities)
        predicted_tokens = _covered(prediction.entities)
        for entity in sentence.entities:
            found = predicted.get((entity.start, entity.end))
            if found is not None:
                outcome = "correct" if found == entity.type else "misclassified"
            else:
                outcome = (
                    "not_found"
                    if predicted_tokens.isdisjoint(range(entity.start, entity.end))
                    else "boundary"
                )
            outcomes[entity.type, outcome] += 1
        for entity in prediction.entities:
            if gold_tokens.isdisjoint(range(entity.start, entity.end)):
                outcomes[entity.type, "spurious"] += 1
    totals: Counter[tuple[str, str]] = Counter()
    for (_, outcome), n in outcomes.items():
        totals[MICRO, outcome] += n
    return tuple(_error_row(name, outcomes if name != MICRO else totals) for name in (MICRO, *types))


def sentence_counts(
    gold: Sequence[Sentence], predictions: Sequence[Prediction], metric: Metric
) -> NDArray[np.int64]:
    """(n_sentences, 3): gold, predicted and correct items of every sentence, all types together.

    Their sums over the sentences are the metric's micro row. InputError when the lists differ in length.
    """
    _check_lengths(gold, predictions)
    items = _ITEMS[metric]
    rows = []
    for sentence, prediction in zip(gold, predictions, strict=True):
        counts = _Counts()
        counts.add(items(sentence, sentence.entities), items(sentence, prediction.entities))
        rows.append((counts.gold.total(), counts.predicted.total(), counts.correct.total()))
    return np.array(rows, dtype=np.int64).reshape(-1, 3)


def f1_score(precision: float, recall: float) -> float:
    """Harmonic mean, 0 when both are 0."""
    return 2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0


# --- counting ---------------------------------------------------------------------------------------------

_Item = tuple[str, Hashable]  # (type, what must agree beside it)
_Items = Callable[[Sentence, Iterable[Entity]], Counter[_Item]]


def _typed_spans(_: Sentence, entities: Iterable[Entity]) -> Counter[_Item]:
    return Counter((entity.type, (entity.start, entity.end)) for entity in entities)


def _bare_spans(_: Sentence, entities: Iterable[Entity]) -> Counter[_Item]:
    return Counter((MICRO, (entity.start, entity.end)) for entity in entities)


def _mentions(sentence: Sentence, entities: Iterable[Entity]) -> Counter[_Item]:
    return Counter((entity.type, sentence.tokens[entity.start : entity.end]) for entity in entities)


def _distinct_mentions(sentence: Sentence, entities: Iterable[Entity]) -> Counter[_Item]:
    return Counter(set(_mentions(sentence, entities)))


_ITEMS: dict[Metric, _Items] = {
    "strict": _typed_spans,
    "span": _bare_spans,
    "mention_multiset": _mentions,
    "mention_set": _distinct_mentions,
}


class _Counts:
    """Gold, predicted and correct items per type, summed over sentences."""

    def __init__(self) -> None:
        self.gold: Counter[str] = Counter()
        self.predicted: Counter[str] = Counter()
        self.correct: Counter[str] = Counter()

    def add(self, gold: Counter[_Item], predicted: Counter[_Item]) -> None:
        for (name, _), n in gold.items():
            self.gold[name] += n
        for item, n in predicted.items():
            self.predicted[item[0]] += n
            if item in gold:
                self.correct[item[0]] += min(n, gold[item])

    def rows(self, metric: Metric, types: Sequence[str]) -> list[ScoreRow]:
        micro = _row(metric, MICRO, self.gold.total(), self.predicted.total(), self.correct.total())
        if not types:
            return [micro]
        per_type = [
            _row(metric, name, self.gold[name], self.predicted[name], self.correct[name]) for name in types
        ]
        present = [row for row in per_type if row.n_gold + row.n_predicted > 0]
        n = max(len(present), 1)
        macro = ScoreRow(
            metric,
            MACRO,
            micro.n_gold,
            micro.n_predicted,
            micro.n_correct,
            precision=sum(row.precision for row in present) / n,
            recall=sum(row.recall for row in present) / n,
            f1=sum(row.f1 for row in present) / n,
        )
        return [micro, macro, *per_type]


def _row(metric: Metric, entity_type: str, n_gold: int, n_predicted: int, n_correct: int) -> ScoreRow:
    precision, recall = _share(n_correct, n_predicted), _share(n_correct, n_gold)
    return ScoreRow(
        metric, entity_type, n_gold, n_predicted, n_correct, precision, recall, f1_score(precision, recall)
    )


def _error_row(name: str, outcomes: Counter[tuple[str, str]]) -> ErrorRow:
    n_correct, n_misclassified = outcomes[name, "correct"], outcomes[name, "misclassified"]
    n_boundary, n_not_found = outcomes[name, "boundary"], outcomes[name, "not_found"]
    n_missed = n_boundary + n_not_found
    n_gold = n_correct + n_misclassified + n_missed
    return ErrorRow(
        entity_type=name,
        n_gold=n_gold,
        n_correct=n_correct,
        n_misclassified=n_misclassified,
        n_missed=n_missed,
        n_boundary=n_boundary,
        n_not_found=n_not_found,
        n_spurious=outcomes[name, "spurious"],
        error_proportion=_share(n_missed + n_misclassified, n_gold),
        missed_proportion=_share(n_missed, n_gold),
        misclassified_proportion=_share(n_misclassified, n_gold),
    )


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _covered(entities: Iterable[Entity]) -> set[int]:
    return {position for entity in entities for position in range(entity.start, entity.end)}


def _check(gold: Sequence[Sentence], predictions: Sequence[Prediction], types: Sequence[str]) -> None:
    _check_lengths(gold, predictions)
    found = {entity.type for sentence in gold for entity in sentence.entities}
    found |= {entity.type for prediction in predictions for entity in prediction.entities}
    if unknown := sorted(found.difference(types)):
        raise InputError(f"Types outside the domain: {', '.join(unknown)}. Known: {', '.join(types)}.")


def _check_lengths(gold: Sequence[Sentence], predictions: Sequence[Prediction]) -> None:
    if len(gold) != len(predictions):
        raise InputError(
            f"{len(gold)} gold sentences but {len(predictions)} predictions: predict the whole split again."
        )
