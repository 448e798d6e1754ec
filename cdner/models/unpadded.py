"""Rows of different lengths through a T5 without padding: their tokens stand in one row, one behind the other.

Exists because a batch padded to its longest row computes a fifth more than it holds, and half more where it is not
sorted by length. Every layer but attention works token by token and needs no change; attention alone spreads the
tokens over (rows, longest) and gathers what it found. Right only where positions are relative, a bias
of the distance alone. Plugs into transformers' attention registry; knows no losses.
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
    """Where the tokens of consecutive rows belong."""

    slots: Tensor  # (tokens,): index of each token in rows x longest
    real: Tensor  # (rows, longest) bool: the slots that hold one

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device) -> Rows:
        position = torch.arange(max(lengths), device=device)
        real = position[None, :] < torch.tensor(lengths, device=device)[:, None]
        return cls(real.flatten().nonzero()[:, 0], real)

    def spread(self, tokens: Tensor) -> Tensor:
        """(1, heads, tokens, size) to (rows, heads, longest, size), zeros where no token is."""
        heads, n, size = tokens.shape[1:]
        whole = self.padded(tokens[0].transpose(0, 1).reshape(n, -1))
        return whole.view(*self.real.shape, heads, size).transpose(1, 2)

    def padded(self, tokens: Tensor) -> Tensor:
        """(tokens, size) to (rows, longest, size), zeros where no token is."""
        whole = tokens.new_zeros(self.real.numel(), tokens.shape[1])
        return whole.index_copy(0, self.slots, tokens).view(*self.real.shape, -1)

    def gather(self, whole: Tensor) -> Tensor:
        """(rows, heads, longest, size) to (1, tokens, heads, size), as attention gives it back."""
        flat = whole.transpose(1, 2).flatten(0, 1)
        return flat.index_select(0, self.slots)[None]


@dataclass(frozen=True, slots=True)
class Layout:
    source: Rows
    target: Rows
    # Where target rows are trees: (rows, longest, longest) bool, what each token sees of its row, and
    # (rows, longest) its place in the text that it belongs to. None: a token sees itself and what stands before it.
    sees: Tensor | None = None
    depths: Tensor | None = None


def register() -> None:
    """Make transformers know this attention. Idempotent."""
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
    """(1, tokens, heads, head size). A token sees its own row: all of it, or up to itself where causal."""
    asking = layout.target if module.is_decoder else layout.source
    crossing = module.is_decoder and not module.is_causal
    asked = layout.source if crossing else asking
    mask = asked.real[:, None, None, :]
    if not crossing:  # across, T5 has no bias
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
    """Let ``model`` read single rows laid out so; pass ``layout`` on to its forward call too."""
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
    """The module's own bias, for the longest row instead of for all tokens of all rows; of a tree by its depths."""
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
