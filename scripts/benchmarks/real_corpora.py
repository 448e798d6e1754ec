"""CrossNER's sentences as every benchmark takes them: from a folder, or fetched."""

from __future__ import annotations

import tempfile
from pathlib import Path

from cdner.corpora import crossner
from cdner.types import Corpus, Split


class Silent:
    """Progress of a download, shown to nobody."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def start(self, label: str, total: int | None = None) -> None: ...

    def advance(self, n: int = 1, note: str = "") -> None: ...

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def read_crossner(folder: Path | None, domain: str, *splits: Split) -> list[Corpus]:
    with tempfile.TemporaryDirectory() as scratch:
        if folder is None:
            folder = Path(scratch)
            crossner.fetch([domain], folder, progress=Silent())
        return [crossner.read_folder(folder, domain=domain, split=split) for split in splits]
