"""What is written appears whole or not at all, and what killed writers leave is gone after the next one."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cdner.files import replacing, settle, unfinished_path

WRITE_A_FOLDER = """
import os, signal, sys
from pathlib import Path
from cdner import files as unfinished
moment, target = sys.argv[1], Path(sys.argv[2])
die = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
if moment == "in place":
    unfinished.remove = die  # the old one is still aside
elif moment == "aside":
    rename, Path.rename = Path.rename, lambda path, new: die() if path.suffix == ".new" else rename(path, new)
elif moment == "synchronised":
    unfinished._synchronise = die
with unfinished.replacing(target) as folder:
    folder.mkdir()
    (folder / "file").write_text("new")
    if moment == "written":
        die()
"""


def killed_writer(target: Path, moment: str) -> int:
    """The pid of a process that was replacing a folder by one that holds "new"."""
    child = subprocess.Popen([sys.executable, "-c", WRITE_A_FOLDER, moment, str(target)])
    assert child.wait() == -9
    return child.pid


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    ("moment", "content"),
    [("written", "old"), ("synchronised", "old"), ("aside", "old"), ("in place", "new")],
)
def test_a_killed_writer_leaves_the_old_folder_or_the_new_one(
    tmp_path: Path, moment: str, content: str
) -> None:
    target = tmp_path / "folder"
    target.mkdir()
    (target / "file").write_text("old")
    killed_writer(target, moment)
    assert len(names(tmp_path)) == (1 if moment == "in place" else 2) + (moment == "in place")
    settle(target)
    assert names(tmp_path) == ["folder"]
    assert (target / "file").read_text() == content


def test_what_a_living_process_is_writing_stays(tmp_path: Path) -> None:
    target = tmp_path / "file"
    living, other = tmp_path / f".file.{os.getppid()}.new", tmp_path / ".file.txt.1.new"
    dead = tmp_path / f".file.{killed_writer(tmp_path / 'folder', 'written')}.new"
    for path in (living, other, dead):
        path.write_text("begun")
    with replacing(target) as unfinished:
        unfinished.write_text("whole")
    assert target.read_text() == "whole"
    assert living.exists()
    assert other.exists()
    assert not dead.exists()


def test_nobody_sees_a_file_before_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_text("old")
    with replacing(target) as unfinished:
        assert unfinished == unfinished_path(target)
        unfinished.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert names(tmp_path) == ["file"]


def test_a_failure_leaves_the_target_alone_and_names_it(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_text("old")
    with pytest.raises(OSError, match="No space") as raised, replacing(target) as unfinished:
        unfinished.write_text("half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert raised.value.filename == str(target)
    assert names(tmp_path) == ["file"]
    assert target.read_text() == "old"


def test_behind_a_link_the_file_is_replaced_and_a_pipe_is_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    (tmp_path / "link").symlink_to("file")
    with replacing(tmp_path / "link") as unfinished:
        unfinished.write_text("new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_text() == "new"
    reading, writing = os.pipe()
    with replacing(Path(f"/dev/fd/{writing}")) as unfinished:
        unfinished.write_text("through")
    os.close(writing)
    with os.fdopen(reading) as pipe:
        assert pipe.read() == "through"
