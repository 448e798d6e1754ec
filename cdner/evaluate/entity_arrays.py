"""Gold and predicted entities of many sentences side by side as arrays, so that numpy counts them.

Exists for speed alone: loops over Counters take ten times as long. Knows no score and no error.

Conventions: n entities have one row each, sentence by sentence; a position is ``sentence * stride`` + the token, so
that entities of different sentences never touch; types are indices into the label set, K of them. Keys stay below
2**63 up to a million sentences of ten thousand tokens with 90,000 types.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import getitem
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cdner.types import Entity, Prediction, Sentence

Metric = Literal["strict", "span", "mention_multiset", "mention_set"]
CountArray = NDArray[np.int64]
_MIXER = np.uint64(0x9E3779B97F4A7C15)  # 2**64 / golden ratio, odd: spreads near keys over the highest bits


@dataclass(frozen=True, slots=True, eq=False)
class EntityArrays:
    """Entities, each array (n,)."""

    start: CountArray  # positions
    end: CountArray
    type_index: CountArray  # in [0, K)


@dataclass(frozen=True, slots=True, eq=False)
class PairedEntities:
    gold: EntityArrays
    predicted: EntityArrays
    tokens: Sequence[tuple[str, ...]]  # of each sentence
    stride: int  # above every end inside a sentence
    n_types: int


@dataclass(frozen=True, slots=True, eq=False)
class CountedItems:
    """The things a metric compares, each distinct one of a sentence once; arrays (m,).

    Where several entities make one item (the same mention twice), start, end and type are those of one of them.
    """

    start: CountArray
    end: CountArray
    type_index: CountArray
    n_gold: CountArray
    n_predicted: CountArray

    def summed_by(self, group: CountArray, n_groups: int) -> CountArray:
        """(n_groups, 3): gold, predicted and correct items of every group; ``group`` is (m,)."""
        n_correct = np.minimum(self.n_gold, self.n_predicted)
        columns = [_sums(group, counts, n_groups) for counts in (self.n_gold, self.n_predicted, n_correct)]
        return np.stack(columns, axis=1)


def pair_entities(
    gold: Sequence[Sentence], predictions: Sequence[Prediction], types: Sequence[str]
) -> PairedEntities:
    """Both sides of the same sentences as arrays. KeyError for a type outside ``types``."""
    index = {name: position for position, name in enumerate(types)}
    sides = [
        _inside(found, index) for found in ([s.entities for s in gold], [p.entities for p in predictions])
    ]
    stride = 1 + max(int(end.max(initial=0)) for _, _, end, _ in sides)
    of_gold, of_predictions = (
        EntityArrays(sentence * stride + start, sentence * stride + end, type_index)
        for sentence, start, end, type_index in sides
    )
    return PairedEntities(of_gold, of_predictions, [s.tokens for s in gold], stride, len(types))


def items_by_metric(pair: PairedEntities) -> dict[Metric, CountedItems]:
    """How often gold and predictions hold each thing that each metric compares."""
    strict = _typed_spans(pair)
    mentions = _merged(strict, _mentions(strict, pair))
    return {
        "strict": strict,
        "span": _merged(strict, strict.start * pair.stride + strict.end % pair.stride),
        "mention_multiset": mentions,
        "mention_set": CountedItems(
            mentions.start,
            mentions.end,
            mentions.type_index,
            np.minimum(mentions.n_gold, 1),
            np.minimum(mentions.n_predicted, 1),
        ),
    }


def predicted_on_gold_spans(pair: PairedEntities) -> CountArray:
    """(n_gold,): the type predicted on exactly the gold entity's span, -1 where none is."""
    gold, predicted = (
        side.start * pair.stride + side.end % pair.stride for side in (pair.gold, pair.predicted)
    )
    if not len(predicted):
        return np.full(len(gold), -1, dtype=np.int64)
    order = np.argsort(predicted, kind="stable")
    place = order[np.searchsorted(predicted, gold, side="right", sorter=order) - 1]
    return np.where(predicted[place] == gold, pair.predicted.type_index[place], -1)


def touching(entities: EntityArrays, others: EntityArrays) -> NDArray[np.bool_]:
    """(n,): whether an entity shares a token with any of the others."""
    order = np.argsort(others.start, kind="stable")
    n_starting_before = np.searchsorted(others.start, entities.end, side="left", sorter=order)
    reached = np.concatenate([[0], np.maximum.accumulate(others.end[order])])
    touched: NDArray[np.bool_] = reached[n_starting_before] > entities.start
    return touched


def _inside(
    found: Sequence[Sequence[Entity]], index: Mapping[str, int]
) -> tuple[CountArray, CountArray, CountArray, CountArray]:
    """Sentence, start and end inside it, and type of all entities. Lists: faster here than generators."""
    entities = [entity for of_sentence in found for entity in of_sentence]
    n = len(entities)
    return (
        np.repeat(np.arange(len(found)), np.fromiter(map(len, found), np.int64, len(found))),
        np.fromiter([entity.start for entity in entities], np.int64, n),
        np.fromiter([entity.end for entity in entities], np.int64, n),
        np.fromiter([index[entity.type] for entity in entities], np.int64, n),
    )


def _typed_spans(pair: PairedEntities) -> CountedItems:
    """The items of the strict metric, in text order; all other metrics' items are made of these."""
    sides = pair.gold, pair.predicted
    start, end, type_index = (
        np.concatenate([getattr(side, name) for side in sides]) for name in ("start", "end", "type_index")
    )
    is_gold = np.repeat([1, 0], [len(side.start) for side in sides])
    keys = (start * pair.stride + end % pair.stride) * pair.n_types + type_index
    return _merged(CountedItems(start, end, type_index, is_gold, 1 - is_gold), keys)


def _merged(items: CountedItems, keys: CountArray) -> CountedItems:
    """Items of the same key become one."""
    _, first, place = np.unique(keys, return_index=True, return_inverse=True)
    return CountedItems(
        items.start[first],
        items.end[first],
        items.type_index[first],
        _sums(place, items.n_gold, len(first)),
        _sums(place, items.n_predicted, len(first)),
    )


def _mentions(items: CountedItems, pair: PairedEntities) -> CountArray:
    """(m,): the same number for items of the same sentence, type and tokens.

    Whole mentions are compared only where sentence, type, length and the hash of the first token seem the same.
    """
    sentence, first = np.divmod(items.start, pair.stride)
    length, tokens = items.end - items.start, pair.tokens
    keys = ((sentence * pair.n_types + items.type_index) * pair.stride + length).view(np.uint64)
    alike = _perhaps_shared(keys)
    first_tokens = map(getitem, map(tokens.__getitem__, sentence[alike].tolist()), first[alike].tolist())
    hashes = np.fromiter(map(hash, first_tokens), np.int64, len(alike))
    alike = alike[_perhaps_shared(hashes.view(np.uint64) ^ keys[alike] * _MIXER)]
    columns = (keys[alike], sentence[alike], first[alike], (first + length)[alike], alike)
    seen: dict[tuple[int, tuple[str, ...]], int] = {}
    mention = np.arange(len(items.start))
    mention[alike] = [
        seen.setdefault((key, tokens[s][a:b]), item)
        for key, s, a, b, item in zip(*(column.tolist() for column in columns), strict=True)
    ]
    return mention


def _perhaps_shared(keys: NDArray[np.uint64]) -> CountArray:
    """Indices of all keys that occur more than once, and of a few that do not: other keys fell into their buckets."""
    chosen = np.arange(len(keys))
    for _ in range(2):
        keys = keys * _MIXER
        n_bits = 1 + len(keys).bit_length()
        buckets = (keys >> np.uint64(64 - n_bits)).view(np.int64)
        kept = np.flatnonzero(np.bincount(buckets)[buckets] > 1)
        chosen, keys = chosen[kept], keys[kept]
    return chosen


def _sums(group: CountArray, counts: CountArray, n_groups: int) -> CountArray:
    return np.bincount(group, weights=counts, minlength=n_groups).astype(np.int64)  # exact: far below 2**53
