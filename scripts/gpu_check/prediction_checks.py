"""Prediction and embedding: compares batches with single inputs and with transformers, and measures the speed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import prediction_speed
import torch
from machine import Machine
from plain_model import plain_model
from prediction_speed import generate_in_batches, generate_one_by_one
from rows import Row, at_least, at_most, stated
from subjects import Subject, examples, written

from cdner.models import open_backbone
from cdner.models.causal import MIN_SHARED_PREFIX, common_prefix
from cdner.types import ModelInput

# One minus the cosine of two embeddings: on the device, and by transformers on the CPU in float32.
DISTANCES = {"float32": 1e-5, "bfloat16": 0.01}


@dataclass(slots=True)
class Written:
    seconds: float = 0.0
    texts: list[str] = field(default_factory=list)


def texts(subject: Subject, machine: Machine) -> Iterator[Row]:
    """float32: a ragged batch with a shared prefix gives the texts of single inputs and of transformers."""
    subject = written(subject)
    inputs = _inputs(subject, 8 if machine.small else 16)
    n_new = 12 if machine.small else 32
    backbone: Any = open_backbone(subject.choice("float32"), device=machine.device)
    plain = plain_model(subject.choice("float32"), device=machine.device)
    together = _by_us(backbone, inputs, machine, n_new)
    what, on = f"prediction, {subject.name}", f"{len(inputs)} sentences, {n_new} tokens at most, float32"
    if subject.family == "causal":
        n_shared = len(common_prefix([tuple(backbone.vocabulary.encode(_text(source))) for source in inputs]))
        yield at_least(f"{what}: shared prefix", n_shared, MIN_SHARED_PREFIX, unit="tokens", on=on)
    several = 100 * len(set(together.texts)) / len(inputs)
    yield at_least(f"{what}: different texts", several, 50, unit="%", on=on)
    alone = [_by_us(backbone, [source], machine, n_new).texts[0] for source in inputs]
    batches = _by_transformers(generate_in_batches, backbone, plain, inputs, machine=machine, n_new=n_new)
    one = _by_transformers(generate_one_by_one, backbone, plain, inputs, machine=machine, n_new=n_new)
    for against, found in (
        ("cdner, one by one", alone),
        ("transformers generate, one by one", one.texts),
        ("transformers generate, batches of 8", batches.texts),
    ):
        yield at_least(
            f"{what}: same texts", _same(together.texts, found), 100, unit="%", against=against, on=on
        )
    yield stated(what, one.seconds / together.seconds, unit="x", against="generate, one by one", on=on)


def speed(subject: Subject, machine: Machine) -> Iterator[Row]:
    """bf16: tokens a second of cdner and transformers, and the share of equal texts (rounding may change some)."""
    subject = written(subject)
    inputs = _inputs(subject, 8 if machine.small else 128)
    n_new = 12 if machine.small else 64
    backbone: Any = open_backbone(subject.choice("bfloat16"), device=machine.device)
    plain = plain_model(subject.choice("bfloat16"), device=machine.device).to(torch.bfloat16)
    n_tokens: list[int] = []
    ours = _by_us(backbone, inputs, machine, n_new, n_tokens)
    theirs = _by_transformers(generate_in_batches, backbone, plain, inputs, machine=machine, n_new=n_new)
    what, on = f"prediction, {subject.name}", f"{len(inputs)} sentences, {sum(n_tokens):,} tokens, bf16"
    yield stated(f"{what}: tokens a second", sum(n_tokens) / ours.seconds, unit="", on=on)
    against = "transformers generate, batches of 8"
    yield stated(what, theirs.seconds / ours.seconds, unit="x", against=against, on=on)
    yield stated(f"{what}: same texts", _same(ours.texts, theirs.texts), unit="%", against=against, on=on)
    if subject.shape is not None:
        lengths = [len(backbone.vocabulary.encode(_text(source))) + 1 for source in inputs]
        pairs = zip(lengths, n_tokens, strict=True)  # in another order, of the same sum
        share = machine.share(sum(subject.shape.flops(*pair) for pair in pairs), ours.seconds)
        if share is not None:
            yield stated(f"{what}: share of the peak", share, unit="%", on=on)
    yield stated(f"{what}: peak memory, both models", machine.peak_gib(), unit="GiB", on=on)


def embedding(subject: Subject, machine: Machine) -> Iterator[Row]:
    """Embeddings on the device, in float32 and bf16, compared with transformers' encoder on the CPU."""
    subject = written(subject)
    sentences = [source[1].text.strip() for source in _inputs(subject, 6)]
    expected = _plain_embeddings(subject, sentences)
    what = f"embedding, {subject.name}"
    for dtype, demanded in DISTANCES.items():
        backbone = open_backbone(subject.choice(dtype), device=machine.device)
        started = machine.now()
        found = backbone.embed(sentences)
        seconds = machine.now() - started
        distance = float((1 - (_units(found) * _units(expected)).sum(axis=1)).max())
        on = f"{len(sentences)} texts, {dtype}, {len(sentences) / seconds:.3g} a second"
        yield at_most(f"{what}: 1 - cosine", distance, demanded, unit="", against="transformers", on=on)
    # If all texts were embedded alike, the distances above would say nothing.
    units = _units(expected)
    nearest = float((1 - units @ units.T + 2 * np.eye(len(units))).min())
    demanded, on = 2 * DISTANCES["float32"], f"{len(sentences)} texts, float32, transformers"
    yield at_least(f"{what}: 1 - cosine of two texts", nearest, demanded, unit="", on=on)


def _units(vectors: Any) -> Any:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _plain_embeddings(subject: Subject, sentences: Sequence[str]) -> Any:
    backbone = open_backbone(subject.choice("float32"), device="cpu")
    plain = plain_model(subject.choice("float32"))
    end = [backbone.vocabulary.end_id] if subject.family == "seq2seq" else []
    found = []
    with torch.inference_mode():
        for text in sentences:
            ids = [*backbone.vocabulary.encode(text), *end]
            reading = plain.get_encoder() if end else plain.model
            hidden = reading(input_ids=torch.tensor([ids])).last_hidden_state[0]
            found.append(hidden[: len(ids) - len(end)].double().mean(0).numpy())
    return np.stack(found)


def _inputs(subject: Subject, n: int) -> list[ModelInput]:
    """Inputs of very different lengths: some are followed by a reasoning text."""
    return [example.source for example in examples(subject, n, reasoning=True)]


def _by_us(
    backbone: Any,
    inputs: Sequence[ModelInput],
    machine: Machine,
    n_new: int,
    n_tokens: list[int] | None = None,
) -> Written:
    def work(some: Sequence[ModelInput], found: list[str]) -> Iterator[int]:
        counted = n_tokens if n_tokens is not None and len(some) == len(inputs) else []
        return prediction_speed.by_us(backbone, some, None, found, counted, max_new_tokens=n_new)

    return _timed(work, inputs, machine)


def _by_transformers(
    generate: Callable[..., Iterator[int]],
    backbone: Any,
    plain: Any,
    inputs: Sequence[ModelInput],
    *,
    machine: Machine,
    n_new: int,
) -> Written:
    def work(some: Sequence[ModelInput], found: list[str]) -> Iterator[int]:
        return generate(backbone, plain, some, None, found, max_new_tokens=n_new)

    return _timed(work, inputs, machine)


def _timed(
    work: Callable[[Sequence[ModelInput], list[str]], Iterator[int]],
    inputs: Sequence[ModelInput],
    machine: Machine,
) -> Written:
    """Warms up with two inputs if there are more."""
    if len(inputs) > 2:
        list(work(inputs[:2], ["", ""]))
    done = Written(texts=[""] * len(inputs))
    started = machine.now()
    for _ in work(inputs, done.texts):
        pass
    done.seconds = machine.now() - started
    return done


def _same(ours: Sequence[str], theirs: Sequence[str]) -> float:
    """Percent."""
    return 100 * sum(a.strip() == b.strip() for a, b in zip(ours, theirs, strict=True)) / len(ours)


def _text(source: ModelInput) -> str:
    return "".join(segment.text for segment in source)
