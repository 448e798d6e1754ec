"""Log-probabilities of given tokens behind many prompts of one causal model: one pass each, nothing is generated.

Exists for questions with given answers, asked by the thousand. The prompts' common beginning is computed once; their
own parts stand in one row without padding, and so do the first tokens of answers that begin alike, as branches behind
their prompt. Attention alone goes prompt by prompt. Of the last layer's outputs only those that are asked for meet the
output matrix, in float32: bf16 has steps of an eighth among logits of 16 to 32. Plugs into transformers' attention
registry.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

PACKED = "cdner_packed"
Path = tuple[int, ...]  # tokens behind a prompt
Asked = Mapping[Path, Sequence[int]]  # path -> ids of the tokens that may come next
Found = dict[Path, dict[int, float]]  # the same with natural logarithms of probabilities
SharedPrefix = list[
    tuple[Tensor, Tensor]
]  # a layer's keys and values: (key-value heads, tokens, head size) each
_VOCABULARY_STEP = (
    1 << 14
)  # rows of the output matrix that are float32 at a time: 100 MB for 1,536 dimensions


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt's own tokens, behind what all share, and what is asked behind it."""

    own: tuple[int, ...]  # at least one
    asked: Asked

    @property
    def nodes(self) -> list[Path]:
        """Every path that must be read to reach what is asked, without the prompt itself; shorter ones first."""
        found = {path[:n] for path in self.asked for n in range(1, len(path) + 1)}
        return sorted(found, key=lambda path: (len(path), path))

    @property
    def n_tokens(self) -> int:
        return len(self.own) + len(self.nodes)


@dataclass(frozen=True, slots=True)
class _Part:
    """Where a question stands in the row, and who sees whom in it."""

    start: int
    end: int
    visible: Tensor  # (n, n_prefix + n) bool


@dataclass(frozen=True, slots=True)
class PackedRow:
    """Questions one behind the other in a row of T tokens, all behind the shared prefix."""

    ids: Tensor  # (1, T)
    positions: Tensor  # (1, T)
    parts: tuple[_Part, ...]
    prefix: SharedPrefix
    places: tuple[tuple[int, Path, int], ...]  # (question, path, index in the row) of everything asked

    @classmethod
    def of(cls, questions: Sequence[Question], prefix: SharedPrefix, device: torch.device) -> PackedRow:
        n_prefix = prefix[0][0].shape[1] if prefix else 0
        ids: list[int] = []
        positions: list[int] = []
        parts: list[_Part] = []
        places: list[tuple[int, Path, int]] = []
        for number, question in enumerate(questions):
            start, n_own, nodes = len(ids), len(question.own), question.nodes
            index = {(): n_own - 1} | {path: n_own + n for n, path in enumerate(nodes)}
            ids += [*question.own, *(path[-1] for path in nodes)]
            positions += range(n_prefix, n_prefix + n_own)
            positions += (n_prefix + n_own + len(path) - 1 for path in nodes)
            visible = _visible(n_prefix, n_own, nodes, index).to(device)
            parts.append(_Part(start, len(ids), visible))
            places += ((number, path, start + index[path]) for path in question.asked)
        return cls(
            ids=torch.tensor([ids], device=device),
            positions=torch.tensor([positions], device=device),
            parts=tuple(parts),
            prefix=prefix,
            places=tuple(places),
        )


def register() -> None:
    """Make ``PACKED`` known to transformers; harmless when done before."""
    from transformers import AttentionInterface

    AttentionInterface.register(PACKED, packed_attention)


def packed_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    _attention_mask: Tensor | None,
    scaling: float | None = None,
    *,
    packed: PackedRow,
    **_unused: object,
) -> tuple[Tensor, None]:
    """(1, T, heads, head size) outputs: each part sees the prefix and itself."""
    shared = packed.prefix[module.layer_idx] if packed.prefix else None
    out = query.new_empty(1, query.shape[2], query.shape[1], query.shape[3])
    for part in packed.parts:
        keys, values = key[0, :, part.start : part.end], value[0, :, part.start : part.end]
        if shared is not None:
            keys, values = torch.cat((shared[0], keys), dim=1), torch.cat((shared[1], values), dim=1)
        found = torch.nn.functional.scaled_dot_product_attention(
            query[:, :, part.start : part.end],
            keys[None],
            values[None],
            attn_mask=part.visible[None, None],
            scale=scaling,
            enable_gqa=keys.shape[0] != query.shape[1],
        )
        out[:, part.start : part.end] = found.transpose(1, 2)
    return out, None


def answers(model: Any, questions: Sequence[Question], prefix: SharedPrefix) -> list[Found]:
    """One forward pass; what is asked, question by question. ``model``: one for causal language modelling."""
    row = PackedRow.of(questions, prefix, model.device)
    indices = torch.tensor([index for _, _, index in row.places], dtype=torch.long, device=model.device)
    usual = model.config._attn_implementation
    model.config._attn_implementation = PACKED
    try:
        with torch.inference_mode(), _exact_head(model):
            # The model's own forward, because some scale or bend what the output matrix gives.
            out = model(
                input_ids=row.ids,
                position_ids=row.positions,
                use_cache=False,
                logits_to_keep=indices,
                packed=row,
            )
    finally:
        model.config._attn_implementation = usual
    logits = out.logits[0].float()  # (places, vocabulary)
    normalisers = logits.logsumexp(-1)
    found: list[Found] = [{} for _ in questions]
    for place, (number, path, _) in enumerate(row.places):
        tokens = list(questions[number].asked[path])
        values = (logits[place, tokens] - normalisers[place]).tolist()
        found[number][path] = dict(zip(tokens, values, strict=True))
    return found


def _visible(n_prefix: int, n_own: int, nodes: Sequence[Path], index: Mapping[Path, int]) -> Tensor:
    """(n, n_prefix + n) bool: all see the prefix, own tokens those before them, branches the prompt and their path."""
    n = n_own + len(nodes)
    seen = torch.ones(n, n, dtype=torch.bool).tril()
    if nodes:
        seen[n_own:, n_own:] = False
        for path in nodes:
            for length in range(1, len(path) + 1):
                seen[index[path], index[path[:length]]] = True
    return torch.cat((torch.ones(n, n_prefix, dtype=torch.bool), seen), dim=1)


@contextlib.contextmanager
def _exact_head(model: Any) -> Iterator[None]:
    """Let the output matrix multiply in float32, some of its rows at a time, whatever it is kept in."""
    head = model.get_output_embeddings()
    if type(head) is not torch.nn.Linear or head.weight.dtype == torch.float32:
        yield
        return

    def product(hidden: Tensor) -> Tensor:
        exact = hidden.float()
        pieces = [exact @ rows.float().T for rows in torch.split(head.weight, _VOCABULARY_STEP)]
        found = torch.cat(pieces, dim=-1)
        return found if head.bias is None else found + head.bias.float()

    head.forward = product  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        head.__dict__.pop("forward", None)
