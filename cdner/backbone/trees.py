"""How probable a model finds given beginnings of its output: many of them by one pass, what they share computed once.

Token sequences that begin alike are paths of one tree; a token sees its ancestors only, so one forward pass over the
nodes gives each sequence what a pass of its own would. Knows no model and no entities.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

ROOT = -1


@dataclass(slots=True)
class TokenTree:
    """Tokens with their parents, each behind its parent."""

    ids: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)  # ROOT for a first token
    depths: list[int] = field(default_factory=list)  # 0 for a first token
    _children: dict[tuple[int, int], int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)

    def add(self, tokens: Sequence[int], parent: int = ROOT) -> list[int]:
        """The nodes of a path behind ``parent``; what is there already is not added again."""
        path = []
        for token in tokens:
            node = self._children.get((parent, token))
            if node is None:
                node = self._children[parent, token] = len(self.ids)
                self.ids.append(token)
                self.parents.append(parent)
                self.depths.append(0 if parent == ROOT else self.depths[parent] + 1)
            path.append(node)
            parent = node
        return path

    def ancestors(self) -> Tensor:
        """(n, n) bool: row i is true at node i and everything above it."""
        found = torch.eye(len(self.ids), dtype=torch.bool)
        for node, parent in enumerate(self.parents):
            if parent != ROOT:
                found[node] |= found[parent]
        return found


def token_log_probs(logits: Tensor, rows: Sequence[int], tokens: Sequence[int]) -> Tensor:
    """(n,) log-probability of ``tokens[i]`` by row ``rows[i]`` of (rows, vocabulary) logits; in float32."""
    whole = logits.float()
    normalisers = whole.logsumexp(-1)
    where = torch.tensor(rows, device=logits.device)
    return whole[where, torch.tensor(tokens, device=logits.device)] - normalisers[where]
