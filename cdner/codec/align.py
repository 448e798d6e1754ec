"""Mentions without offsets back to token spans: whole tokens, disjoint, text order kept inside a type.

A mention is matched against the sentence as it reads through the same wire, so a character that the
vocabulary lacks costs nothing. Which occurrence is meant is a search over disjoint placements (``place``),
shared with the grammar of grounded decoding: what one allows, the other places. A mention that the sentence
does not have is looked up a second time without regard to its spelling (``respelling``), among the tokens that
the exact mentions left free. Knows nothing of JSON or of models.

Bounds: the search keeps ``MAX_PLACEMENTS`` placements, leftmost first; where no placement holds all
mentions, the longest are placed first, leftmost free occurrence, in any order, and what is left over is
counted.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

from cdner.codec.respelling import RespelledIndex
from cdner.codec.wire import Wire, fold
from cdner.types import Entity, Sentence

Span = tuple[int, int]  # [start, end) in tokens
Placed = tuple["Placed", Span] | None  # the last span and those before it: another one costs no copy of them
MAX_PLACEMENTS = 64
MAX_SPANS = 8


@dataclass(frozen=True, slots=True)
class Mention:
    type: str
    text: str


@dataclass(frozen=True, slots=True)
class Alignment:
    entities: tuple[Entity, ...]  # sorted, disjoint
    n_ungrounded: int = 0  # not a run of the sentence's tokens, however it is spelled
    n_respelled: int = 0  # placed, but spelled otherwise than the sentence
    n_excess: int = 0  # more often than the sentence has it
    n_overlapping: int = 0  # in the sentence, but its tokens belong to other mentions


@dataclass(frozen=True, slots=True)
class Placement:
    """Disjoint spans for the mentions so far. Equal placements allow the same from here on."""

    used: int  # bit i: token i is covered
    end: int  # where the last mention of the current type ends
    cost: int  # sum of covered positions: smaller is further left, longer mentions first
    placed: Placed = field(default=None, compare=False, repr=False)  # as deep as there are mentions


NOTHING_PLACED: tuple[Placement, ...] = (Placement(used=0, end=0, cost=0),)


class SentenceIndex:
    """Where each run of a sentence's tokens stands, looked up by its text on the decoded side of the wire."""

    __slots__ = ("_empty_runs", "_end_token", "_start_token", "_text", "n_tokens", "respelled")

    def __init__(self, sentence: Sentence, wire: Wire) -> None:
        surfaces = [wire.surface(token) for token in sentence.tokens]
        self.n_tokens = len(surfaces)
        self.respelled = RespelledIndex(surfaces)
        self._start_token: dict[int, int] = {}
        self._end_token: dict[int, int] = {}
        offset = 0
        for token, surface in enumerate(surfaces):
            if surface:
                self._start_token[offset] = token
                self._end_token[offset + len(surface)] = token + 1
                offset += len(surface) + 1
        self._text = " ".join(filter(None, surfaces))
        self._empty_runs = _runs([not surface for surface in surfaces])

    def occurrences(self, text: str) -> tuple[Span, ...]:
        """Every token run that reads like ``text``, left to right; () when there is none.

        Tokens that vanish on the wire are never at a run's edge, except in runs of nothing else ("" finds
        those).
        """
        wanted = fold(text)
        if not wanted:
            return self._empty_runs
        found = []
        offset = self._text.find(wanted)
        while offset >= 0:
            start, end = self._start_token.get(offset), self._end_token.get(offset + len(wanted))
            if start is not None and end is not None:
                found.append((start, end))
            offset = self._text.find(wanted, offset + 1)
        return tuple(found)


def place(placements: Iterable[Placement], spans: Sequence[Span]) -> tuple[Placement, ...]:
    """Ways to give one more mention of the current type one of ``spans`` (sorted); () when there is none.

    Bounded: the first ``MAX_SPANS`` free spans of each placement, the ``MAX_PLACEMENTS`` leftmost of all.
    """
    best: dict[tuple[int, int], Placement] = {}
    for placement in placements:
        for start, end in islice(_free(placement, spans), MAX_SPANS):
            key = (placement.used | _bits(start, end), end)
            cost = placement.cost + (end - start) * (start + end - 1) // 2
            if key not in best or cost < best[key].cost:
                best[key] = Placement(*key, cost, (placement.placed, (start, end)))
    return tuple(sorted(best.values(), key=_cost)[:MAX_PLACEMENTS])


def _free(placement: Placement, spans: Sequence[Span]) -> Iterator[Span]:
    """Spans behind the current type's last mention whose tokens are all free, left to right."""
    for index in range(bisect_left(spans, (placement.end, 0)), len(spans)):
        if not placement.used & _bits(*spans[index]):
            yield spans[index]


def next_type(placements: Iterable[Placement]) -> tuple[Placement, ...]:
    """The same placements at the start of another type: its mentions begin again at the left."""
    best: dict[int, Placement] = {}
    for placement in placements:
        best.setdefault(placement.used, replace(placement, end=0))
    return tuple(best.values())


def align(mentions: Sequence[Mention], index: SentenceIndex) -> Alignment:
    """Spans for mentions in the order of the text they came from; what cannot be placed is counted."""
    grounded: list[tuple[Mention, tuple[Span, ...]]] = []
    known: dict[str, tuple[Span, ...]] = {}
    seen: Counter[str] = Counter()
    missing: list[Mention] = []
    n_excess = 0
    for mention in mentions:
        surface = fold(mention.text)
        if surface not in known:
            known[surface] = index.occurrences(surface)
        spans = known[surface]
        seen[surface] += 1
        if not spans:
            missing.append(mention)
        elif seen[surface] > len(spans):
            n_excess += 1
        else:
            grounded.append((mention, spans))
    entities = _search(grounded, index.n_tokens)
    if entities is None:
        entities = [entity for entity, _ in _longest_first(grounded)]
    respelled = _place_respelled(missing, index, entities) if missing else []
    return Alignment(
        entities=tuple(sorted([*entities, *respelled])),
        n_ungrounded=len(missing) - len(respelled),
        n_respelled=len(respelled),
        n_excess=n_excess,
        n_overlapping=len(grounded) - len(entities),
    )


def _place_respelled(
    missing: Sequence[Mention], index: SentenceIndex, exact: Sequence[Entity]
) -> list[Entity]:
    """Mentions that differ from the sentence in spelling alone, on tokens that nothing exact stands on.

    First those in the case of the sentence, then the others; of each, the longest first.
    """
    used = 0
    for entity in exact:
        used |= _bits(entity.start, entity.end)
    found: list[Entity] = []
    left = list(missing)
    for any_case in (False, True):
        looked_up = [
            (mention, index.respelled.occurrences(mention.text, any_case=any_case)) for mention in left
        ]
        placed = _longest_first([pair for pair in looked_up if pair[1]], used)
        found += [entity for entity, _ in placed]
        for entity, mention in placed:
            used |= _bits(entity.start, entity.end)
            left.remove(mention)
    return found


def _search(grounded: Sequence[tuple[Mention, tuple[Span, ...]]], n_tokens: int) -> list[Entity] | None:
    """All mentions placed, leftmost where there is a choice; None when no placement in reach holds them
    all.
    """
    if len(grounded) > n_tokens:
        return None
    placements = NOTHING_PLACED
    current = ""
    for mention, spans in grounded:
        if mention.type != current:
            placements, current = next_type(placements), mention.type
        placements = place(placements, spans)
        if not placements:
            return None
    leftmost = _placed_spans(min(placements, key=_cost))
    return [Entity(start, end, m.type) for (m, _), (start, end) in zip(grounded, leftmost, strict=True)]


def _placed_spans(placement: Placement) -> list[Span]:
    """One a mention, in the order they were given."""
    spans = []
    placed = placement.placed
    while placed is not None:
        placed, span = placed
        spans.append(span)
    return spans[::-1]


def _longest_first(
    grounded: Sequence[tuple[Mention, tuple[Span, ...]]], used: int = 0
) -> list[tuple[Entity, Mention]]:
    """Each mention that finds a free span, with it. Bit i of ``used``: token i is taken."""
    placed = []
    untried: dict[str, Iterator[Span]] = {}  # by text: a span that was not free once never is again
    for mention, spans in sorted(grounded, key=lambda pair: pair[1][0][0] - pair[1][0][1]):
        later = untried.setdefault(mention.text, iter(spans))
        free = next((span for span in later if not used & _bits(*span)), None)
        if free is not None:
            used |= _bits(*free)
            placed.append((Entity(*free, mention.type), mention))
    return placed


def _cost(placement: Placement) -> int:
    return placement.cost


def _bits(start: int, end: int) -> int:
    return (1 << end) - (1 << start)


def _runs(flags: Sequence[bool]) -> tuple[Span, ...]:
    """Each true flag by itself, and each stretch of them as a whole."""
    found: list[Span] = []
    for start, flag in enumerate(flags):
        if not flag:
            continue
        found.append((start, start + 1))
        if start > 0 and flags[start - 1]:
            continue
        end = next((end for end in range(start, len(flags)) if not flags[end]), len(flags))
        if end > start + 1:
            found.append((start, end))
    return tuple(found)
