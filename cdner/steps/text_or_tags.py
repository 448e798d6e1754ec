"""From sentences to the training examples of a model, and from its output to entities: as text, or as tags of words.

The only place that distinguishes between text generators and taggers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import islice
from typing import Any, Protocol, cast

from cdner.augment import model_input, reasoning_text
from cdner.codec import Grammar, TypeScores, decode, encode_entities, wire_for
from cdner.codec.confidence import Counts
from cdner.config import Prediction as PredictionSettings
from cdner.types import (
    Generation,
    ModelInput,
    Prediction,
    ReasoningChain,
    Sentence,
    Tagger,
    Tagging,
    TaggingExample,
    TextGenerator,
    TextScorer,
    TrainingExample,
)

_JUDGED_TOGETHER = 64  # sentences; a kill may lose their predictions
ORPHAN_TAGS = "orphan_tags"  # malformed: words whose own best tag is an I- that continues no entity

Chains = Sequence[ReasoningChain | None]  # one for each sentence
Found = tuple[int, Prediction, Generation]  # index into the sentences, what is predicted, how


class Way(Protocol):
    def examples(self, sentences: Sequence[Sentence], chains: Chains) -> list[Any]:
        """The examples that ``cdner.models.training.fit`` takes for this model, in order."""

    @property
    def told(self) -> str:
        """A line about the predictions made so far; may be empty."""

    def predict(self, sentences: Sequence[Sentence], chains: Chains) -> Iterator[Found]:
        """Predictions in any order. Raises InputTooLongError before the first if a sentence exceeds the window."""


def way_of(
    model: TextGenerator | Tagger, types: tuple[str, ...], *, settings: PredictionSettings, batch_size: int
) -> Way:
    """The way of this model. A tagger uses only ``tags`` of the settings."""
    if isinstance(model, Tagger):
        return _AsTags(model, types, each=settings.tags == "each", batch_size=batch_size)
    return _AsText(model, types, settings=settings, batch_size=batch_size)


class _AsText:
    def __init__(
        self, model: TextGenerator, types: tuple[str, ...], *, settings: PredictionSettings, batch_size: int
    ) -> None:
        self._model, self._types, self._settings, self._batch_size = model, types, settings, batch_size
        self._wire = wire_for(model.vocabulary)  # caches the spelling of every word
        self._counts = Counts()

    @property
    def told(self) -> str:
        return str(self._counts) if self._counts.n_mentions else ""

    @cached_property
    def _grammar(self) -> Grammar:
        return Grammar(self._model.vocabulary, self._wire, self._types)

    def examples(self, sentences: Sequence[Sentence], chains: Chains) -> list[TrainingExample]:
        return [
            TrainingExample(
                model_input(self._types, sentence, chain=chain, wire=self._wire),
                self._wire.to_wire(encode_entities(sentence, self._types)),
            )
            for sentence, chain in zip(sentences, chains, strict=True)
        ]

    def predict(self, sentences: Sequence[Sentence], chains: Chains) -> Iterator[Found]:
        inputs = [
            model_input(self._types, sentence, chain=chain, wire=self._wire)
            for sentence, chain in zip(sentences, chains, strict=True)
        ]
        found = self._decoded(inputs, sentences)
        if not self._settings.confidence:
            yield from found
            return
        while group := list(islice(found, _JUDGED_TOGETHER)):
            yield from self._judged(group, inputs, sentences)

    def _judged(
        self, group: Sequence[Found], inputs: Sequence[ModelInput], sentences: Sequence[Sentence]
    ) -> Iterator[Found]:
        """The same predictions with the probability of each type."""
        asked = [found for found in group if found[1].entities]
        scores = [
            TypeScores(sentences[index], prediction.entities, types=self._types, wire=self._wire)
            for index, prediction, _ in asked
        ]
        said = cast(TextScorer, self._model).log_probs(
            [inputs[index] for index, _, _ in asked],
            [one.first() for one in scores],
            lambda number, names: scores[number].second(names),
            max_new_tokens=self._settings.max_new_tokens,
        )
        probabilities = {}
        for number, log_probs in said:
            probabilities[asked[number][0]] = scores[number].distributions(log_probs)
            scores[number].count(self._counts)
        for index, prediction, generation in group:
            yield index, replace(prediction, type_probabilities=probabilities.get(index, ())), generation

    def _decoded(self, inputs: Sequence[ModelInput], sentences: Sequence[Sentence]) -> Iterator[Found]:
        generations = self._model.generate(
            inputs,
            max_new_tokens=self._settings.max_new_tokens,
            batch_size=self._batch_size,
            constraints=[self._grammar.constraint(sentence) for sentence in sentences]
            if self._settings.decoding == "grounded"
            else None,
        )
        for index, generation in generations:
            yield (
                index,
                decode(generation.text, sentence=sentences[index], types=self._types, wire=self._wire),
                generation,
            )


class _AsTags:
    told = ""

    def __init__(self, model: Tagger, types: tuple[str, ...], *, each: bool, batch_size: int) -> None:
        self._model, self._types, self._each, self._batch_size = model, types, each, batch_size

    def examples(self, sentences: Sequence[Sentence], chains: Chains) -> list[TaggingExample]:
        return [
            TaggingExample(sentence, reasoning_text(chain))
            for sentence, chain in zip(sentences, chains, strict=True)
        ]

    def predict(self, sentences: Sequence[Sentence], chains: Chains) -> Iterator[Found]:
        texts = [reasoning_text(chain) for chain in chains]
        tagged = self._model.tag(
            sentences, texts, types=self._types, each=self._each, batch_size=self._batch_size
        )
        for index, tagging in tagged:
            yield index, *self._found(sentences[index], tagging)

    def _found(self, sentence: Sentence, tagging: Tagging) -> tuple[Prediction, Generation]:
        """Entities, and their text in the paper's JSON, as a text generator would have written it; 0 output tokens."""
        text = encode_entities(Sentence(sentence.tokens, tagging.entities), self._types)
        malformed = {ORPHAN_TAGS: tagging.n_orphans} if tagging.n_orphans else {}
        prediction = Prediction(text, tagging.entities, malformed, tagging.type_probabilities)
        generation = Generation(
            text,
            n_input_tokens=tagging.n_input_tokens,
            n_truncated_tokens=tagging.n_truncated_tokens,
            n_output_tokens=0,
            finish_reason="stop",
        )
        return prediction, generation
