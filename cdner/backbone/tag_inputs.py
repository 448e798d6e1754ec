"""A tagger's input: the sentence, and behind a separator the text that is read beside it. Knows no weights.

Where special tokens stand (``[CLS] a [SEP] b [SEP]``, ``<s> a </s></s> b </s>``) is read off the tokenizer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from cdner.backbone.inputs import LONGEST_RELATIVE, SEPARATOR, Budget, InputEncoder
from cdner.backbone.words import WordEncoder
from cdner.errors import InputTooLongError
from cdner.types import ModelInput, Sentence

_Part = tuple[tuple[int, int], ...]  # (id, token type) of each special token


@dataclass(frozen=True, slots=True)
class TaggerInput:
    ids: tuple[int, ...]
    positions: tuple[int, ...]  # where each word begins, or where each token of a piece stands
    token_types: tuple[int, ...]
    n_truncated: int


@dataclass(frozen=True, slots=True)
class _Frame:
    """Special tokens around one segment, or around and between two; token types of the segments."""

    before: _Part
    between: _Part
    after: _Part
    types: tuple[int, int]

    @property
    def n_tokens(self) -> int:
        return len(self.before) + len(self.between) + len(self.after)

    def around(self, first: Sequence[int], second: Sequence[int] = ()) -> tuple[tuple[int, int], ...]:
        own, others = (
            [(token, kind) for token in ids] for ids, kind in zip((first, second), self.types, strict=True)
        )
        return (*self.before, *own, *self.between, *others, *self.after)


class TaggerInputs:
    """Encodes the inputs of one model."""

    def __init__(self, tokenizer: Any, model: Any) -> None:
        self._texts = InputEncoder(tokenizer)
        self._words = WordEncoder(tokenizer)
        self.has_token_types = "token_type_ids" in tokenizer.model_input_names
        self._alone = _frame(tokenizer, "a")
        self._pair = _frame(tokenizer, "a", "a")
        if not self._pair.between:
            line = tuple((token, 0) for token in self._texts.encode_text(SEPARATOR))
            self._pair = _Frame(self._pair.before, line, self._pair.after, self._pair.types)
        self.window = _window(tokenizer, model)

    def encode(self, sentence: Sentence, text: ModelInput, *, soft: int | None, index: int) -> TaggerInput:
        """The sentence whole, and as much of ``text`` as fits into the window and ``soft`` tokens.

        InputTooLongError names ``index`` where the sentence alone is longer than the window.
        """
        words = self._words.encode(sentence.tokens)
        n_alone = len(words.ids) + self._alone.n_tokens
        if n_alone > self.window:
            raise InputTooLongError(
                f"Sentence {index} has {n_alone} tokens, the model takes {self.window}. "
                "Split it, or choose a model with a longer window.",
                n_tokens=n_alone,
            )
        limit = self.window if soft is None else min(self.window, soft)
        room = max(0, limit - len(words.ids) - self._pair.n_tokens)
        kept = self._texts.encode(text, Budget(soft=room), index=index)
        frame = self._pair if kept.ids else self._alone
        ids, token_types = zip(*frame.around(words.ids, kept.ids), strict=True)
        positions = tuple(len(frame.before) + place for place in words.first)
        return TaggerInput(ids, positions, token_types, kept.n_truncated)

    def pieces(self, ids: Sequence[int]) -> Iterator[TaggerInput]:
        """Consecutive pieces of a text that fit into the window, each with its special tokens around it."""
        room, skipped = self.window - self._alone.n_tokens, len(self._alone.before)
        for start in range(0, len(ids), room):
            own = ids[start : start + room]
            framed, token_types = zip(*self._alone.around(own), strict=True)
            yield TaggerInput(framed, tuple(range(skipped, skipped + len(own))), token_types, 0)


def _frame(tokenizer: Any, *segments: str) -> _Frame:
    """What the tokenizer adds to one or two segments."""
    told = tokenizer(*segments, return_special_tokens_mask=True, return_token_type_ids=True)
    tokens = list(zip(told["input_ids"], told["token_type_ids"], strict=True))
    own = [place for place, special in enumerate(told["special_tokens_mask"]) if not special]
    inner = range(own[0], own[-1] + 1)
    return _Frame(
        before=tuple(tokens[: own[0]]),
        between=tuple(tokens[place] for place in inner if place not in own),
        after=tuple(tokens[own[-1] + 1 :]),
        types=(tokens[own[0]][1], tokens[own[-1]][1]),
    )


def _window(tokenizer: Any, model: Any) -> int:
    """Most tokens of an input, special ones counted: by config, by tokenizer and by the table of positions.

    Models of the RoBERTa kind count positions from behind the padding's, so that their table is longer than that.
    """
    limits = [LONGEST_RELATIVE, int(tokenizer.model_max_length)]
    limits.append(getattr(model.config, "max_position_embeddings", None) or LONGEST_RELATIVE)
    for name, module in model.base_model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, torch.nn.Embedding):
            skipped = 0 if module.padding_idx is None else module.padding_idx + 1
            limits.append(module.num_embeddings - skipped)
    return min(limits)
