"""Greedy decoding for both text-to-text families: one loop over rows that are sorted by length.

A family supplies a ``StepDecoder``, which computes logits and keeps the caches. This module chooses the next token,
decides when a row is finished, and removes or replaces finished rows.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from cdner.models.inputs import EncodedInput
from cdner.models.linear import LaidOut
from cdner.types import Generation, TokenConstraint

FinishReason = Literal["stop", "length"]
_MOVE_TOGETHER = 1 / 8  # share of the decoder's rows that are finished before they are removed or replaced
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"  # at the end of a decoded sequence that ends inside a character


class StepDecoder(Protocol):
    """The state of one batch inside a model."""

    def start(self) -> Tensor:
        """Read the inputs; (rows, vocabulary) logits of each row's first output token."""
        ...

    def step(self, tokens: Tensor) -> Tensor:
        """Append (rows,) output tokens, one per row; (rows, vocabulary) logits of the next ones."""
        ...

    def keep(self, rows: Tensor) -> None:
        """Continue with these rows only."""
        ...


# (rows of the decoder that are finished, as many indices into the caller's inputs, which replace them) ->
# (inputs, vocabulary) logits of the first output token of each new input.
Join = Callable[[Sequence[int], Sequence[int]], Tensor]


class JoiningDecoder(StepDecoder, Protocol):
    """A decoder whose finished rows can be replaced by inputs not longer than the longest input at its start."""

    def join(self, places: Sequence[int], inputs: Sequence[int]) -> Tensor:
        """See ``Join``."""
        ...


@dataclass(slots=True)
class Row:
    """One growing output."""

    index: int  # into the caller's inputs
    constraint: TokenConstraint | None = None
    ids: list[int] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    told: str = ""  # what ``StopRule.on_text`` was called with


@dataclass(frozen=True, slots=True)
class StopRule:
    end_ids: frozenset[int]
    max_new_tokens: int
    stop: tuple[str, ...]
    decode: Callable[[Sequence[int]], str]
    on_text: Callable[[str], None] | None = None  # called with each new piece of a row's output

    def reason(self, row: Row) -> FinishReason | None:
        if row.ids[-1] in self.end_ids:
            return "stop"
        if self.stop and any(mark in self.decode(row.ids) for mark in self.stop):
            return "stop"
        return "length" if len(row.ids) >= self.max_new_tokens else None

    def text(self, row: Row) -> str:
        """Decoded output without the end token, cut before the first stop string."""
        ids = row.ids[:-1] if row.ids and row.ids[-1] in self.end_ids else row.ids
        text = self.decode(ids)
        cuts = [text.index(mark) for mark in self.stop if mark in text]
        return text[: min(cuts)] if cuts else text

    def tell(self, row: Row) -> None:
        """Call ``on_text`` with the new text. An incomplete character waits for the next token."""
        if self.on_text is None:
            return
        text = self.text(row)
        if text.startswith(row.told) and len(text) > len(row.told) and not text.endswith(REPLACEMENT):
            self.on_text(text[len(row.told) :])
            row.told = text


def greedy(
    decoder: StepDecoder,
    rows: Sequence[Row],
    rule: StopRule,
    *,
    waiting: Sequence[Row] = (),
    join: Join | None = None,
) -> Iterator[Row]:
    """Yield each row as it finishes; at least one token per row is generated.

    Rows of ``waiting`` replace finished ones through ``join``, so that the decoder stays full. When none are waiting,
    finished rows are removed. Both happen once an eighth of the rows is finished, because each costs extra: new inputs
    are read in a forward pass of their own, and removing rows copies the caches of all others.
    """
    active, queue = list(rows), deque(waiting)
    tokens, finished = _grown(active, decoder.start(), rule)
    yield from finished
    while True:
        free = [place for place, row in enumerate(active) if row.finish_reason is not None]
        if len(free) == len(active) and not queue:
            return
        if len(free) >= len(active) * _MOVE_TOGETHER:
            if queue and join is not None:
                places = free[: len(queue)]
                new = [queue.popleft() for _ in places]
                first, finished = _grown(new, join(places, [row.index for row in new]), rule)
                tokens = tokens.index_copy(0, torch.tensor(places, device=tokens.device), first)
                for place, row in zip(places, new, strict=True):
                    active[place] = row
                yield from finished
                continue  # a row may finish with its first token
            going = [place for place, row in enumerate(active) if row.finish_reason is None]
            kept = torch.tensor(going, device=tokens.device)
            decoder.keep(kept)
            tokens, active = tokens[kept], [active[place] for place in going]
        tokens, finished = _grown(active, decoder.step(tokens), rule)
        yield from finished


def _grown(rows: Sequence[Row], logits: Tensor, rule: StopRule) -> tuple[Tensor, list[Row]]:
    """(rows,) next tokens, appended to the unfinished rows; and the rows that finish with them."""
    tokens = _choose(logits, rows)
    finished = []
    for row, token in zip(rows, tokens.tolist(), strict=True):
        if row.finish_reason is not None:
            continue
        row.ids.append(token)
        if row.constraint is not None and token not in rule.end_ids:
            row.constraint.advance(token)
        row.finish_reason = rule.reason(row)
        rule.tell(row)
        if row.finish_reason is not None:
            finished.append(row)
    return tokens, finished


def _choose(logits: Tensor, rows: Sequence[Row]) -> Tensor:
    """(rows,) arg max; for a constrained row, over its allowed ids."""
    chosen = logits.argmax(-1)
    for position, row in enumerate(rows):
        if row.constraint is not None and row.finish_reason is None:
            allowed = torch.from_numpy(row.constraint.allowed()).to(logits.device)
            chosen[position] = allowed[logits[position, allowed].argmax()]
    return chosen


def outputs(
    open_batch: Callable[[Sequence[int]], StepDecoder],
    inputs: Sequence[EncodedInput],
    *,
    rule: StopRule,
    batch_size: int,
    max_tokens: int,
    model: Any,
    lengths: Sequence[int] | None = None,
    constraints: Sequence[TokenConstraint] | None = None,
) -> Iterator[tuple[int, Generation]]:
    """Run ``greedy`` over batches sorted by length. ``lengths``: the cost of each input, by default its length.

    ``model``: the model of the decoders; its linear layers are replaced during a step and restored after it.
    """
    laid_out = LaidOut(model, n_rows=min(batch_size, len(inputs)))
    costs = lengths if lengths is not None else [len(source.ids) for source in inputs]
    for batch in batches([cost + rule.max_new_tokens for cost in costs], batch_size, max_tokens):
        rows = _rows(batch, constraints)
        for row in _computed(greedy(open_batch(batch), rows, rule), laid_out):
            yield row.index, _generation(row, inputs[row.index], rule)


def joined_outputs(
    open_batch: Callable[[Sequence[int]], JoiningDecoder],
    inputs: Sequence[EncodedInput],
    *,
    rule: StopRule,
    batch_size: int,
    max_tokens: int,
    model: Any,
    lengths: Sequence[int],
    constraints: Sequence[TokenConstraint] | None = None,
) -> Iterator[tuple[int, Generation]]:
    """Like ``outputs``, with one decoder whose finished rows are replaced; inputs are read longest first.

    If memory limits the number of the longest inputs, these are computed first, in batches of their own.
    """
    laid_out = LaidOut(model, n_rows=min(batch_size, len(inputs)))
    for first, waiting in streams([n + rule.max_new_tokens for n in lengths], batch_size, max_tokens):
        decoder = open_batch(first)
        found = greedy(
            decoder, _rows(first, constraints), rule, waiting=_rows(waiting, constraints), join=decoder.join
        )
        for row in _computed(found, laid_out):
            yield row.index, _generation(row, inputs[row.index], rule)


def _rows(indices: Sequence[int], constraints: Sequence[TokenConstraint] | None) -> list[Row]:
    return [Row(index, constraints[index] if constraints else None) for index in indices]


def streams(
    lengths: Sequence[int], batch_size: int, max_tokens: int
) -> Iterator[tuple[list[int], list[int]]]:
    """(indices that start together, indices that join them), longest first, each index once.

    No index joins a batch that ``max_tokens`` makes smaller than ``batch_size``, so that a few very long inputs do not
    slow down all others.
    """
    order: list[int] = []
    for batch in batches(lengths, batch_size, max_tokens):
        if order or len(batch) == batch_size:
            order += batch
        else:
            yield batch, []
    if order:
        yield order[:batch_size], order[batch_size:]


def batches(lengths: Sequence[int], batch_size: int, max_tokens: int) -> Iterator[list[int]]:
    """Indices sorted longest first, ``batch_size`` at a time, fewer if rows x longest exceeds ``max_tokens``.

    With the longest first, a batch that does not fit into memory fails at the start.
    """
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    while order:
        n = max(1, min(batch_size, max_tokens // max(1, lengths[order[0]])))
        yield order[:n]
        order = order[n:]


def _generation(row: Row, source: EncodedInput, rule: StopRule) -> Generation:
    return Generation(
        text=rule.text(row),
        n_input_tokens=len(source.ids),
        n_truncated_tokens=source.n_truncated,
        n_output_tokens=len(row.ids),
        finish_reason=row.finish_reason or "length",
    )


def _computed(rows: Iterator[Row], laid_out: LaidOut) -> Iterator[Row]:
    """Enter inference mode and the layout for each step only: a generator must not leave them on for its caller."""
    while True:
        with torch.inference_mode(), laid_out:
            row = next(rows, None)
        if row is None:
            return
        yield row
