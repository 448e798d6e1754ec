"""How sure a model that writes text is of each type of a mention: which texts to compare, and what follows from them.

The score of type t for mention m is log p of ``{"t": ["m`` after the input alone, normalised over the domain's types.
Measured on 119 gold mentions that SmolLM2-135M found in CrossNER ai dev (100 training sentences after 400 of CoNLL):
log loss of the gold type 1.71, after temperature scaling 1.29. Behind the entries that the model wrote before the
mention's place 3.10 and 1.69: there the model repeats itself, in agreement with its own answer in 88 % instead of 64 %.
The whole answer with the mention moved to t: 4.65 and 1.64. The type's name alone: 2.47 and 1.91. The mention behind
the name alone: 3.06 and 2.29.

Scoring all types costs more than predicting. So the first round asks for the types' names alone, the second for the
mention under the types that hold ``KEPT_MASS`` of the first and under the predicted type (4 of 14): 1.84 and 1.22 on
the same mentions. The others are estimated. Knows no model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cdner.codec.wire import Wire
from cdner.types import Beginning, Entity, Sentence

KEPT_MASS = (
    0.98  # of the names' probability: the most probable types that hold so much are scored with the mention
)


@dataclass(slots=True)
class Counts:
    """What was asked so far."""

    n_mentions: int = 0
    n_types: int = 0  # over all mentions
    n_scored: int = 0  # of them, with the mention; the others are estimated

    def __str__(self) -> str:
        return (
            f"how sure of {self.n_mentions} mentions: {self.n_scored} of {self.n_types} types scored with their "
            "mention, the others estimated from their names"
        )


class TypeScores:
    """The two rounds for the predicted entities of one sentence."""

    def __init__(
        self, sentence: Sentence, entities: Sequence[Entity], *, types: Sequence[str], wire: Wire
    ) -> None:
        self._mentions = [" ".join(sentence.tokens[entity.start : entity.end]) for entity in entities]
        self._predicted = [entity.type for entity in entities]
        self._types = types
        self._wire = wire
        self._names: Mapping[str, float] = {}
        self._asked: list[tuple[int, str]] = []  # (mention, type) of each text of the second round

    def first(self) -> list[Beginning]:
        """Up to each type's name, in order."""
        return [self._up_to_name(name) for name in self._types]

    def second(self, names: Sequence[float]) -> list[Beginning]:
        """Up to each mention's end under the types that are left, once ``first`` has its log-probabilities."""
        self._names = dict(zip(self._types, names, strict=True))
        kept = _most_probable(self._names)
        self._asked = [
            (number, name)
            for number, predicted in enumerate(self._predicted)
            for name in self._types
            if name in kept or name == predicted
        ]
        return [self._up_to_mention(name, self._mentions[number]) for number, name in self._asked]

    def distributions(self, scores: Sequence[float]) -> tuple[Mapping[str, float], ...]:
        """One for each entity, from the log-probabilities of ``second``: every type -> probability, sum 1.

        A type without a score gets the log-probability of its name plus the mean of the mention's behind the scored
        types' names: an estimate, better than the least or the largest of them.
        """
        known: list[dict[str, float]] = [{} for _ in self._predicted]
        for (number, name), score in zip(self._asked, scores, strict=True):
            known[number][name] = score
        return tuple(self._distribution(found) for found in known)

    def count(self, counts: Counts) -> None:
        counts.n_mentions += len(self._predicted)
        counts.n_types += len(self._predicted) * len(self._types)
        counts.n_scored += len(self._asked)

    def _distribution(self, scores: Mapping[str, float]) -> Mapping[str, float]:
        mean = math.fsum(score - self._names[name] for name, score in scores.items()) / len(scores)
        whole = {name: scores.get(name, self._names[name] + mean) for name in self._types}
        largest = max(whole.values())
        weights = {name: math.exp(score - largest) for name, score in whole.items()}
        total = math.fsum(weights.values())
        return {name: weight / total for name, weight in weights.items()}

    def _up_to_name(self, name: str) -> Beginning:
        opened = f"{self._brace}{self._wire.quoted(name)}"
        return f"{opened}: [", len(opened) - 1

    def _up_to_mention(self, name: str, mention: str) -> Beginning:
        opened = f"{self._brace}{self._wire.quoted(name)}: [{self._wire.quoted(mention)}"
        return f"{opened}]{'}' if self._wire.braces else ''}", len(opened) - 1

    @property
    def _brace(self) -> str:
        return "{" if self._wire.braces else ""


def _most_probable(names: Mapping[str, float]) -> set[str]:
    """The fewest types that hold ``KEPT_MASS`` of the names' probability."""
    largest = max(names.values())
    weights = {name: math.exp(score - largest) for name, score in names.items()}
    kept: set[str] = set()
    missing = KEPT_MASS * math.fsum(weights.values())
    for name in sorted(names, key=lambda name: (-weights[name], name)):
        if missing <= 0:
            break
        kept.add(name)
        missing -= weights[name]
    return kept
