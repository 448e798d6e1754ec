"""Grounded decoding: an automaton over the wire form that lets a model write only what can be read back.

Declared types in declared order, each at most once and never empty; mentions that are token runs of the
sentence; inside a type in text order; all mentions placeable on disjoint tokens (the aligner's own search,
so whatever is allowed here decodes with no malformed count); the end only where the text is complete. Each
mention covers at least one new token, so every output ends.

The automaton reads symbols (bytes), not tokens: any way to cut the text into pieces is allowed, the
tokenizer's own among them. Knows nothing of models; a backbone asks ``allowed`` once before each token and
tells what it chose.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cdner.codec.automaton import SentenceSymbols, Shape, State, start
from cdner.codec.pieces import Pieces, Symbols
from cdner.codec.wire import Wire
from cdner.types import Sentence, Vocabulary


class Grammar:
    """Built once per vocabulary and domain. UsageError when the vocabulary cannot be walked character by
    character.
    """

    def __init__(self, vocabulary: Vocabulary, wire: Wire, types: Sequence[str]) -> None:
        wire.types_by_surface(types)  # refuses types that read the same
        self._wire = wire
        self._end_id = vocabulary.end_id
        self._pieces = Pieces(vocabulary)
        self._spelled: dict[str, Symbols] = {}
        self._shape = Shape(
            braces=wire.braces,
            space_first=self._pieces.starts_with_space(),
            types=tuple(self._pieces.spell_quoted(name, wire) for name in types),
        )

    def constraint(self, sentence: Sentence) -> SentenceConstraint:
        """The automaton of one output for this sentence."""
        spelled = [self._spell(token) for token in sentence.tokens]
        symbols = SentenceSymbols(sentence, spelled=spelled, wire=self._wire)
        return SentenceConstraint(self._pieces, start(self._shape, symbols), end_id=self._end_id)

    def _spell(self, token: str) -> Symbols:
        known = self._spelled.get(token)
        if known is None:
            known = self._spelled[token] = self._pieces.spell_quoted(token, self._wire)
        return known


class SentenceConstraint:
    """``cdner.types.TokenConstraint`` for one output."""

    def __init__(self, pieces: Pieces, state: State, *, end_id: int) -> None:
        self._pieces = pieces
        self._state = state
        self._end_id = end_id

    def allowed(self) -> NDArray[np.int64]:
        """Sorted ids of all pieces that keep the automaton alive; ``end_id`` where the text is complete."""
        found = [self._end_id] if self._state.final else []
        reached = [(self._pieces.root, self._state)]
        while reached:
            node, state = reached.pop()
            found.extend(node.ids)
            if not node.children:
                continue
            for symbol, following in state.moves().items():
                child = node.children.get(symbol)
                if child is not None:
                    reached.append((child, following))
        return np.unique(np.array(found, dtype=np.int64))

    def advance(self, token_id: int) -> None:
        """Take one chosen token. ValueError when it was not allowed. Nothing moves after the end."""
        if token_id == self._end_id and self._state.final:
            return
        symbols = self._pieces.symbols[token_id]
        state: State | None = self._state if symbols else None
        for symbol in symbols:
            state = state.moves().get(symbol) if state else None
        if state is None:
            raise ValueError(f"token {token_id} is not allowed here")
        self._state = state
