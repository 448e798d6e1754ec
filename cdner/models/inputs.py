"""Turns inputs into token ids: texts inside a token budget, and sentences with the position of each word.

The segments of an input are encoded as one text (a space between two segments belongs to the token that it starts),
but each token keeps the priority of its segment. An input over its budget loses tokens from the end of the segments
with the highest priority first, never from priority 0, and every lost token is counted. ``causal_input`` and
``seq2seq_input`` say how an input of each family ends, for every engine.

The words of a sentence are encoded as one text too, joined by single spaces, so that each is spelled as in running
text. A word that the tokenizer spells with no token (a control character) becomes the unknown token: every word has a
position.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cdner.errors import InputTooLongError, ModelError
from cdner.models.vocabulary import encode_plain, neutralised, special_strings
from cdner.types import ModelInput, Segment

SEPARATOR = "\n"  # between input and target of a decoder-only model
# T5 accepts any length, but attention needs memory for every pair of tokens: with 12 heads 0.8 GB for 4,096 tokens and
# 43 GB for 30,000, where the system would kill the process.
LONGEST_RELATIVE = 4096  # tokens


@dataclass(frozen=True, slots=True)
class EncodedInput:
    ids: tuple[int, ...]
    n_truncated: int


@dataclass(frozen=True, slots=True)
class Budget:
    """Limits for the tokens of an input. Priority 0 may exceed ``soft`` (a setting) but not ``hard`` (the window)."""

    soft: int | None = None
    hard: int | None = None

    @property
    def limit(self) -> int | None:
        limits = [limit for limit in (self.soft, self.hard) if limit is not None]
        return min(limits) if limits else None


class InputEncoder:
    """Encodes model inputs with one tokenizer."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._specials = special_strings(tokenizer)

    def encode(self, source: ModelInput, budget: Budget, *, index: int) -> EncodedInput:
        """Ids without end token or separator. InputTooLongError names ``index`` if priority 0 alone is too long."""
        ids, priorities = self._tokenise(source)
        if budget.limit is None or len(ids) <= budget.limit:
            return EncodedInput(ids=tuple(ids), n_truncated=0)
        n_fixed = priorities.count(0)
        if budget.hard is not None and n_fixed > budget.hard:
            raise InputTooLongError(
                f"Input {index} has {n_fixed} tokens that must be kept, the model takes {budget.hard}. "
                "Shorten the text, use fewer examples, or choose a model with a longer window.",
                n_tokens=n_fixed,
            )
        dropped = _tails(priorities, len(ids) - budget.limit)
        kept = tuple(token for position, token in enumerate(ids) if position not in dropped)
        return EncodedInput(ids=kept, n_truncated=len(dropped))

    def encode_text(self, text: str) -> list[int]:
        """Ids of a text from a corpus; it contains no special tokens, even if it spells one."""
        return encode_plain(self._tokenizer, neutralised(text, self._specials)).ids

    def encode_located(self, text: str) -> tuple[list[int], list[int]]:
        """Like ``encode_text``, with the index of each token's last character in ``text``."""
        changed = neutralised(text, self._specials)
        plain = encode_plain(self._tokenizer, changed)
        place, given = (
            -1,
            [],
        )  # of each character of the changed text: that of the given one, or the one before it
        for character in changed:
            place += place + 1 < len(text) and text[place + 1] == character
            given.append(place)
        return plain.ids, [given[last] for last in plain.last_characters]

    def _tokenise(self, source: ModelInput) -> tuple[list[int], list[int]]:
        ids: list[int] = []
        priorities: list[int] = []
        for run in _runs(source):
            if run[0].special:
                found = self._tokenizer(run[0].text, add_special_tokens=False, verbose=False)["input_ids"]
                ids += found
                priorities += [run[0].priority] * len(found)
            else:
                run_ids, run_priorities = self._tokenise_run(run)
                ids += run_ids
                priorities += run_priorities
        return ids, priorities

    def _tokenise_run(self, run: list[Segment]) -> tuple[list[int], list[int]]:
        text = "".join(segment.text for segment in run)
        if not text:
            return [], []
        owner = [segment.priority for segment in run for _ in segment.text]
        text = self._neutralise(text, owner)
        plain = encode_plain(self._tokenizer, text)
        return plain.ids, [owner[min(last, len(owner) - 1)] for last in plain.last_characters]

    def _neutralise(self, text: str, owner: list[int]) -> str:
        """``neutralised`` for a whole run: two segments together can spell a special token. Updates ``owner``."""
        while found := next((special for special in self._specials if special in text), None):
            seam = text.index(found) + 1
            text = f"{text[:seam]} {text[seam:]}"
            owner.insert(seam, owner[seam - 1])
        return text


def causal_input(
    encoder: InputEncoder,
    source: ModelInput,
    *,
    separator: Sequence[int],
    soft: int | None,
    room: int,
    index: int,
) -> EncodedInput:
    """An input of a decoder-only model with its separator; a rendered chat gets no separator.

    ``soft`` limits the tokens before the separator, ``room`` all tokens before the output.
    """
    end = () if source and source[-1].special else separator
    found = encoder.encode(source, Budget(soft=soft, hard=room - len(end)), index=index)
    return EncodedInput(ids=(*found.ids, *end), n_truncated=found.n_truncated)


def seq2seq_input(
    encoder: InputEncoder,
    source: ModelInput,
    *,
    end_id: int,
    soft: int | None,
    window: int | None,
    index: int,
) -> EncodedInput:
    """An input of an encoder with its end token, which counts towards both limits."""
    soft, hard = (None if limit is None else limit - 1 for limit in (soft, window))
    found = encoder.encode(source, Budget(soft=soft, hard=hard), index=index)
    return EncodedInput(ids=(*found.ids, end_id), n_truncated=found.n_truncated)


def seq2seq_window(config: Any) -> int:
    """The most tokens that an encoder takes; ``LONGEST_RELATIVE`` if positions are relative, as in T5."""
    relative = hasattr(config, "relative_attention_num_buckets")
    return LONGEST_RELATIVE if relative else int(config.max_position_embeddings)


def _runs(source: ModelInput) -> list[list[Segment]]:
    """Groups of consecutive ordinary segments; each segment with special tokens is a group of its own."""
    runs: list[list[Segment]] = []
    for segment in source:
        if runs and not segment.special and not runs[-1][0].special:
            runs[-1].append(segment)
        else:
            runs.append([segment])
    return runs


def _tails(priorities: list[int], n_over: int) -> set[int]:
    """Positions to drop: from the highest priority first, from its end backwards, never from priority 0."""
    order = sorted(range(len(priorities)), key=lambda position: (-priorities[position], -position))
    return {position for position in order[:n_over] if priorities[position] > 0}


@dataclass(frozen=True, slots=True)
class WordTokens:
    """A sentence without special tokens. ``first[w]``: position in ``ids`` of the first sub-token of word w."""

    ids: tuple[int, ...]
    first: tuple[int, ...]

    def places(self, start: int, end: int) -> slice:
        """The positions in ``ids`` of the sub-tokens of words ``[start, end)``."""
        return slice(self.first[start], self.first[end] if end < len(self.first) else len(self.ids))


class WordEncoder:
    """Encodes sentences with one tokenizer."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._specials = special_strings(tokenizer)

    def encode(self, words: Sequence[str]) -> WordTokens:
        """Raises ModelError for a word that the tokenizer cannot spell, if it has no unknown token."""
        spelled = [neutralised(word, self._specials) for word in words]
        ends: list[int] = []  # of each word, as a position in the text
        for word in spelled:
            ends.append(len(word) + (ends[-1] + 1 if ends else 0))
        plain = encode_plain(self._tokenizer, " ".join(spelled))
        # The space before a word belongs to that word: its last character comes after the end of the previous word.
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
