"""A sentence's words as token ids, with the place where each word begins. Knows no model.

A sentence is read as one text (its tokens joined by single spaces), so each word is spelled as in running text. A word
that the tokenizer spells with nothing (a lone control character) stands as the unknown token: every word has a place.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cdner.backbone.vocabulary import encode_plain, neutralised, special_strings
from cdner.errors import ModelError


@dataclass(frozen=True, slots=True)
class WordTokens:
    """``first[w]``: position in ``ids`` of the first sub-token of word w, ascending. No special tokens."""

    ids: tuple[int, ...]
    first: tuple[int, ...]

    def places(self, start: int, end: int) -> slice:
        """Where the sub-tokens of words ``[start, end)`` stand in ``ids``."""
        return slice(self.first[start], self.first[end] if end < len(self.first) else len(self.ids))


class WordEncoder:
    """Encodes sentences with one tokenizer."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._specials = special_strings(tokenizer)

    def encode(self, words: Sequence[str]) -> WordTokens:
        """ModelError for a word that the tokenizer cannot spell, where it has no unknown token either."""
        spelled = [neutralised(word, self._specials) for word in words]
        ends: list[int] = []  # of each word, as a position in the text
        for word in spelled:
            ends.append(len(word) + (ends[-1] + 1 if ends else 0))
        plain = encode_plain(self._tokenizer, " ".join(spelled))
        # The space in front of a word is the word's: its last character lies behind the end of the word before.
        owners = [bisect_right(ends, last) for last in plain.last_characters]
        ids: list[int] = []
        first: list[int] = []
        place = 0
        for number, word in enumerate(words):
            first.append(len(ids))
            begun = place
            while place < len(owners) and owners[place] <= number:
                ids.append(plain.ids[place])
                place += 1
            if place == begun:
                ids.append(self._unknown(word))
        return WordTokens(tuple(ids), tuple(first))

    def _unknown(self, word: str) -> int:
        found = self._tokenizer.unk_token_id
        if found is None:
            raise ModelError(
                f"The model's tokenizer cannot spell the word {word!r}. Remove it from the text."
            )
        return int(found)
