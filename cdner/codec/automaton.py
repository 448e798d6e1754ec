"""The states of grounded decoding: what may follow, symbol by symbol, in the wire form of one sentence's
entities.

States are immutable and say which symbol leads where; they know no token ids.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

from cdner.codec.align import NOTHING_PLACED, Placement, SentenceIndex, Span, next_type, place
from cdner.codec.pieces import QUOTE, SPACE, Symbols
from cdner.codec.wire import Wire
from cdner.types import Sentence

COMMA, OPEN_LIST, CLOSE_LIST, OPEN_BRACE, CLOSE_BRACE = b",[]{}"


class State(Protocol):
    @property
    def final(self) -> bool:
        """Whether the text may end here."""
        ...

    def moves(self) -> Mapping[int, State]:
        """Symbol -> the state behind it. Empty only in a final state."""
        ...


@dataclass(frozen=True, slots=True)
class Shape:
    """What all sentences of a domain share."""

    braces: bool
    space_first: bool  # the vocabulary writes a space in front of a text; decoding drops it
    types: tuple[Symbols, ...]  # as between their quotes


class SentenceSymbols:
    """A sentence as one row of symbols, a space between tokens, and where its tokens start and end in it."""

    __slots__ = ("_surfaces", "end_token", "index", "row", "starts", "token_ends")

    def __init__(self, sentence: Sentence, *, spelled: Sequence[Symbols], wire: Wire) -> None:
        self.index = SentenceIndex(sentence, wire)
        self._surfaces = [wire.surface(token) for token in sentence.tokens]
        self.starts: list[tuple[int, int]] = []  # (token, offset); two for a token that begins with a space
        self.token_ends: list[tuple[int, int]] = []  # (token, offset behind it)
        row: list[int] = []
        for token, symbols in enumerate(map(_folded, spelled)):
            body = symbols[1:] if symbols[:1] == (SPACE,) else symbols
            if not body:
                continue  # it vanishes on the wire: no mention can begin or end with it
            row.append(SPACE)
            self.starts.append((token, len(row)))
            if body != symbols:
                self.starts.append((token, len(row) - 1))
            row.extend(body)
            self.token_ends.append((token, len(row)))
        self.row = tuple(row)
        self.end_token = {offset: token for token, offset in self.token_ends}

    def occurrences(self, start: int, end: int) -> tuple[Span, ...]:
        """Everywhere that tokens ``[start, end)`` could be meant once they are decoded."""
        return self.index.occurrences(" ".join(self._surfaces[start:end]))

    def threads(self, placements: Sequence[Placement]) -> tuple[tuple[int, int, int], ...]:
        """Where a mention may begin: (token, offset, offset behind the last token it may still cover)."""
        limits: dict[int, int] = {}
        for placement in placements:
            limit = 0
            for token, behind in reversed(self.token_ends):
                if token < placement.end:
                    break
                limit = 0 if placement.used >> token & 1 else limit or behind
                limits[token] = max(limits.get(token, 0), limit)
        return tuple((token, offset, limits[token]) for token, offset in self.starts if limits.get(token))

    def has_free_token(self, placements: Sequence[Placement]) -> bool:
        return any(not p.used >> token & 1 for p in placements for token, _ in self.token_ends)


@dataclass(frozen=True, slots=True)
class Context:
    """How far the output is, at the level of mentions."""

    shape: Shape
    sentence: SentenceSymbols
    n_types: int = 0  # declared types that are used or passed over
    placements: tuple[Placement, ...] = NOTHING_PLACED


@dataclass(frozen=True, slots=True)
class Fixed:
    """Symbols that must come, then another state."""

    symbols: Symbols
    then: Callable[[], State]
    final: bool = False

    def moves(self) -> Mapping[int, State]:
        head, rest = self.symbols[0], self.symbols[1:]
        return {head: replace(self, symbols=rest) if rest else self.then()}


@dataclass(frozen=True, slots=True)
class Either:
    """Alternatives that differ in their first symbol, or a complete text."""

    states: tuple[State, ...] = ()
    final: bool = False

    def moves(self) -> Mapping[int, State]:
        return {symbol: state for option in self.states for symbol, state in option.moves().items()}


@dataclass(frozen=True, slots=True)
class TypeName:
    """Inside the quotes of a type: the types that may still be meant, and how much of them stands there."""

    context: Context
    candidates: tuple[int, ...]
    at: int = 0
    final: bool = False

    def moves(self) -> Mapping[int, State]:
        types = self.context.shape.types
        following: dict[int, list[int]] = {}
        found: dict[int, State] = {}
        for candidate in self.candidates:
            if self.at == len(types[candidate]):
                found[QUOTE] = Fixed(tuple(b': ["'), partial(_mentions_of, self.context, candidate))
            else:
                following.setdefault(types[candidate][self.at], []).append(candidate)
        for symbol, candidates in following.items():
            found[symbol] = replace(self, candidates=tuple(candidates), at=self.at + 1)
        return found


@dataclass(frozen=True, slots=True)
class MentionText:
    """Inside the quotes of a mention: every token run it may still be, as (first token, offset, last
    offset).
    """

    context: Context
    threads: tuple[tuple[int, int, int], ...]
    final: bool = False

    def moves(self) -> Mapping[int, State]:
        sentence = self.context.sentence
        following: dict[int, list[tuple[int, int, int]]] = {}
        found: dict[int, State] = {}
        for start_token, offset, limit in self.threads:
            if offset < limit:
                following.setdefault(sentence.row[offset], []).append((start_token, offset + 1, limit))
            end_token = sentence.end_token.get(offset)
            if end_token is not None and end_token >= start_token:
                found[QUOTE] = AfterMention(self.context, start_token, end_token + 1)
        for symbol, threads in following.items():
            found[symbol] = MentionText(self.context, tuple(threads))
        return found


@dataclass(frozen=True, slots=True)
class AfterMention:
    """Behind a mention's closing quote; its places are looked for only when somebody asks what may follow."""

    context: Context
    start: int
    end: int
    final: bool = False

    def moves(self) -> Mapping[int, State]:
        spans = self.context.sentence.occurrences(self.start, self.end)
        context = replace(self.context, placements=place(self.context.placements, spans))
        found: dict[int, State] = {CLOSE_LIST: _after_list(context)}
        if threads := context.sentence.threads(context.placements):
            found[COMMA] = Fixed(tuple(b' "'), partial(MentionText, context, threads))
        return found


def start(shape: Shape, sentence: SentenceSymbols) -> State:
    """Before the first symbol."""
    context = Context(shape, sentence)
    types = _type_name(context, b'"')
    if shape.braces:
        inside = Either((*types, Fixed((CLOSE_BRACE,), _complete)))
        options: tuple[State, ...] = (Fixed((OPEN_BRACE,), lambda: inside),)
    else:
        options = (*types, Fixed((OPEN_LIST, CLOSE_LIST), _complete))
    if shape.space_first:
        return Either((*options, Fixed((SPACE,), partial(Either, options))))
    return Either(options)


def _complete() -> State:
    return Either(final=True)


def _type_name(context: Context, opening: bytes) -> tuple[State, ...]:
    """One more type behind ``opening``, if a type and a free token are left."""
    candidates = tuple(range(context.n_types, len(context.shape.types)))
    if not candidates or not context.sentence.has_free_token(context.placements):
        return ()
    return (Fixed(tuple(opening), partial(TypeName, context, candidates)),)


def _mentions_of(context: Context, chosen: int) -> State:
    placements = next_type(context.placements)
    context = replace(context, n_types=chosen + 1, placements=placements)
    return MentionText(context, context.sentence.threads(placements))


def _after_list(context: Context) -> State:
    more = _type_name(context, b', "')
    if not context.shape.braces:
        return Either(more, final=True)
    return Either((*more, Fixed((CLOSE_BRACE,), _complete)))


def _folded(symbols: Symbols) -> Symbols:
    """Neighbouring spaces as one, none at the end: what folding white space does to the decoded text."""
    behind = (*symbols[1:], SPACE)
    return tuple(s for s, after in zip(symbols, behind, strict=True) if (s, after) != (SPACE, SPACE))
