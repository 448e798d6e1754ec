"""A seeded subset of a corpus, the same on every machine and with every Python version.

Exists because an experiment on a small machine trains on part of a large corpus, or on K shots of it, and that
part is identified by its size, its unit and a seed alone.
"""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import cast

from cdner.errors import UsageError
from cdner.files import Json
from cdner.types import Corpus


def chosen_positions(corpus: Corpus, sample: Json) -> list[int]:
    """Ascending positions of a sample as run settings name it: a number of sentences (0 = all, seed 0), or
    ``{"n": ..., "seed": ...}``, or ``{"shots": K, "unit": "mention" | "sentence", "seed": ...}``.
    """
    by_size = positions_by_size(len(corpus.sentences), sample, name=_name(corpus))
    if by_size is not None:
        return list(by_size)
    asked = cast(Mapping[str, int], sample)
    return shot_positions(corpus, asked["shots"], seed=asked["seed"])


def positions_by_size(n_present: int, sample: Json, *, name: str) -> Sequence[int] | None:
    """As ``chosen_positions``, where the number of a corpus's sentences is enough to tell: None for shots of mentions.

    ``name`` is the corpus's in errors.
    """
    if isinstance(sample, int):
        return _sampled(n_present, sample, seed=0, name=name)
    asked = cast(Mapping[str, int], sample)
    if "shots" not in asked:
        return _sampled(n_present, asked["n"], seed=asked["seed"], name=name)
    if cast(Mapping[str, str], sample)["unit"] == "sentence":
        return _sampled(n_present, asked["shots"], seed=asked["seed"], name=name)
    return None


def shot_positions(corpus: Corpus, shots: int, *, seed: int) -> list[int]:
    """Ascending positions of sentences that hold at least ``shots`` mentions of every type, or all there are.

    Greedy sampling (Yang and Katiyar 2020): types from rare to frequent, each filled up with sentences that mention
    it, in the order of the seed's ranking; what a sentence holds of other types counts for them. Sentences that no
    type needs in the end are dropped again, as in minimum-including support sets (Hou et al. 2020). A type may end
    with more than ``shots`` mentions, since sentences come whole. UsageError when ``shots`` is below 1.
    """
    if shots < 1:
        raise UsageError(f"Cannot take {shots} shots of {corpus.domain} {corpus.split}: at least 1.")
    mentioned = [Counter(entity.type for entity in sentence.entities) for sentence in corpus.sentences]
    available = sum(mentioned, Counter[str]())
    ranked = sorted(range(len(mentioned)), key=lambda position: _rank(seed, position))
    chosen: set[int] = set()
    n_chosen: Counter[str] = Counter()
    for entity_type in sorted(available, key=lambda name: (available[name], name)):
        for position in ranked:
            if n_chosen[entity_type] >= shots:
                break
            if position not in chosen and mentioned[position][entity_type]:
                chosen.add(position)
                n_chosen += mentioned[position]
    for position in ranked:
        spared = mentioned[position]
        if position in chosen and all(n_chosen[name] - spared[name] >= shots for name in spared):
            chosen.remove(position)
            n_chosen -= spared
    return sorted(chosen)


def sampled_positions(corpus: Corpus, n_sentences: int, *, seed: int) -> list[int]:
    """Ascending positions of ``n_sentences`` of the corpus; 0 means all.

    Sentences are ranked by a hash of (seed, position), so with one seed a smaller sample lies within a
    larger. UsageError when n is negative or more than there are.
    """
    return list(_sampled(len(corpus.sentences), n_sentences, seed=seed, name=_name(corpus)))


def _sampled(n_present: int, n_sentences: int, *, seed: int, name: str) -> Sequence[int]:
    if not 0 <= n_sentences <= n_present:
        raise UsageError(
            f"Cannot take {n_sentences} sentences of {name}: it has {n_present} (0 means all of them)."
        )
    if n_sentences in (0, n_present):
        return range(n_present)
    return sorted(heapq.nsmallest(n_sentences, range(n_present), key=lambda position: _rank(seed, position)))


def _name(corpus: Corpus) -> str:
    return f"{corpus.domain} {corpus.split}"


def _rank(seed: int, position: int) -> bytes:
    return hashlib.sha256(f"{seed}:{position}".encode()).digest()
