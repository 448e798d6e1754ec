"""The probability of each of several token sequences as the next text, read no further than they differ.

Next-token probabilities are multiplied along a choice's tokens up to the first one that no other choice shares; what
follows is not read, because only one choice is left. A choice whose tokens are the beginning of another's keeps its
path's probability times what the other choices' next tokens leave. Knows no model: distributions are handed in.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence

from cdner.errors import BackendError
from cdner.types import ReasoningRequest

Path = tuple[int, ...]  # tokens behind the prompt; () is the prompt itself

LEAST_LEFT = (
    2.0**-52
)  # what is left beside other choices' next tokens is not known more exactly than float64 adds


class ChoiceTrie:
    """``choices``: token ids of each, in order; ValueError for two that are the same tokens.

    ``asked``: what must be known: path -> ids of the tokens whose log-probability after that path is used, ascending.
    Empty for a single choice, whose probability is 1 beside no other.
    """

    def __init__(self, choices: Sequence[Sequence[int]]) -> None:
        self._choices = [tuple(choice) for choice in choices]
        if len(set(self._choices)) < len(self._choices):
            raise ValueError("two choices are the same tokens")
        self._n_read = [min(len(choice), 1 + shared) for choice, shared in zip(*self._shared(), strict=True)]
        following: dict[Path, set[int]] = {}
        for choice, n_read in zip(self._choices, self._n_read, strict=True):
            for n in range(n_read):
                following.setdefault(choice[:n], set()).add(choice[n])
        self.asked: Mapping[Path, tuple[int, ...]] = {
            path: tuple(sorted(tokens)) for path, tokens in sorted(following.items())
        }

    def log_probs(self, known: Mapping[Path, Mapping[int, float]]) -> tuple[float, ...]:
        """Natural logarithms, one a choice, at most 0. ``known``: path -> token id -> log-probability, as ``asked``."""
        return tuple(self._log_probs(known))

    def _log_probs(self, known: Mapping[Path, Mapping[int, float]]) -> Iterator[float]:
        for choice, n_read in zip(self._choices, self._n_read, strict=True):
            total = math.fsum(known[choice[:n]][choice[n]] for n in range(n_read))
            if n_read == len(choice) and choice in self.asked:  # the beginning of another
                others = math.fsum(math.exp(known[choice][token]) for token in self.asked[choice])
                total += math.log(max(1.0 - others, LEAST_LEFT))
            yield min(total, 0.0)

    def _shared(self) -> tuple[list[Path], list[int]]:
        """Each choice, and how many of its first tokens some other choice has too; 0 for a single one."""
        if len(self._choices) == 1:
            return self._choices, [-1]
        order = sorted(range(len(self._choices)), key=self._choices.__getitem__)
        found = [0] * len(order)
        for one, other in itertools.pairwise(order):  # of sorted sequences, neighbours share most
            n = n_common(self._choices[one], self._choices[other])
            found[one], found[other] = max(found[one], n), max(found[other], n)
        return self._choices, found


def n_common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many first tokens two sequences share."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((n for n, (a, b) in pairs if a != b), min(len(one), len(other)))


def refuse_unusable_choices(request: ReasoningRequest) -> None:
    """BackendError for an empty choice, for one that is there twice, and for a schema beside choices."""
    names = [choice.strip() for choice in request.sampling.choices]
    if request.schema is not None:
        raise BackendError("A request with choices is answered with probabilities. Leave out the schema.")
    if not all(names):
        raise BackendError("One of the choices is empty. Give every choice a text.")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise BackendError(f"The choice {twice!r} is there twice. Give every choice once.")
