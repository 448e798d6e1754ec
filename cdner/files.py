"""Files that are written whole or not at all, the files that ship with cdner, and content hashes.

A file or folder is written as ``.NAME.PID.new`` beside its place, synchronised to disk and renamed, so it appears under
its name only when it is complete. A folder that is replaced is ``.NAME.PID.old`` meanwhile. What killed writers leave
is removed by the next writer of the same name, and a folder that had been set aside comes back.

What a command writes for its user goes through ``output``, which decides what may be replaced.

Prompts, SQL and experiments are outside the package in a checkout and inside it in a wheel. What is fetched once per
machine has a cache folder.

Two values have the same content hash exactly when their canonical JSON is the same; the hash identifies runs, requests
and sentences. Settings pass through the typed configuration first, where 1 and 1.0 have become one of the two.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from cdner.errors import UsageError


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Yield a path to write a file or a folder at; it takes the target's place when the block ends well.

    Whatever fails leaves the target as it was and nothing else. An OSError that names no file names the target. Behind
    a link it is the file that is replaced; what is neither file nor folder (a pipe, a terminal) is written as it is.
    What takes the place of something keeps its mode: of a file, from the first byte on.
    """
    if target.exists() and not (target.is_file() or target.is_dir()):
        yield target
        return
    target = target.resolve()
    settle(target)
    made = unfinished_path(target)
    mode = stat.S_IMODE(target.stat().st_mode) if target.exists() else None
    try:
        if mode is not None and target.is_file():
            os.close(os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
            made.chmod(mode)
        yield made
        if mode is not None:
            made.chmod(mode)
        for path in [*made.rglob("*"), made]:
            _synchronise(path)
        _put_in_place(made, target)
        _synchronise(target.parent)
    except OSError as error:
        if error.errno is not None and error.filename is None:  # else it has a text of its own
            error.filename = str(target)
        raise
    finally:
        remove(made)


@contextmanager
def output(target: Path, *, force: bool, foreign_in: Callable[[Path], str] | None = None) -> Iterator[Path]:
    """As ``replacing``, for a file or folder that a user named; UsageError where ``check_output`` refuses it."""
    check_output(target, force=force, foreign_in=foreign_in)
    with replacing(target) as made:
        yield made


def check_output(target: Path, *, force: bool, foreign_in: Callable[[Path], str] | None = None) -> None:
    """UsageError for a target that must not be written, before any work is done for it.

    Refused in every case: a database (it may be a store) and the files that belong to one, a link, a pipe or a device,
    a place in no folder. What exists is replaced only with ``force``. ``foreign_in``: the target is a folder, replaced
    only where this names nothing in it that cdner did not write; without it the target is a file.
    """
    if not target.absolute().parent.is_dir():
        raise UsageError(f"{target}: there is no such folder.")
    if _belongs_to_database(target):
        raise UsageError(f"{target} belongs to a database, perhaps a store: it is never replaced.")
    try:
        mode = target.lstat().st_mode
    except FileNotFoundError:
        return
    if stat.S_ISLNK(mode):
        raise UsageError(f"{target} is a link: it is not replaced. Name the file itself, or another.")
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise UsageError(f"{target} is neither a file nor a folder: nothing is written to it.")
    if stat.S_ISDIR(mode) != (foreign_in is not None):
        kinds = ("folder", "file") if stat.S_ISDIR(mode) else ("file", "folder")
        raise UsageError(f"{target} is a {kinds[0]}, not a {kinds[1]}: it is not replaced.")
    if not force:
        raise UsageError(f"{target} exists. Name another file, or use --force to replace it.")
    if foreign_in is not None and (foreign := foreign_in(target)):
        raise UsageError(f"{target} holds {foreign}, which no export wrote: it is not replaced.")


_BESIDE_A_DATABASE = (".wal", ".wal.checkpoint", ".wal.recovery", ".tmp")


def _belongs_to_database(path: Path) -> bool:
    beside = [path.name.removesuffix(end) for end in _BESIDE_A_DATABASE if path.name.endswith(end)]
    return any(is_database(file) for file in (path, *(path.with_name(name) for name in beside if name)))


def is_database(path: Path) -> bool:
    """Whether a file is one of DuckDB's, by its content."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(12)[8:] == b"DUCK"


def settle(target: Path) -> None:
    """Undo or remove what killed writers of this target have left; leave alone what a living one is writing."""
    for left in _abandoned(target):
        if left.suffix == ".old" and not target.exists():
            with contextlib.suppress(FileNotFoundError):  # another process has been faster
                left.rename(target)
        remove(left)


def unfinished_path(target: Path) -> Path:
    """Where this process writes what will be ``target``."""
    return target.with_name(f".{target.name}.{os.getpid()}.new")


def remove(path: Path) -> None:
    """Remove a file or a whole folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def expanded(path: Path) -> Path:
    """The path with ``~`` as the home folder, which a shell does not expand in ``--store=~/x``."""
    try:
        return path.expanduser()
    except RuntimeError:  # a user that this machine does not have: the name is taken as it is
        return path


def pid_exists(pid: int) -> bool:
    """Whether some process of this machine has the pid now."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # somebody else's process: it exists
    return True


def _abandoned(target: Path) -> Iterator[Path]:
    """By dead processes and by our own earlier work; also what libraries put beside it (``....new.wal``)."""
    start = f".{target.name}."
    for kind in ("new*", "old"):
        for left in target.parent.glob(f"{glob.escape(start)}*.{kind}"):
            pid = left.name.removeprefix(start).partition(".")[0]
            if pid.isdecimal() and (int(pid) == os.getpid() or not pid_exists(int(pid))):
                yield left


def _put_in_place(made: Path, target: Path) -> None:
    """No single call replaces a folder that is not empty: the old one steps aside."""
    if not (target.is_dir() and made.is_dir()):
        made.replace(target)
        return
    aside = target.with_name(f".{target.name}.{os.getpid()}.old")
    target.rename(aside)
    try:
        made.rename(target)
    except OSError:
        aside.rename(target)
        raise
    remove(aside)


def _synchronise(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


_PACKAGE = Path(__file__).parent
_CHECKOUT = {"prompts": "prompts", "store": "store", "experiments": "scripts/experiments"}


def resource_root(name: str) -> Path:
    """Directory of ``prompts``, ``store`` or ``experiments``."""
    inside = _PACKAGE / f"_{name}"
    return inside if inside.is_dir() else _PACKAGE.parent / _CHECKOUT[name]


def cache_root() -> Path:
    """``CDNER_CACHE``, else ``XDG_CACHE_HOME/cdner``, else ``~/.cache/cdner``: fetched models and WordNet."""
    if own := os.environ.get("CDNER_CACHE"):
        return Path(own).expanduser()
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return Path(shared).expanduser() / "cdner"
    return Path.home() / ".cache" / "cdner"


HASH_HEX_DIGITS = 24  # 96 bits: no collision in any store that fits a disk, short enough to read and paste

Json = None | bool | int | float | str | Sequence["Json"] | Mapping[str, "Json"]


def canonical_json(value: Json) -> str:
    """Sorted keys, no spaces, UTF-8 characters as they are.

    ValueError for NaN and infinities at any depth, TypeError for what is no JSON.
    """
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False, default=_plain
    )


def content_hash(value: Json) -> str:
    """First 24 hexadecimal digits of SHA-256 over the canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:HASH_HEX_DIGITS]


def file_sha256(path: Path) -> str:
    """Full SHA-256 of a file's bytes, read in blocks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _plain(value: object) -> object:
    """The dict of any other mapping: frozen dataclasses hold read-only ones, and ``json`` knows only dict."""
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} has no canonical form")
