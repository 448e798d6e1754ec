"""Log-probabilities of given beginnings of an output, many in one forward pass; shared tokens are computed once.

The beginnings of one input's output are paths of a tree that follows the input. A token attends to its ancestors only,
so that one forward pass over the nodes gives each path the same result as a pass of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from cdner.models.generation import batches
from cdner.types import Beginning

ROOT = -1
_MAX_TOKENS = 512  # of one pass, with padding; on a CPU a larger pass is slower for each token
_MAX_TOKENS_CUDA = 1 << 14


class Tokeniser(Protocol):
    """``cdner.models.vocabulary.encode_plain`` of one tokenizer, on text that is ``neutralised``."""

    def __call__(self, text: str) -> tuple[Sequence[int], Sequence[int]]:
        """Ids, and for each the index of its last character."""
        ...


@dataclass(slots=True)
class TokenTree:
    """Tokens, each after its parent: a start, and paths that continue from its end.

    A model reads the first ``n_inner`` tokens only; nothing follows the last token of a path.
    """

    ids: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)  # ROOT for the first token
    depths: list[int] = field(default_factory=list)  # 0 for the first token
    paths: list[list[int]] = field(default_factory=list)  # the nodes of each, without the start
    n_start: int = 0
    n_inner: int = 0  # the start, and nodes that are a parent
    _children: dict[tuple[int, int], int] = field(default_factory=dict)

    @classmethod
    def of(cls, start: Sequence[int], paths: Sequence[Sequence[int]]) -> TokenTree:
        """``start``: at least one token."""
        tree = cls()
        last = tree._add(start, ROOT)[-1]
        tree.n_start = len(tree.ids)
        tree.paths = [tree._add(path, last) for path in paths]
        tree._put_leaves_last()
        return tree

    def _put_leaves_last(self) -> None:
        inner = sorted({*range(self.n_start), *self.parents} - {ROOT})
        self.n_inner = len(inner)
        order = inner + sorted(set(range(len(self.ids))) - set(inner))
        place = {node: number for number, node in enumerate(order)} | {ROOT: ROOT}
        self.ids = [self.ids[node] for node in order]
        self.depths = [self.depths[node] for node in order]
        self.parents = [place[self.parents[node]] for node in order]
        self.paths = [[place[node] for node in path] for path in self.paths]

    def ends(self) -> list[int]:
        """Inner nodes that are not followed by an inner node."""
        return sorted(set(range(self.n_inner)) - set(self.parents[: self.n_inner]))

    def line(self, node: int) -> list[int]:
        """The nodes from the root to this one."""
        found = [node]
        while self.parents[found[-1]] != ROOT:
            found.append(self.parents[found[-1]])
        return found[::-1]

    def _add(self, tokens: Sequence[int], parent: int) -> list[int]:
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


@dataclass(frozen=True, slots=True)
class Forest:
    """The inner nodes of a batch of trees as tensors, right-padded. Padding attends to itself only."""

    trees: Sequence[TokenTree]
    ids: Tensor  # (rows, longest)
    depths: Tensor  # (rows, longest)
    sees: Tensor  # (rows, longest, longest) bool
    real: Tensor  # (rows, longest) bool

    @classmethod
    def of(cls, trees: Sequence[TokenTree], device: torch.device) -> Forest:
        shape = len(trees), max(tree.n_inner for tree in trees)
        ids, depths = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
        real = torch.zeros(shape, dtype=torch.bool)
        sees = torch.eye(shape[1], dtype=torch.bool).repeat(shape[0], 1, 1)
        for row, tree in enumerate(trees):
            n = tree.n_inner
            ids[row, :n], depths[row, :n] = torch.tensor(tree.ids[:n]), torch.tensor(tree.depths[:n])
            real[row, :n] = True
            for node, parent in enumerate(tree.parents[:n]):
                if parent != ROOT:
                    sees[row, node] |= sees[row, parent]
        return cls(trees, *(tensor.to(device) for tensor in (ids, depths, sees, real)))

    @property
    def asked(self) -> Tensor:
        """(rows, longest) bool: the nodes whose next-token distribution is needed."""
        found = torch.zeros_like(self.real, device="cpu")
        for row, tree in enumerate(self.trees):
            found[row, sorted(set(tree.parents[tree.n_start :]))] = True
        return found.to(self.real.device)

    def log_probs(self, logits: Tensor) -> list[tuple[float, ...]]:
        """For each tree the log-probabilities of its paths, from the (n, vocabulary) logits of the ``asked`` nodes."""
        asked = self.asked.cpu()
        place = torch.full(asked.shape, -1)
        place[asked] = torch.arange(int(asked.sum()))
        whole = logits.float()
        normalisers = whole.logsumexp(-1)
        found = []
        for row, tree in enumerate(self.trees):
            known = torch.zeros(len(tree.ids), dtype=torch.float64)
            if len(tree.ids) > tree.n_start:
                at = place[row, tree.parents[tree.n_start :]].to(logits.device)
                said = (
                    whole[at, torch.tensor(tree.ids[tree.n_start :], device=logits.device)] - normalisers[at]
                )
                known[tree.n_start :] = said.double().cpu()
            found.append(tuple(float(known[path].sum()) for path in tree.paths))
        return found


class Reader(Protocol):
    """A batch of inputs that a model has read once."""

    def logits(self, forest: Forest) -> Tensor:
        """(n, vocabulary) logits of the trees' ``asked`` nodes; the tree in row r follows input r."""
        ...


@dataclass(frozen=True, slots=True)
class Input:
    """The part of an input that comes before its trees."""

    last: int  # the token that a tree starts with
    n_tokens: int  # before it, which a pass reads


def path_of(beginning: Beginning, encode: Tokeniser) -> tuple[int, ...]:
    """Ids of the tokens that end within the beginning's characters; a token that reaches further is left out."""
    text, n_characters = beginning
    ids, last = encode(text)
    return tuple(token for token, end in zip(ids, last, strict=True) if end < n_characters)


def two_rounds(
    inputs: Sequence[Input],
    open_batch: Callable[[Sequence[int]], Reader],
    first: Sequence[Sequence[Beginning]],
    then: Callable[[int, Sequence[float]], Sequence[Beginning]],
    *,
    encode: Tokeniser,
    device: torch.device,
) -> Iterator[tuple[int, tuple[float, ...]]]:
    """``cdner.types.TextScorer.log_probs`` for a family's readers."""
    most = _MAX_TOKENS_CUDA if device.type == "cuda" else _MAX_TOKENS
    costs = [
        one.n_tokens + sum(len(text) for text, _ in texts[:1])
        for one, texts in zip(inputs, first, strict=True)
    ]
    for batch in batches(costs, len(inputs), most):
        with torch.inference_mode():
            reader = open_batch(batch)
            starts = [inputs[index].last for index in batch]
            found = _round(reader, starts, [first[index] for index in batch], encode=encode, device=device)
            asked = [then(index, said) for index, said in zip(batch, found, strict=True)]
            found = _round(reader, starts, asked, encode=encode, device=device)
        yield from zip(batch, found, strict=True)


def _round(
    reader: Reader,
    starts: Sequence[int],
    asked: Sequence[Sequence[Beginning]],
    *,
    encode: Tokeniser,
    device: torch.device,
) -> list[tuple[float, ...]]:
    trees = [
        TokenTree.of([start], [path_of(one, encode) for one in texts])
        for start, texts in zip(starts, asked, strict=True)
    ]
    forest = Forest.of(trees, device)
    return forest.log_probs(reader.logits(forest))
