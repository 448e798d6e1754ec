"""Text with marked characters, as annotation tools write it, and its way to sentences of tokens.

A document is cut into sentences at line ends and by NLTK's Punkt, never inside a mark. Tokens are cut as
``corpora.plain_text`` does, or are those that the file brings. A mark that ends inside a token is a misalignment; of
marks that overlap, the outermost is kept. Both are counted.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from typing import Any, Literal

from cdner.corpora.plain_text import tokenise
from cdner.errors import InputError
from cdner.types import Entity, Sentence

Misaligned = Literal["split", "snap", "refuse"]  # what is done with a mark that ends inside a token
Span = tuple[int, int]  # characters, [start, end)

_ABBREVIATIONS = """
    mr mrs ms dr prof st sr jr hon rev gen sen gov rep inc ltd co corp no vs etc fig al e.g i.e u.s u.k a.m p.m
"""
_LINE = re.compile(r"[^\n\r]+")


@dataclass(frozen=True, slots=True)
class Mark:
    """An entity in a text. Offsets count Unicode code points; ``end`` is exclusive."""

    start: int
    end: int
    type: str


@dataclass(frozen=True, slots=True)
class AnnotatedText:
    """One document. ``place`` says where it is, for errors: "line 3", "task 17"."""

    text: str
    marks: tuple[Mark, ...]
    place: str
    tokens: tuple[Span, ...] | None = None  # None: cut by rule


@dataclass(slots=True)
class Repairs:
    """What was changed on the way to tokens: kind -> count, and the place of the first of each kind."""

    counts: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)

    def note(self, kind: str, place: str) -> None:
        """Count one repair."""
        self.counts[kind] += 1
        self.first.setdefault(kind, place)

    def lines(self) -> list[str]:
        """One line a kind: "3 marks cut a token: the token was split (first: line 7)"."""
        return [f"{self.counts[kind]} {kind} (first: {self.first[kind]})" for kind in self.counts]


SPLIT = "marks ended inside a token: the token was split"
SNAPPED = "marks ended inside a token: they were widened to whole tokens"
OVERLAPPING = "marks overlapped a longer one: the longer one was kept"
EMPTY = "marks held no character: they were left out"
TRIMMED = "marks began or ended with white space: it was left out"


def sentences_of(
    document: AnnotatedText, repairs: Repairs, *, misaligned: Misaligned = "split", whole: bool = False
) -> Iterator[Sentence]:
    """The sentences of a document with their entities. Sentences without a token are left out.

    ``whole``: the document is one sentence. Raises InputError for a mark outside the text, and with ``misaligned =
    "refuse"`` for a mark that ends inside a token.
    """
    marks = _outermost(_checked(document, repairs), document.place, repairs)
    is_one = whole or document.tokens is not None
    spans = [(0, len(document.text))] if is_one else sentence_spans(document.text, marks)
    for start, end in spans:
        inside = [mark for mark in marks if start <= mark.start and mark.end <= end]
        tokens = _tokens(document, start, end)
        found = _aligned(document, tokens, inside, repairs, misaligned)
        if found.tokens:
            yield found


def _checked(document: AnnotatedText, repairs: Repairs) -> list[Mark]:
    """The marks without white space at their ends, in text order."""
    found = []
    for mark in document.marks:
        if not 0 <= mark.start <= mark.end <= len(document.text):
            raise InputError(
                f"{document.place}: the {mark.type} from {mark.start} to {mark.end} is not inside the text, which has "
                f"{len(document.text)} characters."
            )
        inside = document.text[mark.start : mark.end]
        if not inside.strip():
            repairs.note(EMPTY, document.place)
            continue
        if inside != inside.strip():
            repairs.note(TRIMMED, document.place)
        start = mark.start + len(inside) - len(inside.lstrip())
        found.append(Mark(start, start + len(inside.strip()), mark.type))
    return sorted(dict.fromkeys(found), key=lambda mark: (mark.start, -mark.end, mark.type))


def _outermost(marks: Sequence[Mark], place: str, repairs: Repairs) -> list[Mark]:
    """Disjoint marks: longer ones first, the earlier one of equals."""
    kept: list[Mark] = []
    for mark in sorted(marks, key=lambda mark: (mark.start - mark.end, mark.start)):
        if any(mark.start < other.end and other.start < mark.end for other in kept):
            repairs.note(OVERLAPPING, place)
        else:
            kept.append(mark)
    return sorted(kept, key=lambda mark: mark.start)


def sentence_spans(text: str, marks: Sequence[Mark]) -> list[Span]:
    """Sentences of every line. A cut inside a mark is undone."""
    cuts = [
        (line.start() + start, line.start() + end)
        for line in _LINE.finditer(text)
        for start, end in _punkt().span_tokenize(line[0])
    ]
    spans: list[Span] = []
    for start, end in cuts:
        if (spans and any(mark.start < spans[-1][1] < mark.end for mark in marks)) or (
            spans and any(mark.start < start < mark.end for mark in marks)
        ):
            spans[-1] = (spans[-1][0], end)
        else:
            spans.append((start, end))
    return spans


@cache
def _punkt() -> Any:
    """Punkt's rules without a trained model, which would have to be downloaded, and with common abbreviations."""
    from nltk.tokenize.punkt import PunktParameters, PunktSentenceTokenizer

    parameters = PunktParameters()
    parameters.abbrev_types = set(_ABBREVIATIONS.split())
    return PunktSentenceTokenizer(parameters)


def token_spans(text: str, start: int, end: int) -> list[Span]:
    """The characters of each token of ``text[start:end]``."""
    found, position = [], start
    for token in tokenise(text[start:end]):
        position = text.index(token, position, end)
        found.append((position, position + len(token)))
        position += len(token)
    return found


def _tokens(document: AnnotatedText, start: int, end: int) -> list[Span]:
    if document.tokens is not None:
        return [span for span in document.tokens if start <= span[0] and span[1] <= end]
    return token_spans(document.text, start, end)


def _aligned(
    document: AnnotatedText,
    tokens: list[Span],
    marks: Sequence[Mark],
    repairs: Repairs,
    misaligned: Misaligned,
) -> Sentence:
    if misaligned != "snap":
        tokens = _cut_at_marks(document, tokens, marks, repairs, misaligned)
    entities: list[Entity] = []
    for mark in marks:
        touched = [i for i, (start, end) in enumerate(tokens) if start < mark.end and mark.start < end]
        if not touched:
            repairs.note(EMPTY, document.place)
            continue
        entity = Entity(touched[0], touched[-1] + 1, mark.type)
        if (tokens[entity.start][0], tokens[entity.end - 1][1]) != (mark.start, mark.end):
            repairs.note(SNAPPED, document.place)
        if entities and entity.start < entities[-1].end:
            repairs.note(OVERLAPPING, document.place)  # two marks in one token
        else:
            entities.append(entity)
    return Sentence(tuple(document.text[start:end] for start, end in tokens), tuple(entities))


def _cut_at_marks(
    document: AnnotatedText,
    tokens: Sequence[Span],
    marks: Sequence[Mark],
    repairs: Repairs,
    misaligned: Misaligned,
) -> list[Span]:
    borders = sorted({border for mark in marks for border in (mark.start, mark.end)})
    cut: list[Span] = []
    for start, end in tokens:
        inside = [border for border in borders if start < border < end]
        if inside and misaligned == "refuse":
            raise InputError(
                f"{document.place}: a mark ends inside the token '{document.text[start:end]}' (character {inside[0]}). "
                "Correct it, or use --misaligned split or snap."
            )
        for _ in inside:
            repairs.note(SPLIT, document.place)
        places = [start, *inside, end]
        cut += list(pairwise(places))
    return cut
