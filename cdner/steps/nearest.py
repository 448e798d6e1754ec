"""The labelled mentions of train that are nearest to predicted mentions, found with an open encoder.

Reads no store: the mentions may be in a corpus or in sentences that were never stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cdner.config import Judging
from cdner.corpora.sampling import chosen_positions
from cdner.files import Json
from cdner.store.verdicts import MentionKey, Shown
from cdner.types import Corpus, Encoder, Entity, Sentence
from cdner.verdicts import (
    LabelledMention,
    Mentions,
    nearest,
    nearest_sentences,
)
from cdner.verdicts.neighbours import likeness, unit_rows


@dataclass(frozen=True, slots=True)
class Labelled:
    """Gold mentions of train that may be shown, in text order, and their sentences by position."""

    entities: Mapping[MentionKey, Entity]
    sentences: Mapping[int, Sentence]

    def shown(self, items: Sequence[Shown]) -> tuple[tuple[Sentence, Entity], ...]:
        """Sentence and entity of each shown mention, in the same order."""
        return tuple((self.sentences[item.mention.position], self.entities[item.mention]) for item in items)


@dataclass(frozen=True, slots=True, eq=False)
class Embedded:
    """Labelled mentions with their vectors, one row each, in order."""

    mentions: tuple[LabelledMention, ...]
    vectors: Mentions


def labelled_mentions(train: Corpus, sample: Json) -> Labelled:
    """The gold mentions of the sentences that the models are trained on."""
    sentences = {position: train.sentences[position] for position in chosen_positions(train, sample)}
    entities = {
        MentionKey(position, entity.start, entity.end): entity
        for position, sentence in sentences.items()
        for entity in sentence.entities
    }
    return Labelled(entities, sentences)


def embedded(known: Labelled, encoder: Encoder) -> Embedded:
    """Embed all labelled mentions: a forward pass over all of train."""
    mentions = tuple(
        LabelledMention(key.position, known.sentences[key.position].text, entity)
        for key, entity in known.entities.items()
    )
    return Embedded(mentions, mention_vectors(list(known.entities), known.sentences, encoder))


def mention_vectors(
    mentions: Sequence[MentionKey], sentences: Mapping[int, Sentence], encoder: Encoder
) -> Mentions:
    """Unit vectors of mentions and of their sentences, one row for each mention."""
    rows_of: dict[int, list[int]] = {}
    for row, mention in enumerate(mentions):
        rows_of.setdefault(mention.position, []).append(row)
    spans = [[(mentions[row].start, mentions[row].end) for row in rows] for rows in rows_of.values()]
    of_span, of_sentence = encoder.embed_spans([sentences[position] for position in rows_of], spans)
    order = [row for rows in rows_of.values() for row in rows]
    whose = [number for number, rows in enumerate(rows_of.values()) for _ in rows]
    of_mention, of_its_sentence = np.empty_like(of_span), np.empty_like(of_span)
    of_mention[order], of_its_sentence[order] = of_span, of_sentence[whose]
    return Mentions(unit_rows(of_mention), unit_rows(of_its_sentence))


def nearest_labelled(
    candidates: Mapping[MentionKey, tuple[str, ...]],
    sentences: Mapping[int, Sentence],
    encoder: Encoder,
    *,
    known: Embedded,
    settings: Judging,
) -> dict[MentionKey, list[Shown]]:
    """Mention -> the examples shown with its question, in the order of the prompt.

    ``candidates``: mention -> the types it is asked about. A matrix of these mentions by all labelled mentions is held
    in memory.
    """
    mentions = list(candidates)
    vectors = mention_vectors(mentions, sentences, encoder)
    scores = likeness(vectors, known.vectors, sentence_weight=settings.sentence_weight)
    of_sentence = settings.neighbours_of == "sentence"
    rows_of: dict[int, list[int]] = {}  # the mentions that are shown the same
    for row, mention in enumerate(mentions):
        rows_of.setdefault(mention.position if of_sentence else row, []).append(row)
    found: dict[MentionKey, list[Shown]] = {}
    for rows in rows_of.values():
        required = [name for row in rows for name in candidates[mentions[row]]]
        choose = nearest_sentences if of_sentence else nearest
        chosen = choose(
            scores[rows] if of_sentence else scores[rows[0]],
            known.mentions,
            sentence_text=sentences[mentions[rows[0]].position].text,
            k=settings.neighbours,
            required_types=required if settings.candidates == "rivals" else (),
        )
        for row in rows:
            found[mentions[row]] = [
                Shown(_key(known.mentions[index]), round(float(scores[row, index]), 4)) for index in chosen
            ]
    return found


def _key(mention: LabelledMention) -> MentionKey:
    return MentionKey(mention.position, mention.entity.start, mention.entity.end)
