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

_LETTER = re.compile(r"\w")
_OPENING = re.compile(r"\.{2,}|-{2,}|[^\w\s]")
_CLOSING = re.compile(r"[^\w\s-]")  # "pre- and post-war" keeps its dash
_APOSTROPHE = re.compile(r"(?<=\w)['’](?=[^\W\d_])")
_KEPT_IN_FRONT = re.compile(r"['’](?:s|t|re|ve|ll|d|m)\Z|[-.@+]\w", re.IGNORECASE)  # "'s", "-based", ".NET"
_INITIALS = re.compile(r"(?:\w{1,2}\.){2,}")
_ABBREVIATION = re.compile(
    r"[^\W\d_]\.|(?:\w{1,2}\.){2,}|(?:Mr|Mrs|Ms|Dr|St|Sr|Jr|Prof|Hon|Rev|Gen|Sen|Gov|Bros|Inc|Ltd|Co|Corp|No|vs|pp?|etc)\."
)


def tokenise(text: str) -> tuple[str, ...]:
    """Tokens in order; no character but white space is lost. Empty for a text without any other."""
    words = text.split()
    n_until_last = max((n for n, word in enumerate(words, start=1) if _LETTER.search(word)), default=0)
    return tuple(
        token
        for number, word in enumerate(words, start=1)
        for token in _cut(word, is_last=number >= n_until_last)
    )


def _cut(word: str, *, is_last: bool) -> list[str]:
    """By offsets and not by slices, so that a ruler of a hundred thousand dashes is no trouble."""
    letter = _LETTER.search(word)
    start, end = 0, len(word)
    in_front: list[str] = []
    behind: list[str] = []
    while letter and start < letter.start() and not _KEPT_IN_FRONT.match(word, start):
        mark = _OPENING.match(word, start)
        if mark is None:
            break
        in_front.append(mark[0])
        start = mark.end()
    kept_whole = _INITIALS if is_last else _ABBREVIATION
    while (cut := _closing_mark(word, start, end)) < end and not kept_whole.fullmatch(word, start, end):
        behind.append(word[cut:end])
        end = cut
    return [*in_front, *_at_apostrophes(word[start:end]), *reversed(behind)]


def _closing_mark(word: str, start: int, end: int) -> int:
    """Where the mark begins that ends ``word[start:end]`` and has something before it; ``end`` without one."""
    last = word[end - 1]
    cut = end
    while last in ".-" and cut > start + 1 and word[cut - 1] == last:
        cut -= 1
    if end - cut >= 2:
        return cut
    return end - 1 if end - start >= 2 and _CLOSING.match(last) else end


def _at_apostrophes(word: str) -> list[str]:
    starts = [0, *(found.start() for found in _APOSTROPHE.finditer(word)), len(word)]
    return [word[start:end] for start, end in pairwise(starts)]
