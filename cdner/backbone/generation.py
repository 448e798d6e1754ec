"""Greedy decoding for both families: one loop, rows sorted by length, finished rows dropped.

A family brings a ``StepDecoder`` (what a step costs and caches is its business); this module decides which
token comes next and when a row is done. Knows nothing of tokenizers but decoding a finished or growing row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from cdner.backbone.inputs import EncodedInput
from cdner.backbone.linear import LaidOut
from cdner.types import Generation, TokenConstraint

FinishReason = Literal["stop", "length"]
_LEAVE_TOGETHER = 1 / 8  # of the rows in the decoder
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"  # stands where a decoded sequence ends inside a character


class StepDecoder(Protocol):
    """The state of one batch inside a model."""

    def start(self) -> Tensor:
        """Read the inputs; (rows, vocabulary) logits of each row's first output token."""
        ...

    def step(self, tokens: Tensor) -> Tensor:
        """Take one (rows,) output token per row; logits of the next."""
        ...

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows only."""
        ...


@dataclass(slots=True)
class Row:
    """One growing output."""

    index: int  # into the caller's inputs
    constraint: TokenConstraint | None = None
    ids: list[int] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    told: str = ""  # what a listener has heard


@dataclass(frozen=True, slots=True)
class StopRule:
    end_ids: frozenset[int]
    max_new_tokens: int
    stop: tuple[str, ...]
    decode: Callable[[Sequence[int]], str]
    on_text: Callable[[str], None] | None = None  # hears each piece of a row's output as it grows

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
        """Hand the listener what is new. A character whose bytes are not all there yet waits for the next token."""
        if self.on_text is None:
            return
        text = self.text(row)
        if text.startswith(row.told) and len(text) > len(row.told) and not text.endswith(REPLACEMENT):
            self.on_text(text[len(row.told) :])
            row.told = text


def greedy(decoder: StepDecoder, rows: Sequence[Row], rule: StopRule) -> Iterator[Row]:
    """Yield each row as it finishes; at least one token per row is generated.

    Finished rows leave the decoder together, when they are an eighth of what it holds: leaving copies the caches of
    all that stay, which costs more than to carry one row along for some steps.
    """
    active = list(rows)
    logits = decoder.start()
    while True:
        tokens = _choose(logits, active)
        pairs = zip(active, tokens.tolist(), strict=True)
        growing = [(row, token) for row, token in pairs if row.finish_reason is None]
        for row, token in growing:
            row.ids.append(token)
            if row.constraint is not None and token not in rule.end_ids:
                row.constraint.advance(token)
            row.finish_reason = rule.reason(row)
            rule.tell(row)
        yield from (row for row, _ in growing if row.finish_reason is not None)
        going = [position for position, row in enumerate(active) if row.finish_reason is None]
        if not going:
            return
        if len(active) - len(going) >= len(active) * _LEAVE_TOGETHER:
            kept = torch.tensor(going, device=tokens.device)
            decoder.keep(kept)
            tokens, active = tokens[kept], [active[position] for position in going]
        logits = decoder.step(tokens)


def _choose(logits: Tensor, rows: Sequence[Row]) -> Tensor:
    """(rows,) arg max, over the allowed ids where a row is constrained."""
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
    """Run ``greedy`` over length-sorted batches; ``lengths`` says what a row costs if not its full length.

    ``model`` is what the decoders compute with; it is changed inside a step only.
    """
    laid_out = LaidOut(model, n_rows=min(batch_size, len(inputs)))
    costs = lengths if lengths is not None else [len(source.ids) for source in inputs]
    for batch in batches([cost + rule.max_new_tokens for cost in costs], batch_size, max_tokens):
        rows = [Row(index, constraints[index] if constraints else None) for index in batch]
        for row in _computed(greedy(open_batch(batch), rows, rule), laid_out):
            yield row.index, _generation(row, inputs[row.index], rule)


def batches(lengths: Sequence[int], batch_size: int, max_tokens: int) -> Iterator[list[int]]:
    """Indices by falling length, ``batch_size`` at a time, fewer where rows x longest exceeds ``max_tokens``.

    Longest first, so that what will not fit in memory fails at once.
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
    """Inference mode and layout inside each step only: a generator must not leave them on for its caller."""
    while True:
        with torch.inference_mode(), laid_out:
            row = next(rows, None)
        if row is None:
            return
        yield row
