"""Attention over a batch of rows of different lengths that share one prefix.

Exists for generation with decoder-only models, where every prompt begins with the same thousands of tokens. Their keys
and values are computed and stored once, and one matrix product serves all rows, so that a step reads them once and not
once per row. Rows are right-padded and have their own lengths; a finished row is removed. The function is registered
with transformers, so any model of the Llama kind works unchanged.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from cdner.models.unpadded import Rows

RAGGED = "cdner_ragged"
_MAX_SCORES = 1 << 25  # attention scores held at once: 128 MB in fp32


@dataclass(slots=True)
class RaggedCache:
    """Keys and values per layer.

    ``prefix[layer]`` is a pair (n_key_value_heads, prefix length, head size) shared by all rows;
    ``own[layer]`` a pair (rows, n_key_value_heads, capacity, head size): of row r the first ``lengths[r]``
    positions are valid.
    """

    capacity: int  # positions per row beyond the prefix
    lengths: Tensor  # (rows,)
    prefix: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    own: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    # Only if the new tokens of each row form a tree. They then stand in one row without padding:
    rows: Rows | None = None  # which row each token belongs to
    sees: Tensor | None = (
        None  # (rows, longest, longest) bool: which new tokens of its row a token attends to
    )

    @property
    def n_prefix(self) -> int:
        return self.prefix[0][0].shape[1] if self.prefix else 0

    def append(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Store (rows, heads, n_new, head size) after each row's valid positions; return all positions in use.

        The lengths change only in ``advance``, after every layer has stored its part.
        """
        rows, heads, n_new, size = key.shape
        if self.sees is not None:
            return self._append_trees(layer, key, value)
        if layer == len(self.own):
            shape = (rows, heads, self.capacity, size)
            self.own.append((key.new_zeros(shape), value.new_zeros(shape)))
        keys, values = self.own[layer]
        if n_new == 1:
            row = torch.arange(rows, device=key.device)
            place = self.lengths.clamp(max=self.capacity - 1)  # a full row is finished and not yet removed
            keys[row, :, place] = key[:, :, 0]
            values[row, :, place] = value[:, :, 0]
            in_use = int(place.max()) + 1
        else:  # a prompt: rows start at 0, right padding is overwritten by later tokens
            keys[:, :, :n_new], values[:, :, :n_new] = key, value
            in_use = n_new
        return keys[:, :, :in_use], values[:, :, :in_use]

    def _append_trees(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Store nodes after each row's valid positions; the capacity must leave room for the longest tree."""
        if layer == len(self.own):
            shape = (*key.shape[:2], self.capacity, key.shape[3])
            self.own.append((key.new_zeros(shape), value.new_zeros(shape)))
        keys, values = self.own[layer]
        row = torch.arange(key.shape[0], device=key.device)[:, None]
        place = self.lengths[:, None] + torch.arange(key.shape[2], device=key.device)[None, :]
        keys[row, :, place] = key.transpose(1, 2)
        values[row, :, place] = value.transpose(1, 2)
        in_use = int(self.lengths.max()) + key.shape[2]
        return keys[:, :, :in_use], values[:, :, :in_use]

    def widened(self, by: int) -> RaggedCache:
        """A copy with room for ``by`` more positions after the longest row."""
        capacity = int(self.lengths.max()) + by
        own = []
        for pair in self.own:
            key, value = (tensor.new_zeros((*tensor.shape[:2], capacity, tensor.shape[3])) for tensor in pair)
            n = min(capacity, pair[0].shape[2])
            key[:, :, :n], value[:, :, :n] = pair[0][:, :, :n], pair[1][:, :, :n]
            own.append((key, value))
        return RaggedCache(capacity, self.lengths, self.prefix, own)

    def advance(self, by: Tensor) -> None:
        """Add (rows,) tokens to the lengths. A full row stays full."""
        self.lengths = (self.lengths + by).clamp(max=self.capacity)

    def keep(self, rows: Tensor) -> None:
        """Remove all rows except these (indices in order)."""
        self.lengths = self.lengths[rows]
        self.own = [(key[rows], value[rows]) for key, value in self.own]

    def replace(self, places: Tensor, other: RaggedCache) -> None:
        """Replace rows by the rows of ``other``, which has the same prefix and at most this capacity."""
        self.lengths = self.lengths.index_copy(0, places, other.lengths)
        for mine, theirs in zip(self.own, other.own, strict=True):
            for kept, new in zip(mine, theirs, strict=True):
                kept[places, :, : new.shape[2]] = new

    def as_prefix(self) -> list[tuple[Tensor, Tensor]]:
        """The one row of this cache as a prefix for other caches."""
        n = int(self.lengths[0])
        return [(key[0, :, :n].contiguous(), value[0, :, :n].contiguous()) for key, value in self.own]


def register() -> None:
    """Register ``RAGGED`` with transformers. Can be called again."""
    from transformers import AttentionInterface

    AttentionInterface.register(RAGGED, ragged_attention)


def ragged_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    _attention_mask: Tensor | None,
    scaling: float | None = None,
    *,
    ragged: RaggedCache,
    **_unused: object,
) -> tuple[Tensor, None]:
    """(rows, n_new, heads, head size) outputs. The cache determines which positions a row attends to, not a mask."""
    if ragged.rows is not None:
        query, key, value = (ragged.rows.spread(part) for part in (query, key, value))
    keys, values = ragged.append(module.layer_idx, key, value)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    n_new = query.shape[2]
    if n_new > 1 and not ragged.prefix and ragged.sees is None:
        groups = query.shape[1] // keys.shape[1]
        out = torch.nn.functional.scaled_dot_product_attention(
            query,
            keys.repeat_interleave(groups, dim=1),
            values.repeat_interleave(groups, dim=1),
            is_causal=True,
            scale=scale,
        )
        return out.transpose(1, 2), None
    visible = (
        _visible(ragged.lengths, n_new, keys.shape[2])
        if ragged.sees is None
        else _of_trees(ragged.lengths, ragged.sees, keys.shape[2])
    )
    per_row = query.shape[1] * n_new * (ragged.n_prefix + keys.shape[2])
    step = max(1, _MAX_SCORES // per_row)
    shared = ragged.prefix[module.layer_idx] if ragged.prefix else None
    parts = [
        _attend(
            query[i : i + step] * scale,
            keys[i : i + step],
            values[i : i + step],
            visible[i : i + step],
            shared,
        )
        for i in range(0, query.shape[0], step)
    ]
    found = torch.cat(parts)
    return (found.transpose(1, 2) if ragged.rows is None else ragged.rows.gather(found)), None


def _of_trees(lengths: Tensor, sees: Tensor, in_use: int) -> Tensor:
    """(rows, n_new, in_use) bool: all earlier positions, and the new ones that the tree allows."""
    n_new = sees.shape[1]
    place = torch.arange(in_use, device=lengths.device)[None, :] - lengths[:, None]
    new = sees.gather(2, place.clamp(0, n_new - 1)[:, None, :].expand(-1, n_new, -1))
    return torch.where((place < 0)[:, None, :], True, new & (place < n_new)[:, None, :])


def _visible(lengths: Tensor, n_new: int, in_use: int) -> Tensor:
    """(rows, n_new, in_use) bool: new token q of row r has position lengths[r] + q and attends up to it."""
    position = torch.arange(in_use, device=lengths.device)
    reach = lengths[:, None] + torch.arange(n_new, device=lengths.device)[None, :]
    return position[None, None, :] <= reach[:, :, None]


def _attend(
    query: Tensor, keys: Tensor, values: Tensor, visible: Tensor, shared: tuple[Tensor, Tensor] | None
) -> Tensor:
    """One softmax over the shared positions and the row's own. Grouped query heads share one product."""
    rows, heads, n_new, size = query.shape
    kv_heads, in_use = keys.shape[1], keys.shape[2]
    folded = query.reshape(rows, kv_heads, -1, size)
    own = (folded @ keys.transpose(2, 3)).float().view(rows, kv_heads, -1, n_new, in_use)
    own = own.masked_fill(~visible[:, None, None], float("-inf")).view(rows, kv_heads, -1, in_use)
    if shared is None:
        return (own.softmax(-1).to(values.dtype) @ values).reshape(rows, heads, n_new, size)
    prefix_keys, prefix_values = shared
    n_prefix = prefix_keys.shape[1]
    together = folded.transpose(0, 1).reshape(kv_heads, -1, size)
    before = (
        (together @ prefix_keys.transpose(1, 2)).float().view(kv_heads, rows, -1, n_prefix).transpose(0, 1)
    )
    weights = torch.cat((before, own), dim=-1).softmax(-1).to(values.dtype)
    over_prefix = weights[..., :n_prefix].transpose(0, 1).reshape(kv_heads, -1, n_prefix) @ prefix_values
    out = over_prefix.view(kv_heads, rows, -1, size).transpose(0, 1) + weights[..., n_prefix:] @ values
    return out.reshape(rows, heads, n_new, size)
