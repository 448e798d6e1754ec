"""The file of a bundle: a zip archive with a manifest and one JSON Lines part a table. Same rows, same bytes.

What it reads may come from anyone: nothing is unpacked to disk, sizes are bounded before anything is read, and every
line must be the canonical JSON of an object. Knows no table.
"""

from __future__ import annotations

import hashlib
import json
import struct
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cdner.errors import InputError
from cdner.files import Json, canonical_json, output
from cdner.store.migrations import latest_version
from cdner.version import __version__

FORMAT = 1
MANIFEST = "manifest.json"
LARGEST_FILE = 1 << 29  # bytes of the archive
LARGEST_CONTENT = 1 << 30  # bytes of all parts together; some hundred thousand reasonings
LARGEST_LINE = 1 << 24
_MOST_PARTS = 32
_MOST_FOLDED = 100  # bytes of content for one of the archive: the hashes in every row alone prevent more
_ALWAYS_READ = 1 << 22  # bytes of content, however tightly packed
_EARLIEST = (1980, 1, 1, 0, 0, 0)  # the zip format's first moment: no time of ours is in the file
_END = struct.Struct("<4s4H2LH")  # a zip archive's last record without a comment
_LARGE_ARCHIVE = b"PK\x06\x07"  # stands before it where sizes need 64 bits


Examine = Callable[[str, int, dict[str, Any]], None]  # (table, index, row); raises


class PartSum(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)
    rows: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Manifest(BaseModel):
    """What a bundle says of itself."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)
    format: int
    cdner: str
    schema_version: int
    experiments: list[str]  # empty: the whole store
    with_corpus: bool
    parts: dict[str, PartSum]  # table -> its part


def part_name(table: str) -> str:
    return f"{table}.jsonl"


# --- writing -----------------------------------------------------------------------------------------------


def write_archive(
    file: Path,
    rows: Mapping[str, Iterable[Mapping[str, Json]]],
    *,
    experiments: Iterable[str],
    with_corpus: bool,
    force: bool,
) -> Manifest:
    """Write all or nothing: the file appears when it is whole. UsageError as ``cdner.files.output``."""
    parts = {table: [canonical_json(row).encode() + b"\n" for row in found] for table, found in rows.items()}
    content = {part_name(table): b"".join(lines) for table, lines in parts.items()}
    sums = {
        table: PartSum(rows=len(lines), sha256=hashlib.sha256(content[part_name(table)]).hexdigest())
        for table, lines in sorted(parts.items())
    }
    manifest = Manifest(
        format=FORMAT,
        cdner=__version__,
        schema_version=latest_version(),
        experiments=sorted(experiments),
        with_corpus=with_corpus,
        parts=sums,
    )
    content[MANIFEST] = canonical_json(manifest.model_dump()).encode() + b"\n"
    with output(file, force=force) as unfinished:
        unfinished.write_bytes(_zipped(content))
    return manifest


def _zipped(content: Mapping[str, bytes]) -> bytes:
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in sorted(content):
            entry = zipfile.ZipInfo(name, _EARLIEST)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.create_system = 3  # the same on every system
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, content[name], compresslevel=9)
    return buffer.getvalue()


# --- reading -----------------------------------------------------------------------------------------------


def read_archive(
    file: Path, tables: Collection[str], examine: Examine
) -> tuple[Manifest, dict[str, list[dict[str, Any]]]]:
    """The manifest and table -> rows. InputError for anything that is not as ``write_archive`` leaves it.

    ``examine`` is called with each row as it is read, so that what it refuses ends the reading.
    """
    try:
        _refuse_odd_directory(file)
        with zipfile.ZipFile(file) as archive:
            entries = _entries(archive, {MANIFEST, *map(part_name, tables)}, file)
            manifest = _manifest(_bytes(archive, entries, MANIFEST, file), file)
            expected = {MANIFEST, *map(part_name, manifest.parts)}
            if entries.keys() != expected:
                odd = sorted(entries.keys() ^ expected)[0]
                raise InputError(f"{file}: {odd} is either in the manifest or in the archive, not in both.")
            rows = {}
            for table, summed in manifest.parts.items():
                entry = entries[part_name(table)]
                where = f"{file}: {entry.filename}"
                _check_sum(archive, entry, summed, where)
                rows[table] = list(_rows(archive, entry, table, examine, where))
    except OSError as error:
        raise InputError(f"Cannot read the bundle {file}: {error.strerror or error}.") from error
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise InputError(f"{file} is no bundle of cdner, or is damaged: {error}.") from error
    return manifest, rows


def _refuse_odd_directory(file: Path) -> None:
    """Before ``zipfile`` reads the archive's directory into memory: ours is small and without a comment."""
    size = file.stat().st_size
    if size > LARGEST_FILE:
        raise InputError(f"{file} has {size} bytes; a bundle has at most {LARGEST_FILE}.")
    with file.open("rb") as source:
        source.seek(max(0, size - _END.size - 20))
        tail = source.read()
    if len(tail) < _END.size:
        raise InputError(f"{file} is no bundle of cdner: it is too short.")
    mark, *_, n_entries, n_bytes, _, n_comment = _END.unpack(tail[-_END.size :])
    is_large = tail[: -_END.size].startswith(_LARGE_ARCHIVE)
    if mark != b"PK\x05\x06" or n_comment or is_large or n_entries > _MOST_PARTS or n_bytes > 1 << 16:
        raise InputError(f"{file} is no bundle of cdner.")


def _entries(archive: zipfile.ZipFile, known: set[str], file: Path) -> dict[str, zipfile.ZipInfo]:
    entries: dict[str, zipfile.ZipInfo] = {}
    for entry in archive.infolist():
        name = ascii(entry.filename[:60])
        if entry.filename not in known:
            raise InputError(f"{file} holds {name}, which is no part of a bundle.")
        if entry.filename in entries:
            raise InputError(f"{file} holds {name} twice.")
        if entry.flag_bits & 1 or entry.compress_type not in (zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED):
            raise InputError(f"{file}: {name} is encrypted or compressed in a way that bundles are not.")
        entries[entry.filename] = entry
    total = sum(entry.file_size for entry in entries.values())
    if total > LARGEST_CONTENT:
        raise InputError(f"{file} would unpack to {total} bytes; a bundle has at most {LARGEST_CONTENT}.")
    packed = sum(entry.compress_size for entry in entries.values())
    if total > max(_ALWAYS_READ, _MOST_FOLDED * packed):
        raise InputError(
            f"{file} would unpack to {total} bytes from {packed}: no bundle of cdner is packed so tightly."
        )
    if MANIFEST not in entries:
        raise InputError(f"{file} is no bundle of cdner: it has no {MANIFEST}.")
    return entries


def _bytes(archive: zipfile.ZipFile, entries: Mapping[str, zipfile.ZipInfo], name: str, file: Path) -> bytes:
    """A part's bytes: never more than its entry says, which was added up before."""
    entry = entries[name]
    with archive.open(entry) as part:
        content = part.read(entry.file_size + 1)
    if len(content) != entry.file_size:
        raise InputError(f"{file}: {name} has not the size that the archive says.")
    return content


def _manifest(content: bytes, file: Path) -> Manifest:
    try:
        manifest = Manifest.model_validate_json(content)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part)[:40] for part in problem["loc"])
        raise InputError(f"{file}: {MANIFEST}: {where or 'content'}: {problem['msg']}.") from error
    if manifest.format != FORMAT or manifest.schema_version > latest_version():
        raise InputError(
            f"{file} was packed by cdner {manifest.cdner[:20]} (format {manifest.format}, schema "
            f"{manifest.schema_version}); this cdner reads format {FORMAT} and schemas up to {latest_version()}."
        )
    return manifest


def _check_sum(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, summed: PartSum, where: str) -> None:
    """A pass over the bytes alone, a block at a time: nothing is kept."""
    digest, n_bytes, n_lines, last = hashlib.sha256(), 0, 0, b"\n"
    with archive.open(entry) as part:
        while block := part.read(1 << 20):
            digest.update(block)
            n_bytes, n_lines, last = n_bytes + len(block), n_lines + block.count(b"\n"), block[-1:]
            if n_bytes > entry.file_size:
                break
    if n_bytes != entry.file_size:
        raise InputError(f"{where} has not the size that the archive says.")
    if digest.hexdigest() != summed.sha256:
        raise InputError(f"{where}: its SHA-256 is not the manifest's; the file is damaged or was changed.")
    if last != b"\n" or n_lines != summed.rows:
        raise InputError(f"{where}: it has {n_lines} rows, the manifest says {summed.rows}.")


def _rows(
    archive: zipfile.ZipFile, entry: zipfile.ZipInfo, table: str, examine: Examine, where: str
) -> Iterator[dict[str, Any]]:
    with archive.open(entry) as part:
        index = 0
        while line := part.readline(LARGEST_LINE + 2):
            row = _row(line.removesuffix(b"\n"), f"{where}, row {index + 1}")
            examine(table, index, row)
            yield row
            index += 1


def _row(line: bytes, where: str) -> dict[str, Any]:
    """Canonical, so that no key stands twice and no number is one that JSON does not have."""
    if len(line) > LARGEST_LINE:
        raise InputError(f"{where}: it has {len(line)} bytes; a row has at most {LARGEST_LINE}.")
    try:
        row = json.loads(line)
        is_canonical = isinstance(row, dict) and canonical_json(row).encode() == line
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: it is not JSON: {str(error)[:80]}.") from error
    if not is_canonical:
        raise InputError(f"{where}: it is not the canonical JSON of an object.")
    return dict(row)
