"""As many CrossNER-like sentences and predictions as a benchmark needs, drawn from the real ones of one domain.

A resampled sentence is a real one with one word outside its entities replaced by its own number, so that no two are
the same and the store has as much to keep as with that many real ones. Predictions are the gold entities with every
kind of error in them. Everything follows from the seed.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from string import ascii_lowercase

from cdner.corpora import crossner
from cdner.spans import entities_to_bio
from cdner.types import Corpus, Entity, Prediction, Sentence

DOMAIN = "politics"  # the most sentences of the five target domains
# Of the gold entities: right, wrong type, wrong boundary; the rest is missed. About the rates of a fair model.
RIGHT, WRONG_TYPE, WRONG_BOUNDARY = 0.72, 0.12, 0.08
SPURIOUS = 0.3  # of the sentences


class Silent:
    """Progress shown to nobody."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def start(self, label: str, total: int | None = None) -> None: ...

    def advance(self, n: int = 1, note: str = "") -> None: ...

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def real_sentences(folder: Path) -> tuple[Sentence, ...]:
    """All sentences of the domain; fetched into the folder where it does not hold them."""
    if not (folder / DOMAIN).is_dir():
        crossner.fetch([DOMAIN], folder, progress=Silent())
    splits = [crossner.read_folder(folder, domain=DOMAIN, split=split) for split in crossner.SPLITS]
    return tuple(sentence for corpus in splits for sentence in corpus.sentences)


def types_of(sentences: Sequence[Sentence]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(entity.type for sentence in sentences for entity in sentence.entities))


def retyped(sentences: Sequence[Sentence], n_types: int, *, seed: int = 0) -> tuple[Sentence, ...]:
    """The same entities with as many types, each about as frequent; names of letters, which every vocabulary has."""
    draw = random.Random(seed)
    names = [f"type {first}{second}" for first in ascii_lowercase for second in ascii_lowercase][:n_types]
    return tuple(
        Sentence(
            sentence.tokens,
            tuple(Entity(e.start, e.end, draw.choice(names)) for e in sentence.entities),
        )
        for sentence in sentences
    )


def resampled(sentences: Sequence[Sentence], n: int, *, seed: int = 0) -> Corpus:
    """n sentences, all different, as the test split of a domain of their own."""
    draw = random.Random(seed)
    outside = [_outside(sentence) for sentence in sentences]
    drawn = []
    for number in range(n):
        chosen = draw.randrange(len(sentences))
        tokens = list(sentences[chosen].tokens)
        if outside[chosen]:
            tokens[draw.choice(outside[chosen])] = str(number)
        drawn.append(Sentence(tuple(tokens), sentences[chosen].entities))
    return Corpus("resampled", "test", tuple(drawn), types=types_of(sentences))


def predicted(corpus: Corpus, *, seed: int = 1) -> tuple[Prediction, ...]:
    """One prediction a sentence; disjoint entities inside the sentence, as cdner's codec makes them."""
    draw = random.Random(seed)
    return tuple(Prediction("", _corrupted(sentence, corpus.types, draw)) for sentence in corpus.sentences)


def tags(
    sentences: Sequence[Sentence], annotated: Sequence[Sentence] | Sequence[Prediction]
) -> list[list[str]]:
    """BIO tags, what other scorers read."""
    return [
        entities_to_bio(len(sentence.tokens), item.entities)
        for sentence, item in zip(sentences, annotated, strict=True)
    ]


def write_conll(corpus: Corpus, path: Path) -> None:
    with path.open("w", encoding="utf-8") as file:
        for sentence, row in zip(corpus.sentences, tags(corpus.sentences, corpus.sentences), strict=True):
            file.writelines(f"{token}\t{tag}\n" for token, tag in zip(sentence.tokens, row, strict=True))
            file.write("\n")


def _outside(sentence: Sentence) -> list[int]:
    inside = {position for e in sentence.entities for position in range(e.start, e.end)}
    return [position for position in range(len(sentence.tokens)) if position not in inside]


def _corrupted(sentence: Sentence, types: Sequence[str], draw: random.Random) -> tuple[Entity, ...]:
    found: list[Entity] = []
    ends = [entity.start for entity in sentence.entities[1:]] + [len(sentence.tokens)]
    for entity, next_start in zip(sentence.entities, ends, strict=True):
        luck = draw.random()
        if luck < RIGHT:
            found.append(entity)
        elif luck < RIGHT + WRONG_TYPE:
            others = [name for name in types if name != entity.type]
            found.append(Entity(entity.start, entity.end, draw.choice(others)))
        elif luck < RIGHT + WRONG_TYPE + WRONG_BOUNDARY:
            if entity.end - entity.start > 1:
                found.append(Entity(entity.start, entity.end - 1, entity.type))
            elif entity.end < next_start:
                found.append(Entity(entity.start, entity.end + 1, entity.type))
    if draw.random() < SPURIOUS:
        position = draw.randrange(len(sentence.tokens))
        taken = (*sentence.entities, *found)
        if not any(e.start <= position < e.end for e in taken):
            found.append(Entity(position, position + 1, draw.choice(list(types))))
    return tuple(sorted(found))
