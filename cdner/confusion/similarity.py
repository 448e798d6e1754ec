"""Confusion from semantic similarity (3.2.2, eq. 8): types whose descriptions lie close in M_src's space.

Knows vectors only; the descriptions and the encoder that made the vectors are somebody else's.
"""

from __future__ import annotations

import numpy as np

from cdner.errors import InputError
from cdner.types import ConfusionMatrix, FloatArray


def u_sim(embeddings: FloatArray, *, types: tuple[str, ...]) -> ConfusionMatrix:
    """Eq. 8: cosine of every two rows of ``embeddings`` (K, d). (K, K), symmetric, in [-1, 1], diagonal 0.

    A zero vector has no direction: its cosine with anything is defined as 0. InputError for a wrong shape or
    values that are not finite.
    """
    if embeddings.ndim != 2 or len(embeddings) != len(types):
        raise InputError(
            f"Description embeddings have shape {embeddings.shape}, expected ({len(types)}, d): embed again."
        )
    if not np.isfinite(embeddings).all():
        raise InputError(
            "Description embeddings hold NaN or infinity: embed again with dtype float32 or bfloat16."
        )
    scores = _cosines(embeddings.astype(np.float64))
    np.fill_diagonal(scores, 0.0)
    return ConfusionMatrix("u_sim", types, scores)


def _cosines(vectors: FloatArray) -> FloatArray:
    # Rows are scaled by their largest entry first: squares of huge or tiny values would leave the range.
    largest = np.abs(vectors).max(axis=1, initial=0.0)[:, None]
    scaled = vectors / np.where(largest > 0, largest, 1.0)
    norms = np.linalg.norm(scaled, axis=1)[:, None]
    units = scaled / np.where(norms > 0, norms, 1.0)
    cosines = np.clip(units @ units.T, -1.0, 1.0)
    symmetric: FloatArray = (cosines + cosines.T) / 2  # BLAS need not sum both halves in one order
    return symmetric
