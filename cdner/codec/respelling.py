"""Where a mention stands that is spelled otherwise than the sentence: the second look, after the exact one.

Models rewrite what they copy: they close up the space before ``'s``, compose accents, straighten quotes, unescape HTML.
Both sides are brought to one spelling here, and each character remembers the tokens it came from, so that what is found
is a run of whole tokens. Knows nothing of placing mentions (see ``align``).
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import cached_property

Span = tuple[int, int]  # [start, end) in tokens
Character = tuple[str, int, int]  # the character, first token, last token

_SHORT = 3  # letters: "US" is not the word "us"
_QUOTES = {"'": "‘’‚‛′´`ʼ", '"': "“”„‟″«»〝〞"}
_HYPHENS = {"-": "‐‑‒–—―−﹘﹣－⁃"}
_FOLDED = {ord(old): new for table in (_QUOTES, _HYPHENS) for new, olds in table.items() for old in olds}
_ESCAPES = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});|``|''|-[LR][RSC]B-")
_TREEBANK = {
    "``": '"', "''": '"', "-LRB-": "(", "-RRB-": ")", "-LSB-": "[", "-RSB-": "]", "-LCB-": "{", "-RCB-": "}"
}  # fmt: skip


class RespelledIndex:
    """Runs of a sentence's tokens, looked up without regard to how they are spelled.

    White space, Unicode form (NFKC), quotes, hyphens, zero-width characters, HTML entities and the Penn Treebank's
    brackets and quotes make no difference; ``occurrences`` tries letter case last.
    """

    def __init__(self, surfaces: Sequence[str]) -> None:
        self._surfaces = surfaces

    @cached_property
    def _exact_case(self) -> tuple[Character, ...]:
        raw = [(c, token, token) for token, surface in enumerate(self._surfaces) for c in surface]
        return tuple(_respelled(raw))

    @cached_property
    def _any_case(self) -> tuple[Character, ...]:
        return tuple((c, first, last) for char, first, last in self._exact_case for c in char.casefold())

    def occurrences(self, mention: str, *, any_case: bool) -> tuple[Span, ...]:
        """Every run of whole tokens that reads like ``mention``, left to right; () when there is none.

        With ``any_case``, a run of up to three letters in lower case is not taken for a mention with capitals.
        """
        wanted = "".join(character for character, _, _ in _respelled([(c, 0, 0) for c in mention]))
        if not any_case:
            return tuple(_runs(self._exact_case, wanted))
        spans = _runs(self._any_case, wanted.casefold())
        return tuple(span for span in spans if not (len(wanted) <= _SHORT and self._is_lower(span)))

    def _is_lower(self, span: Span) -> bool:
        return all(surface == surface.lower() for surface in self._surfaces[slice(*span)])


def _runs(characters: Sequence[Character], wanted: str) -> Iterator[Span]:
    """Where ``wanted`` begins with the first character of a token and ends with the last one of a token."""
    text = "".join(character for character, _, _ in characters)
    at = text.find(wanted) if wanted else -1
    while at >= 0:
        end = at + len(wanted)
        first, last = characters[at][1], characters[end - 1][2]
        begins = at == 0 or characters[at - 1][2] < first
        ends = end == len(characters) or characters[end][1] > last
        if begins and ends:
            yield first, last + 1
        at = text.find(wanted, at + 1)


def _respelled(characters: Sequence[Character]) -> Iterator[Character]:
    """The characters in one spelling, without white space and zero-width characters."""
    for cluster in _clusters(_unescaped(characters)):
        composed = unicodedata.normalize("NFKC", "".join(character for character, _, _ in cluster))
        for character in composed.translate(_FOLDED):
            if not (character.isspace() or unicodedata.category(character) == "Cf"):
                yield character, cluster[0][1], cluster[-1][2]


def _unescaped(characters: Sequence[Character]) -> Iterator[Character]:
    """HTML entities and the Treebank's spellings as the characters they stand for, also where tokens cut them apart."""
    text = "".join(character for character, _, _ in characters)
    at = 0
    for match in _ESCAPES.finditer(text):
        yield from characters[at : match.start()]
        meant = _TREEBANK.get(match.group()) or html.unescape(match.group())
        first, last = characters[match.start()][1], characters[match.end() - 1][2]
        yield from ((character, first, last) for character in meant)
        at = match.end()
    yield from characters[at:]


def _clusters(characters: Iterator[Character]) -> Iterator[list[Character]]:
    """Each character with the combining marks behind it: what NFKC may join, and nothing more."""
    cluster: list[Character] = []
    for character in characters:
        if cluster and not unicodedata.combining(character[0]):
            yield cluster
            cluster = []
        cluster.append(character)
    if cluster:
        yield cluster
