"""SHA-256 of weight files, remembered between commands: every plan names weights by content, and they are gigabytes.

One small file in the cache for each weight file. It is believed only while path, size, inode and both times of the
file are as they were; lost or broken, it costs a second reading and nothing else.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from cdner.hashing import file_sha256
from cdner.resources import cache_root
from cdner.unfinished import replacing

_SHA256 = re.compile("[0-9a-f]{64}")
# A file that is written twice within one tick of the file system's clock has the same times twice: what is younger
# than this when it is read is not remembered (git does the same with its index).
YOUNG_SECONDS = 2.0


def remembered_sha256(file: Path) -> str:
    """SHA-256 of the file's bytes, read only if it has changed since it was last read. OSError if it cannot be read."""
    record, before = _record(file), _state(file)
    try:
        known = json.loads(record.read_text(encoding="utf-8"))
        sha256 = known.pop("sha256")
        if known == asdict(before) and _SHA256.fullmatch(sha256):
            return str(sha256)
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        pass  # lost or broken
    started = time.time()
    sha256 = file_sha256(file)
    youngest = max(before.mtime_ns, before.ctime_ns) / 1e9
    if youngest < started - YOUNG_SECONDS and _state(file) == before:
        with contextlib.suppress(OSError):  # a cache that cannot be written
            record.parent.mkdir(parents=True, exist_ok=True)
            with replacing(record) as made:
                made.write_text(json.dumps({**asdict(before), "sha256": sha256}), encoding="utf-8")
            _forget_removed_files(record.parent)
    return sha256


def _forget_removed_files(folder: Path) -> None:
    for record in folder.glob("*.json"):
        try:
            is_left = Path(json.loads(record.read_text(encoding="utf-8"))["path"]).exists()
        except (OSError, ValueError, KeyError, TypeError):
            is_left = False
        if not is_left:
            record.unlink(missing_ok=True)


def _record(file: Path) -> Path:
    name = hashlib.sha256(str(file.resolve()).encode(errors="surrogateescape")).hexdigest()
    return cache_root() / "checksums" / f"{name[:24]}.json"


@dataclass(frozen=True, slots=True)
class _State:
    path: str
    size: int  # bytes
    mtime_ns: int
    ctime_ns: int  # no program sets it: a file that was rewritten and given its old mtime has another
    inode: int


def _state(file: Path) -> _State:
    found = file.stat()
    return _State(str(file.resolve()), found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)
