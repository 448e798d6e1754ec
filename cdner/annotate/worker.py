"""Annotates blocks with one loaded model: what every engine does, in this process or in many.

Opens no store: all it needs it was handed. The model, the input and the output folder must lie where it looks.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from cdner.annotate.answers import Judge, Reasoner
from cdner.annotate.method import Method
from cdner.annotate.output import Annotated, Output, answers_file, block_file, write_block
from cdner.annotate.source import Block, Source, read_block
from cdner.errors import InputError
from cdner.llm.chat.budget import Budget
from cdner.steps.context import Context
from cdner.steps.holders import ModelHolder
from cdner.steps.predicting import predict_all
from cdner.store import Store
from cdner.types import Prediction, Progress, ReasoningChain, Sentence

_Folder = TypeVar("_Folder", Path, Path | None)


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be annotated, with what, to where: the same for every block."""

    source: Source
    output: Output
    method: Method


@dataclass(frozen=True, slots=True)
class Workers:
    """How an engine spreads its work; an engine without workers takes none of it."""

    n: int = 0  # 0: as many as there is room for
    address: str = ""  # of a cluster that runs; "": one of its own
    n_gpus: float = 0.0  # of each


class Silent:
    """``types.Progress`` where nobody looks."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def start(self, label: str, total: int | None = None) -> None: ...

    def advance(self, n: int = 1, note: str = "") -> None: ...

    def warn(self, text: str) -> None:
        self.warnings.append(text)


class SentencePredictor:
    """Entities of sentences by one method: its model, and its LLM where it has one. Opens no store.

    The model is loaded at the first sentences, the LLM at the first question.
    """

    def __init__(self, method: Method, *, progress: Progress) -> None:
        self._method = method
        # The context needs a store's name; nothing opens it.
        self._context = Context(Store(Path(os.devnull)), method.experiment, progress)
        budget = Budget.of(method.experiment.execution)
        self._reasoner = Reasoner(method, method.asking, budget) if method.asking else None
        # The encoder stays loaded beside the model.
        encoding = ModelHolder(method.experiment.backbone, method.experiment.execution.device)
        self._judge = (
            Judge(
                method.judge,
                method.experiment.execution,
                budget,
                lambda encoder: encoding.backbone(encoder.choice, _present(encoder.checkpoint)),
            )
            if method.judge
            else None
        )

    def predict(
        self, sentences: Sequence[Sentence], log: Path
    ) -> list[tuple[Prediction, ReasoningChain | None]]:
        """The prediction for each sentence, with its reasoning text. ``log``: file that keeps the LLM's answers."""
        method = self._method
        chains: Sequence[ReasoningChain | None] = [None] * len(sentences)
        if self._reasoner is not None and sentences:
            chains = self._reasoner.chains([sentence.text for sentence in sentences], log)
        predicted = predict_all(
            self._context.models.predictor(method.experiment.predict, _present(method.checkpoint)),
            sentences,
            chains,
            types=method.types,
            context=self._context,
            settings=method.experiment.predict,
            keep=lambda *_: None,
        )
        predictions: Sequence[Prediction] = [predicted[index] for index in range(len(sentences))]
        if self._judge is not None:
            predictions = self._judge.fused(sentences, predictions, log)
        return list(zip(predictions, chains, strict=True))

    def close(self) -> None:
        """Close the LLMs."""
        for llm in (self._reasoner, self._judge):
            if llm is not None:
                llm.close()


class Annotator:
    """Annotates the blocks of a job with one loaded model."""

    def __init__(self, job: Job, *, progress: Progress) -> None:
        self._job = job
        self._predictor = SentencePredictor(job.method, progress=progress)

    def annotate(self, block: Block) -> None:
        """Write the file of a block. An existing file was written by a worker that ended before it could say so."""
        job = self._job
        if block_file(job.output, block.number).exists():
            return
        rows = read_block(job.source, block)
        log = answers_file(job.output, block.number)
        found = self._predictor.predict([row.sentence for row in rows], log)
        annotated = [
            Annotated(row, prediction, chain) for row, (prediction, chain) in zip(rows, found, strict=True)
        ]
        write_block(job.output, job.source, block, annotated)

    def close(self) -> None:
        self._predictor.close()


def annotate_here(
    job: Job,
    blocks: Sequence[Block],
    *,
    progress: Progress,
    workers: Workers,  # noqa: ARG001  every engine has the same signature
) -> Iterator[Block]:
    """The engine "local": one block after the other in this process; yields each when its file is there."""
    annotator = Annotator(job, progress=progress)
    try:
        for block in blocks:
            annotator.annotate(block)
            yield block
    finally:
        annotator.close()


def _present(folder: _Folder) -> _Folder:
    if folder is not None and not folder.is_dir():
        raise InputError(
            f"There is no model at {folder} on this machine. It must lie where every worker sees it."
        )
    return folder
