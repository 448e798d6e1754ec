"""A seeded subset of a corpus, the same on every machine and with every Python version.

Exists because an experiment on a small machine trains on part of a large corpus, and that part is
identified by a seed alone. Does not know labels: the subset is of sentences, uniformly.
"""

from __future__ import annotations

import hashlib

from cdner.errors import UsageError
from cdner.types import Corpus


def sampled_positions(corpus: Corpus, n_sentences: int, *, seed: int) -> list[int]:
    """Ascending positions of ``n_sentences`` of the corpus; 0 means all.

    Sentences are ranked by a hash of (seed, position), so with one seed a smaller sample lies within a
    larger. UsageError when n is negative or more than there are.
    """
    n_present = len(corpus.sentences)
    if not 0 <= n_sentences <= n_present:
        raise UsageError(
            f"Cannot take {n_sentences} sentences of {corpus.domain} {corpus.split}:"
            f" it has {n_present} (0 means all of them)."
        )
    if n_sentences in (0, n_present):
        return list(range(n_present))
    ranked = sorted(range(n_present), key=lambda position: _rank(seed, position))
    return sorted(ranked[:n_sentences])


def _rank(seed: int, position: int) -> bytes:
    return hashlib.sha256(f"{seed}:{position}".encode()).digest()
