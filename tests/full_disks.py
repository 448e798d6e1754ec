"""Small disks of a test's own: memory file systems that become full, and grow when the test makes space."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

MB = 1 << 20


@dataclass(frozen=True, slots=True)
class Disk:
    folder: Path

    @property
    def n_free(self) -> int:
        """Bytes."""
        found = os.statvfs(self.folder)
        return found.f_bavail * found.f_bsize

    def resize(self, n_bytes: int) -> None:
        """The size of the whole disk. Named in full, or mount repeats an owner that a namespace does not know."""
        _mount("-t", "tmpfs", "-o", f"remount,size={n_bytes}", "tmpfs", self.folder)

    def fill(self, *, leave: int = 0) -> Path:
        """A file that takes all space but this much (in whole pages)."""
        file = self.folder / "filler"
        with file.open("wb") as filler:
            os.posix_fallocate(filler.fileno(), 0, self.n_free - leave)
        return file


@contextlib.contextmanager
def small_disk(folder: Path, n_bytes: int = 3 * MB) -> Iterator[Disk]:
    """Only root may mount one, be it of a namespace (``scripts/test`` makes one). Without, the test fails."""
    folder.mkdir()
    try:
        _mount("-t", "tmpfs", "-o", f"size={n_bytes}", "tmpfs", folder)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.fail(f"a disk cannot be mounted here: {error}")
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Nobody, not even root, may write below the folder."""
    try:
        _mount("--bind", folder, folder)
        _mount("-o", "remount,ro,bind", folder)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.fail(f"a folder cannot be made read-only here: {error}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _mount(*arguments: object) -> None:
    subprocess.run(["mount", *map(str, arguments)], check=True, capture_output=True)
