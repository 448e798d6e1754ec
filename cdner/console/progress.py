"""Progress and warnings on stderr: a rich bar in a terminal, one line per tenth otherwise.

``--quiet`` suppresses progress, not warnings.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from cdner.console.output import visible

_WARNING = "Warning: "
SECONDS_BETWEEN = 10.0  # lines of the same beginning, where there is no bar to show them in


class StderrProgress:
    """Implements ``types.Progress``. Use as a context manager; one bar at a time.

    Inside it what the package logs is shown too: what a server that is being started waits for.
    """

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self.warnings: list[str] = []
        self._label = ""
        self._total: int | None = None
        self._n_done = 0
        self._n_shown = 0
        self._started = time.monotonic()
        self._bar: Any = None
        self._task: Any = None
        self._logged: dict[str, float] = {}  # beginning of a line -> when it was last shown
        self._handler: logging.Handler = logging.StreamHandler(_Lines(self))

    def __enter__(self) -> StderrProgress:
        self._handler.setLevel(logging.WARNING if self._quiet else logging.INFO)
        logger = logging.getLogger("cdner")
        logger.setLevel(logging.INFO)
        logger.addHandler(self._handler)
        if not self._quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                MofNCompleteColumn,
                Progress,
                TextColumn,
                TimeElapsedColumn,
                TimeRemainingColumn,
            )

            self._bar = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}", markup=False),
                console=Console(stderr=True),
                transient=True,  # what has ended stays as a line of its own
            )
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        logging.getLogger("cdner").removeHandler(self._handler)
        if self._bar is not None:
            self._end_bar()
            self._bar.stop()

    def say(self, line: str) -> None:
        """Show a line beside the running work: in its bar, else on a line of its own, not too often."""
        line, now = visible(line), time.monotonic()
        beginning = line.partition(":")[0]
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, note=line)
        elif now - self._logged.get(beginning, -SECONDS_BETWEEN) >= SECONDS_BETWEEN:
            self._logged[beginning] = now
            self._show(f"  {line}")

    def start(self, label: str, total: int | None = None) -> None:
        """Begin a piece of work of ``total`` units (None: unknown)."""
        if self._bar is not None:
            self._end_bar()
        self._label, self._total = visible(label), total
        self._n_done = self._n_shown = 0
        self._started = time.monotonic()
        if self._bar is not None:
            self._task = self._bar.add_task(self._label, total=total, note="")
        elif not self._quiet:
            of_total = "" if total is None else f" ({total})"
            self._show(f"{self._label}{of_total} ...")

    def advance(self, n: int = 1, note: str = "") -> None:
        """``n`` units are done."""
        self._n_done += n
        if self._bar is not None:
            self._bar.update(self._task, advance=n, note=visible(note))
        elif not self._quiet and self._total and (self._n_done - self._n_shown) * 10 >= self._total:
            self._n_shown = self._n_done
            self._show(f"  {self._state()} {visible(note)}".rstrip())

    def warn(self, text: str) -> None:
        """Show a warning, also with ``--quiet``, and remember it."""
        self.warnings.append(text)
        line = f"{_WARNING}{visible(text)}"
        if self._bar is not None:
            self._bar.console.print(line, markup=False, highlight=False)
        else:
            self._show(line)

    def _show(self, line: str) -> None:
        """Work goes on when nobody reads its progress any more (``cdner ... 2>&1 | head -1``)."""
        try:
            print(line, file=sys.stderr, flush=True)
        except BrokenPipeError:
            self._quiet = True
            os.dup2(
                os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno()
            )  # takes what is still in the buffer

    def _end_bar(self) -> None:
        """The bar of what has ended gives way to a line that stays."""
        if self._task is not None:
            self._bar.remove_task(self._task)
            self._bar.console.print(self._state(), markup=False, highlight=False)
            self._task = None

    def _state(self) -> str:
        of_total = "" if self._total is None else f" {self._n_done}/{self._total},"
        return f"{self._label}:{of_total} {time.monotonic() - self._started:.0f} s"


@dataclass(frozen=True, slots=True)
class _Lines:
    """A stream for ``logging``: every record is one line. One that begins with "Warning: " is a warning."""

    progress: StderrProgress

    def write(self, text: str) -> None:
        line = text.strip()
        if line.startswith(_WARNING):
            self.progress.warn(line.removeprefix(_WARNING))
        elif line:
            self.progress.say(line)

    def flush(self) -> None:
        """Shown at once."""
