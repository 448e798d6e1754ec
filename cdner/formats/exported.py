"""What is exported: the predicted part of a corpus, and its entities with offsets in tokens and in characters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from cdner.files import Json
from cdner.types import Entity, Prediction, Sentence


@dataclass(frozen=True, slots=True)
class Sureness:
    """What a model says of one entity it predicted."""

    score: float  # probability of the predicted type
    runner_up: str | None  # the most probable other type; None in a domain of one type


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

    def sureness(self) -> Iterator[tuple[Sureness | None, ...]]:
        """Beside each of ``rows``: one for each predicted entity, None where the model does not say."""
        return map(sureness, self.predictions)

    @property
    def has_scores(self) -> bool:
        """Whether the model says of any entity how sure it is."""
        return any(map(any, self.sureness()))


def sureness(prediction: Prediction) -> tuple[Sureness | None, ...]:
    """One for each entity, in order; None where the model does not say."""
    if not prediction.type_probabilities:
        return (None,) * len(prediction.entities)
    return tuple(
        _sureness(entity.type, probabilities)
        for entity, probabilities in zip(prediction.entities, prediction.type_probabilities, strict=True)
    )


def _sureness(predicted: str, probabilities: Mapping[str, float]) -> Sureness | None:
    if predicted not in probabilities:
        return None
    others = [(probability, name) for name, probability in probabilities.items() if name != predicted]
    return Sureness(probabilities[predicted], max(others, default=(0.0, None))[1])


def records(
    sentence: Sentence, entities: Sequence[Entity], sure: Sequence[Sureness | None] = ()
) -> list[dict[str, Json]]:
    """Each entity as type, text, [start_token, end_token) and [start, end) in the sentence's text.

    Characters are Unicode code points of the tokens joined by single spaces. ``sure``, one for each entity, adds score
    and runner_up where there is one.
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
            **scores(said),
        }
        for entity, said in zip(entities, sure or (None,) * len(entities), strict=True)
    ]


def scores(said: Sureness | None) -> dict[str, Json]:
    """As keys of a record; none where the model does not say."""
    return {} if said is None else {"score": said.score, "runner_up": said.runner_up}
