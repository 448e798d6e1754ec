"""What is exported: the predicted part of a corpus, and its entities with offsets in tokens and in characters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from cdner.hashing import Json
from cdner.types import Entity, Prediction, Sentence


@dataclass(frozen=True, slots=True)
class ExportedCorpus:
    """Three sequences of one length: where each sentence stands in its corpus, what it is, what was predicted."""

    run_id: str  # of the predictions
    model: str  # who predicted, for people
    domain: str
    split: str
    types: tuple[str, ...]  # in declared order, then others that occur
    positions: tuple[int, ...]
    gold: tuple[Sentence, ...]
    predictions: tuple[Prediction, ...]

    def rows(self) -> Iterator[tuple[int, Sentence, tuple[Entity, ...]]]:
        """(position, sentence with its gold entities, predicted entities), in text order."""
        for position, sentence, prediction in zip(self.positions, self.gold, self.predictions, strict=True):
            yield position, sentence, prediction.entities


def records(sentence: Sentence, entities: Iterable[Entity]) -> list[dict[str, Json]]:
    """Each entity as type, text, [start_token, end_token) and [start, end) in the sentence's text.

    Characters are Unicode code points of the tokens joined by single spaces.
    """
    starts = [0]
    for token in sentence.tokens:
        starts.append(starts[-1] + len(token) + 1)
    return [
        {
            "type": entity.type,
            "text": " ".join(sentence.tokens[entity.start : entity.end]),
            "start_token": entity.start,
            "end_token": entity.end,
            "start": starts[entity.start],
            "end": starts[entity.end] - 1,
        }
        for entity in entities
    ]
