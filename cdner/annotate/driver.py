"""Annotates a whole file: finds its blocks, skips those that are there, and gives the others to an engine.

The only part that knows of the store, the folder's manifest and the engine's name.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

from cdner.annotate.method import Method
from cdner.annotate.output import Output, added_columns, block_file, claimed, output_format, write_manifest
from cdner.annotate.source import RENAMED, TOKENS, Block, Index, Source, read_index
from cdner.annotate.worker import Job, Workers
from cdner.files import Json
from cdner.registry import resolve
from cdner.types import Progress

MANIFEST_VERSION = 1
BLOCK_SIZE = 256  # rows: what a kill may lose, by worker


class Engine(Protocol):
    """What a registry line of kind ``engine`` names."""

    def __call__(
        self, job: Job, blocks: Sequence[Block], *, progress: Progress, workers: Workers
    ) -> Iterator[Block]:
        """Yield each block when its file is there, in any order; ``progress`` is told of sentences."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a folder holds when a command has ended."""

    output: Path
    n_blocks: int
    n_found: int  # of the blocks, there before
    n_sentences: int
    n_bad_rows: int
    bad_rows: tuple[str, ...]  # the first few
    seconds: float


def annotate(
    source: Source,
    folder: Path,
    method: Method,
    *,
    progress: Progress,
    engine: str = "local",
    workers: Workers = Workers(),  # noqa: B008  immutable
    block_size: int = BLOCK_SIZE,
) -> Outcome:
    """Write every block that is not in the folder yet.

    InputError for bad rows, unless the source skips them; UsageError for an unknown engine and for a folder of
    something else; PartialError where an LLM leaves gaps. Finished blocks stay in every case.
    """
    started = time.monotonic()
    run = cast(Engine, resolve("engine", engine))
    file_format = output_format(folder, source)
    added = added_columns(
        source,
        with_reasoning=method.asking is not None,
        with_scores=method.says_how_sure,
    )
    progress.start(f"reading {source.path.name}")
    index = read_index(source, block_size=block_size, added=added, as_table=file_format == "parquet")
    if index.n_renamed:
        progress.warn(
            f"{index.n_renamed} rows have '{TOKENS}' of their own, kept as '{RENAMED}'; '{TOKENS}' are now the text's"
        )
    output = Output(folder.resolve(), file_format, added, index.columns)
    manifest = _manifest(index, method, output, block_size)
    with claimed(output, manifest):
        pending = [block for block in index.blocks if not block_file(output, block.number).exists()]
        n_left = sum(block.n_sentences for block in pending)
        if pending:
            pace = _Pace(progress, n_left)
            progress.start(_label(index, len(pending)), n_left)
            for _ in run(Job(source, output, method), pending, progress=pace, workers=workers):
                pass
        write_manifest(output.folder, {**manifest, "is_complete": True})
    return Outcome(
        *(folder, len(index.blocks), len(index.blocks) - len(pending), index.n_sentences),
        *(index.n_bad, tuple(index.bad), time.monotonic() - started),
    )


class _Pace:
    """``types.Progress`` in sentences, with their rate and how long it will take."""

    def __init__(self, progress: Progress, n_sentences: int) -> None:
        self._progress = progress
        self._n_left = n_sentences
        self._n_done = 0
        self._started = time.monotonic()

    @property
    def warnings(self) -> Sequence[str]:
        return self._progress.warnings

    def warn(self, text: str) -> None:
        self._progress.warn(text)

    def start(self, label: str, total: int | None = None) -> None:
        """What an engine does beside annotating is shown in a line."""
        self._progress.start(label, total)

    def advance(self, n: int = 1, note: str = "") -> None:
        self._n_done += n
        self._n_left -= n
        rate = self._n_done / max(time.monotonic() - self._started, 1e-3)
        seconds = round(max(self._n_left, 0) / rate)
        left = f"{rate:.3g} sentences/s, {seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d} left"
        self._progress.advance(n, note=", ".join(filter(None, (left, note))))


def _label(index: Index, n_pending: int) -> str:
    n_found = len(index.blocks) - n_pending
    there = f", {n_found} of {len(index.blocks)} blocks are there" if n_found else ""
    return f"annotate {index.source.path.name}{there}"


def _manifest(index: Index, method: Method, output: Output, block_size: int) -> dict[str, Json]:
    source = index.source
    made_of: dict[str, Json] = {
        "version": MANIFEST_VERSION,
        "input": {"sha256": index.sha256, "column": source.column, "skips_bad_rows": source.skips_bad_rows},
        "format": output.format,
        "block_size": block_size,
        "method": method.identity(),
    }
    return {
        "is_complete": False,
        "input": source.path.name,
        "n_blocks": len(index.blocks),
        "n_sentences": index.n_sentences,
        "n_bad_rows": index.n_bad,
        "added": dict(output.added),
        "made_of": made_of,
    }
