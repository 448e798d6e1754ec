"""Prediction as ``cdner predict`` does it beside transformers' ``generate``: in unsorted batches, and one by one.

All greedy, in float32, on the same inputs. One by one is ``pipeline("text-generation")`` for a causal model;
transformers 5 has no pipeline for T5 any more, there it is ``generate`` on one input, which is what the pipeline did.
Random weights never end an answer at the right place, so a T5's answers are made as long as the gold ones, on every
side by a rule over the logits: no end token before, nothing but it then.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from taking_turns import take_turns
from transformers import LogitsProcessor, pipeline

from cdner.config import Execution
from cdner.types import ModelInput

MAX_NEW_TOKENS = 256
PLAIN_BATCH_SIZE = 8
_TURNS = 4  # each side's sentences are measured in so many turns


@dataclasses.dataclass(frozen=True, slots=True)
class Compared:
    seconds: tuple[float, float]  # CPU for the same sentences: ours, transformers'
    n_same_text: int
    n_output_tokens: int

    @property
    def ratio(self) -> float:
        return self.seconds[1] / self.seconds[0]


def compare(
    backbone: Any,
    plain: Any,
    inputs: Sequence[ModelInput],
    *,
    one_by_one: bool,
    lengths: Sequence[int] | None,
) -> Compared:
    """``plain`` is the same model without cdner.

    ``lengths``: tokens of each output, the end token included; None where the model ends by itself.
    """
    texts: tuple[list[str], list[str]] = [""] * len(inputs), [""] * len(inputs)
    n_tokens: list[int] = []
    theirs = generate_one_by_one if one_by_one else generate_in_batches
    seconds = take_turns(
        _in_turns(lambda: by_us(backbone, inputs, lengths, texts[0], n_tokens), len(inputs)),
        _in_turns(lambda: theirs(backbone, plain, inputs, lengths, texts[1]), len(inputs)),
    )
    same = sum(ours.strip() == plain.strip() for ours, plain in zip(*texts, strict=True))
    return Compared((sum(seconds[0]), sum(seconds[1])), same, sum(n_tokens))


def _in_turns(answers: Callable[[], Iterator[int]], n: int) -> Callable[[Callable[[], None]], None]:
    """``answers`` yields how many sentences it has just finished."""

    def work(step_done: Callable[[], None]) -> None:
        step_done()
        done, turn = 0, 1
        for finished in answers():
            done += finished
            if done >= turn * n / _TURNS and done < n:
                turn = 1 + done * _TURNS // n
                step_done()
        step_done()

    return work


# --- cdner -----------------------------------------------------------------------------------------------


class _Length:
    """The rule over the logits for one output, as a ``TokenConstraint``."""

    def __init__(self, n: int, end_id: int, n_vocabulary: int) -> None:
        self._left = n
        self._end = np.array([end_id])
        self._others = np.delete(np.arange(n_vocabulary), end_id)

    def allowed(self) -> NDArray[np.int64]:
        return self._others if self._left > 1 else self._end

    def advance(self, token_id: int) -> None:  # noqa: ARG002
        self._left -= 1


def by_us(
    backbone: Any,
    inputs: Sequence[ModelInput],
    lengths: Sequence[int] | None,
    texts: list[str],
    n_tokens: list[int],
    *,
    max_new_tokens: int = MAX_NEW_TOKENS,
) -> Iterator[int]:
    """``texts`` and ``n_tokens`` are filled; yields how many sentences have just been finished, as the others do."""
    end, size = backbone.vocabulary.end_id, backbone.model.config.vocab_size
    found = backbone.generate(
        inputs,
        max_new_tokens=max_new_tokens,
        batch_size=Execution().batch_size,
        constraints=[_Length(n, end, size) for n in lengths] if lengths else None,
    )
    for index, generation in found:
        texts[index] = generation.text
        n_tokens.append(generation.n_output_tokens)
        yield 1


# --- transformers ----------------------------------------------------------------------------------------


class _Lengths(LogitsProcessor):  # type: ignore[misc]
    """The same rule for the rows of a batch."""

    def __init__(self, lengths: Sequence[int], end_id: int) -> None:
        self._lengths = torch.tensor(lengths)  # on the CPU, as the models that are given lengths
        self._end = end_id
        self._n = 0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        self._n += 1
        over = self._n >= self._lengths
        ends = scores[over, self._end]
        scores[:, self._end] = -torch.inf
        scores[over] = -torch.inf
        scores[over, self._end] = ends
        return scores


def generate_in_batches(
    backbone: Any,
    plain: Any,
    inputs: Sequence[ModelInput],
    lengths: Sequence[int] | None,
    texts: list[str],
    *,
    max_new_tokens: int = MAX_NEW_TOKENS,
) -> Iterator[int]:
    rule = _greedy(backbone, max_new_tokens)
    for start in range(0, len(inputs), PLAIN_BATCH_SIZE):
        batch = range(start, min(start + PLAIN_BATCH_SIZE, len(inputs)))
        rows = [_ids(backbone, inputs[index]) for index in batch]
        for index, text in zip(
            batch,
            _generated(backbone, plain, rows, lengths and [lengths[i] for i in batch], rule),
            strict=True,
        ):
            texts[index] = text
        yield len(batch)


def generate_one_by_one(
    backbone: Any,
    plain: Any,
    inputs: Sequence[ModelInput],
    lengths: Sequence[int] | None,
    texts: list[str],
    *,
    max_new_tokens: int = MAX_NEW_TOKENS,
) -> Iterator[int]:
    rule = _greedy(backbone, max_new_tokens)
    if backbone.choice.family == "causal":
        pipe = pipeline("text-generation", model=plain, tokenizer=backbone.tokenizer)
    for index, source in enumerate(inputs):
        if backbone.choice.family == "causal":
            prompt = "".join(segment.text for segment in source) + "\n"
            answer = pipe(prompt, return_full_text=False, **rule)
            texts[index] = answer[0]["generated_text"]
        else:
            texts[index] = _generated(
                backbone, plain, [_ids(backbone, source)], lengths and [lengths[index]], rule
            )[0]
        yield 1


def _ids(backbone: Any, source: ModelInput) -> list[int]:
    ids: list[int] = backbone.vocabulary.encode("".join(segment.text for segment in source))
    causal = backbone.choice.family == "causal"
    return ids + (backbone.vocabulary.encode("\n") if causal else [backbone.vocabulary.end_id])


def _generated(
    backbone: Any,
    plain: Any,
    rows: Sequence[Sequence[int]],
    lengths: Sequence[int] | None,
    greedy: Mapping[str, Any],
) -> list[str]:
    """A batch padded on the side its family reads from."""
    longest = max(map(len, rows))
    causal = backbone.choice.family == "causal"
    pads = [[0] * (longest - len(row)) for row in rows]
    ids = torch.tensor(
        [[*pad, *row] if causal else [*row, *pad] for row, pad in zip(rows, pads, strict=True)],
        device=plain.device,
    )
    real = [[1] * len(row) for row in rows]
    mask = [[*pad, *row] if causal else [*row, *pad] for row, pad in zip(real, pads, strict=True)]
    rule = [_Lengths(lengths, backbone.vocabulary.end_id)] if lengths else []
    seen = torch.tensor(mask, device=plain.device)
    written = plain.generate(input_ids=ids, attention_mask=seen, logits_processor=rule, **greedy)
    return [backbone.vocabulary.decode(row[longest if causal else 1 :].tolist()) for row in written]


def _greedy(backbone: Any, max_new_tokens: int) -> dict[str, Any]:
    end = backbone.vocabulary.end_id
    return {
        "max_new_tokens": max_new_tokens,
        "do_sample": False,
        "eos_token_id": end,
        "pad_token_id": end,
    }
