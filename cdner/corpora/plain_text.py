"""Cuts a sentence that somebody types into tokens, as the corpora have theirs.

Exists because models were trained on a corpus's tokens and an own sentence comes without. The rules:
- white space separates tokens;
- punctuation at either end of a word is a token of its own, so are dots and dashes in a row ("...", "--");
- a full stop stays with initials and common abbreviations ("U.S.", "J.", "Dr."), but not with the sentence's last
  word, unless that has others ("U.S.");
- an apostrophe between letters begins a token ("Poland 's", "O 'Reilly"), all else inside a word stays
  ("co-founder", "1,500").

Written for English; knows no labels.
"""

from __future__ import annotations

import re
from itertools import pairwise

_PUNCTUATION = r"""(?:\.{2,}|-{2,}|[^\w\s])"""
_OPENING = re.compile(rf"{_PUNCTUATION}(?=.*\w)")
_CLOSING = re.compile(r"(?<=.)(?:\.{2,}|-{2,}|[^\w\s-])\Z")  # "pre- and post-war" keeps its dash
_APOSTROPHE = re.compile(r"(?<=\w)['’](?=[^\W\d_])")
_KEPT_IN_FRONT = re.compile(r"['’](?:s|t|re|ve|ll|d|m)\Z|[-.@+]\w", re.IGNORECASE)  # "'s", "-based", ".NET"
_INITIALS = re.compile(r"(?:\w{1,2}\.){2,}")
_ABBREVIATION = re.compile(
    r"[^\W\d_]\.|(?:\w{1,2}\.){2,}|(?:Mr|Mrs|Ms|Dr|St|Sr|Jr|Prof|Hon|Rev|Gen|Sen|Gov|Bros|Inc|Ltd|Co|Corp|No|vs|pp?|etc)\."
)


def tokenise(text: str) -> tuple[str, ...]:
    """Tokens in order; no character but white space is lost. Empty for a text without any other."""
    words = text.split()
    return tuple(
        token
        for index, word in enumerate(words)
        for token in _cut(word, is_last=not any(map(_has_letters, words[index + 1 :])))
    )


def _has_letters(word: str) -> bool:
    return re.search(r"\w", word) is not None


def _cut(word: str, *, is_last: bool) -> list[str]:
    in_front: list[str] = []
    behind: list[str] = []
    while (found := _OPENING.match(word)) and not _KEPT_IN_FRONT.match(word):
        in_front.append(found[0])
        word = word[found.end() :]
    while (found := _CLOSING.search(word)) and not (_INITIALS if is_last else _ABBREVIATION).fullmatch(word):
        behind.insert(0, found[0])
        word = word[: found.start()]
    return [*in_front, *_at_apostrophes(word), *behind]


def _at_apostrophes(word: str) -> list[str]:
    starts = [0, *(found.start() for found in _APOSTROPHE.finditer(word)), len(word)]
    return [word[start:end] for start, end in pairwise(starts)]
