"""A vocabulary's pieces as a trie over symbols, and a text as symbols: the alphabet of grounded decoding.

A symbol is a byte (0 to 255) of the decoded text in UTF-8, or ``UNKNOWN`` for a stretch of characters that
only the unknown token can stand for. Bytes, because a byte-level piece may hold part of a character. Knows
no syntax.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from cdner.codec.wire import Wire
from cdner.errors import UsageError
from cdner.types import Vocabulary

UNKNOWN = 256
SPACE, QUOTE = 0x20, 0x22
Symbols = tuple[int, ...]


@dataclass(slots=True)
class Node:
    """The pieces that begin with the symbols on the way here; ``ids`` are those that end here."""

    children: dict[int, Node] = field(default_factory=dict)
    ids: list[int] = field(default_factory=list)


class Pieces:
    """The symbols of each token id, and a trie of them. UsageError when some character has no piece of its
    own.

    Without such pieces a path could end in the middle of a word: no token would fit.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self.symbols: list[Symbols] = [tuple(piece or b"") for piece in vocabulary.pieces]
        if vocabulary.unknown_id is not None:
            self.symbols[vocabulary.unknown_id] = (UNKNOWN,)
        _require_single_characters(vocabulary)
        self.root = Node()
        for token_id, symbols in enumerate(self.symbols):
            node = self.root
            for symbol in symbols:
                node = node.children.setdefault(symbol, Node())
            if symbols:
                node.ids.append(token_id)

    def spell(self, text: str) -> Symbols:
        """The symbols of a text as the vocabulary itself writes it, without a space put in front of it."""
        spelled = tuple(s for token_id in self._vocabulary.encode(text) for s in self.symbols[token_id])
        return spelled[1:] if spelled[:1] == (SPACE,) and not text.startswith(" ") else spelled

    def starts_with_space(self) -> bool:
        """Whether the vocabulary puts a space in front of a text (sentencepiece does)."""
        first = self._vocabulary.encode('"')[:1]
        return bool(first) and self.symbols[first[0]][:1] == (SPACE,)

    def spell_quoted(self, text: str, wire: Wire) -> Symbols:
        """What stands between the quotes of a wire string. In its quotes, for spelling depends on the
        neighbours.
        """
        spelled = self.spell(wire.quoted(text))
        if len(spelled) < 2 or (spelled[0], spelled[-1]) != (QUOTE, QUOTE):
            raise UsageError(
                "This vocabulary does not keep quotes apart from what they enclose: decode freely."
            )
        return spelled[1:-1]


def _require_single_characters(vocabulary: Vocabulary) -> None:
    pieces = {piece for piece in vocabulary.pieces if piece}
    for piece in pieces:
        for unit in _characters(piece):
            if unit not in pieces and not all(bytes([byte]) in pieces for byte in unit):
                raise UsageError(
                    f"Grounded decoding could get stuck: the vocabulary has {piece!r} but not {unit!r}. "
                    "Decode freely."
                )


def _characters(piece: bytes) -> list[bytes]:
    try:
        return [character.encode() for character in piece.decode()]
    except UnicodeDecodeError:
        return [bytes([byte]) for byte in piece]
