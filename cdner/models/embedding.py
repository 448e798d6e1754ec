"""Means of hidden states: texts, sentences, and spans of words as vectors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from torch import Tensor

from cdner.models.inputs import WordTokens
from cdner.types import FloatArray

Spans = Sequence[tuple[int, int]]  # (start, end) of words, end exclusive


def mean(hidden: Tensor) -> FloatArray:
    """(d,) in float64 from (tokens, d); zeros for no tokens."""
    summed: FloatArray = hidden.double().sum(0).cpu().numpy()
    return summed / max(1, len(hidden))


def stacked(rows: Sequence[FloatArray], *, size: int) -> FloatArray:
    """(n, size), also for no rows."""
    return np.stack(rows) if rows else np.zeros((0, size))


def span_means(
    words: Sequence[WordTokens], hidden: Iterable[Tensor], spans: Sequence[Spans], *, size: int
) -> tuple[FloatArray, FloatArray]:
    """(n_spans, size) and (n_sentences, size), see ``cdner.types.Encoder.embed_spans``.

    ``hidden``: for each sentence the (tokens, size) last hidden states of its tokens, special tokens left out.
    """
    of_spans: list[FloatArray] = []
    of_sentences: list[FloatArray] = []
    for tokens, states, wanted in zip(words, hidden, spans, strict=True):
        of_sentences.append(mean(states))
        of_spans += [mean(states[tokens.places(start, end)]) for start, end in wanted]
    return stacked(of_spans, size=size), stacked(of_sentences, size=size)
