"""T5 without padding: the tokens of all rows of a batch stand in one row.

A batch padded to its longest row computes 20 % more tokens than it has, and 50 % more if it is not sorted by length.
All layers except attention work token by token and need no change. Attention spreads the tokens over (rows, longest)
and gathers the results; it is registered with transformers. This is correct only for relative positions, where the bias
depends on the distance alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

UNPADDED = "cdner_unpadded"
MODEL_TYPES = frozenset({"t5", "mt5"})  # one attention in transformers: relative, with ``compute_bias``


@dataclass(frozen=True, slots=True)
class Rows:
    """Which row each token belongs to."""

    slots: Tensor  # (tokens,): index of each token in rows x longest
    real: Tensor  # (rows, longest) bool: the slots that hold a token

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device) -> Rows:
        position = torch.arange(max(lengths), device=device)
        real = position[None, :] < torch.tensor(lengths, device=device)[:, None]
        return cls(real.flatten().nonzero()[:, 0], real)

    def spread(self, tokens: Tensor) -> Tensor:
        """(1, heads, tokens, size) to (rows, heads, longest, size), zeros in slots without a token."""
        heads, n, size = tokens.shape[1:]
        whole = self.padded(tokens[0].transpose(0, 1).reshape(n, -1))
        return whole.view(*self.real.shape, heads, size).transpose(1, 2)

    def padded(self, tokens: Tensor) -> Tensor:
        """(tokens, size) to (rows, longest, size), zeros in slots without a token."""
        whole = tokens.new_zeros(self.real.numel(), tokens.shape[1])
        return whole.index_copy(0, self.slots, tokens).view(*self.real.shape, -1)

    def gather(self, whole: Tensor) -> Tensor:
        """(rows, heads, longest, size) to (1, tokens, heads, size), the shape that attention returns."""
        flat = whole.transpose(1, 2).flatten(0, 1)
        return flat.index_select(0, self.slots)[None]


@dataclass(frozen=True, slots=True)
class Layout:
    source: Rows
    target: Rows
    # If the target rows are trees: (rows, longest, longest) bool, the tokens of its row that each token attends to, and
    # (rows, longest) the position of each token in its text. None: a token attends to itself and to all before it.
    sees: Tensor | None = None
    depths: Tensor | None = None


def register() -> None:
    """Register ``UNPADDED`` with transformers. Can be called again."""
    from transformers import AttentionInterface

    AttentionInterface.register(UNPADDED, unpadded_attention)


def unpadded_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    _attention_mask: Tensor | None,
    *,
    layout: Layout,
    scaling: float,
    dropout: float = 0.0,
    position_bias: Tensor,
    **_unused: object,
) -> tuple[Tensor, None]:
    """(1, tokens, heads, head size). A token attends to its row; if causal, up to itself."""
    asking = layout.target if module.is_decoder else layout.source
    crossing = module.is_decoder and not module.is_causal
    asked = layout.source if crossing else asking
    mask = asked.real[:, None, None, :]
    if not crossing:  # T5's cross-attention has no bias
        longest = asked.real.shape[1]
        if module.is_causal and layout.sees is not None:
            mask = mask & layout.sees[:, None]
        elif module.is_causal:
            mask = mask & torch.ones(longest, longest, dtype=torch.bool, device=mask.device).tril()
        mask = torch.where(mask, position_bias, torch.finfo(query.dtype).min)
    found = torch.nn.functional.scaled_dot_product_attention(
        asking.spread(query),
        asked.spread(key),
        asked.spread(value),
        attn_mask=mask,
        dropout_p=dropout,
        scale=scaling,
    )
    return asking.gather(found), None


@contextlib.contextmanager
def unpadded(model: Any, layout: Layout) -> Iterator[None]:
    """Let ``model`` read rows of this layout; pass ``layout`` to its forward call too."""
    stacks = model.get_encoder(), model.get_decoder()
    usual = [stack.config._attn_implementation for stack in stacks]
    biased = [module for module in model.modules() if getattr(module, "has_relative_attention_bias", False)]
    for stack in stacks:
        stack.config._attn_implementation = UNPADDED
    for module in biased:
        module.compute_bias = _bias_of_longest(module, layout)
    try:
        yield
    finally:
        for stack, name in zip(stacks, usual, strict=True):
            stack.config._attn_implementation = name
        for module in biased:
            del module.compute_bias


def _bias_of_longest(module: Any, layout: Layout) -> Any:
    """The module's bias for the longest row instead of for all tokens of all rows; for trees, by depth."""
    depths = layout.depths if module.is_decoder else None
    longest = (layout.target if module.is_decoder else layout.source).real.shape[1]
    if depths is not None:
        longest = int(depths.max()) + 1
    usual = module.compute_bias

    def compute_bias(_queries: int, _keys: int, device: Any = None, past_seen_tokens: int = 0) -> Tensor:
        found: Tensor = usual(longest, longest, device=device, past_seen_tokens=past_seen_tokens)
        if depths is not None:  # (1, heads, longest, longest) to one of each row
            found = found[0][:, depths[:, :, None], depths[:, None, :]].transpose(0, 1)
        return found

    return compute_bias
