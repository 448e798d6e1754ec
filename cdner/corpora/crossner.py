"""CrossNER at one pinned commit: its checksums, its download, its folder.

Exists so that every user measures on the same bytes: the files' SHA-256 sums are part of the package (as
data, beside this file), so the identity of a run is known before anything is fetched, and an older edition
is refused. Does not know where the user keeps the files, nor the format inside them (``conll.py`` does).
"""

from __future__ import annotations

import hashlib
import os
import ssl
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from http.client import HTTPException
from pathlib import Path
from types import MappingProxyType
from typing import Protocol, cast
from urllib.error import HTTPError
from urllib.request import (
    HTTPDefaultErrorHandler,
    HTTPErrorProcessor,
    HTTPRedirectHandler,
    HTTPSHandler,
    OpenerDirector,
    ProxyHandler,
    UnknownHandler,
)

from cdner.corpora.conll import ConllReader
from cdner.errors import InputError, unknown_name
from cdner.files import file_sha256
from cdner.types import Corpus, Progress, Split

REPOSITORY = "zliucr/CrossNER"
COMMIT = "2e7ba2a7798c961e3f29fbc51252c5a8d40224bf"
_FOLDER = "ner_data"
_SUMS = Path(__file__).with_name("crossner.sha256")
_BLOCK_BYTES = 1 << 16
_TIMEOUT_SECONDS = 60.0


def _read_sums() -> Mapping[tuple[str, Split], str]:
    sums: dict[tuple[str, Split], str] = {}
    for line in _SUMS.read_text(encoding="ascii").splitlines():
        sha256, name = line.split()
        domain, split = name.removesuffix(".txt").split("/")
        sums[domain, cast(Split, split)] = sha256
    return MappingProxyType(sums)


FILES: Mapping[tuple[str, Split], str] = _read_sums()  # (domain, split) -> SHA-256 of the file's bytes
DOMAINS: tuple[str, ...] = tuple(dict.fromkeys(domain for domain, _ in FILES))
SPLITS: tuple[Split, ...] = ("train", "dev", "test")


class Readable(Protocol):
    def read(self, n: int, /) -> bytes: ...


OpenUrl = Callable[[str], AbstractContextManager[Readable]]


def address(domain: str, split: Split) -> str:
    """Where the pinned file is served."""
    _known(domain)
    return f"https://raw.githubusercontent.com/{REPOSITORY}/{COMMIT}/{_FOLDER}/{domain}/{split}.txt"


def open_https(url: str) -> AbstractContextManager[Readable]:
    """Open a URL by https and nothing else, redirects included. Raises OSError, as urllib does."""
    opener = OpenerDirector()
    for handler in (
        ProxyHandler(),
        UnknownHandler(),
        HTTPSHandler(context=ssl.create_default_context()),
        HTTPDefaultErrorHandler(),
        HTTPRedirectHandler(),
        HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    return cast(AbstractContextManager[Readable], opener.open(url, timeout=_TIMEOUT_SECONDS))


def fetch(
    domains: Sequence[str], destination: Path, *, progress: Progress, open_url: OpenUrl = open_https
) -> list[Path]:
    """Download every split of the domains to ``destination/<domain>/<split>.txt`` and return the paths.

    A file that is already there with the right checksum is not fetched again. Each file appears under its
    name only when it is complete and its checksum right. Raises UsageError for an unknown domain,
    InputError otherwise.
    """
    for domain in domains:
        _known(domain)
    wanted = [(domain, split) for domain in dict.fromkeys(domains) for split in SPLITS]
    progress.start("download CrossNER", len(wanted))
    paths = []
    for domain, split in wanted:
        path = destination / domain / f"{split}.txt"
        if not (path.is_file() and file_sha256(path) == FILES[domain, split]):
            _download(address(domain, split), path, sha256=FILES[domain, split], open_url=open_url)
        paths.append(path)
        progress.advance(1, f"{domain}/{split}")
    return paths


def read_folder(path: Path, *, domain: str, split: Split, verify: bool = True) -> Corpus:
    """Read one split from a folder of domains, or from a clone of the repository.

    Raises UsageError for an unknown domain and InputError when the file is missing, malformed, or (with
    ``verify``) not the pinned one.
    """
    file = _locate(path, domain, split)
    if verify:
        got, expected = file_sha256(file), FILES[domain, split]
        if got != expected:
            raise InputError(
                f"{file} is not CrossNER at commit {COMMIT[:12]}: SHA-256 {got}, expected {expected};"
                " fetch it again."
            )
    return ConllReader().read(file, domain=domain, split=split)


def _locate(path: Path, domain: str, split: Split) -> Path:
    _known(domain)
    for folder in (path, path / _FOLDER):
        file = folder / domain / f"{split}.txt"
        if file.is_file():
            return file
    raise InputError(
        f"No {domain}/{split}.txt in {path}; expected CrossNER's ner_data folder, one folder a domain in it."
    )


def _known(domain: str) -> None:
    if domain not in DOMAINS:
        raise unknown_name("CrossNER domain", domain, DOMAINS)


def _download(url: str, path: Path, *, sha256: str, open_url: OpenUrl) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise InputError(f"Cannot write to {path.parent}: {error.strerror or error}.") from error
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file, open_url(url) as response:
            digest = hashlib.sha256()
            while block := response.read(_BLOCK_BYTES):
                digest.update(block)
                file.write(block)
        if digest.hexdigest() != sha256:
            raise InputError(f"{url} has SHA-256 {digest.hexdigest()}, expected {sha256}; nothing was kept.")
        temporary.chmod(0o644)
        temporary.replace(path)
    except (OSError, HTTPException) as error:
        raise InputError(_failure(url, path, error)) from error
    finally:
        temporary.unlink(missing_ok=True)


def _failure(url: str, path: Path, error: OSError | HTTPException) -> str:
    reason = (
        f"HTTP status {error.code}" if isinstance(error, HTTPError) else str(error) or type(error).__name__
    )
    return (
        f"Cannot fetch {url} to {path}: {reason}. Without a connection, get the repository {REPOSITORY}"
        f" at commit {COMMIT} some other way and use --from DIR."
    )
