"""Makes an NLTK data root of WordNet 3.0 from Debian's packages, where NLTK's server is out of reach.

Needs ``apt-get`` and ``dpkg-deb``, no root rights: packages are unpacked, never installed. Knows nothing of
NLTK beyond the layout of its data root.
"""

from __future__ import annotations

import gzip
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from cdner.errors import InputError

_PACKAGES = ("wordnet-base", "wordnet-sense-index")
_SYNTACTIC_CATEGORY = {"noun": 1, "verb": 2, "adj": 3, "adv": 4}  # lexnames(5WN)
_LEXNAME = re.compile(r"^(\d\d)\t((noun|verb|adj|adv)\.\w+)", re.MULTILINE)
_N_LEXNAMES = 45  # lexnames(5WN): "forty-five lexicographer files"


def build_from_debian(root: Path) -> None:
    """Make ``root/corpora/wordnet`` of the packages wordnet-base and wordnet-sense-index.

    The folder appears under its name only when complete. InputError when a tool is missing, apt cannot reach
    the packages, or they do not hold what NLTK reads.
    """
    target = root / "corpora" / "wordnet"
    try:
        # NLTK refuses roots that others can write, so the umask must not decide.
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
        root.chmod(0o755)
        with tempfile.TemporaryDirectory(dir=root, prefix="building-") as folder:
            scratch = Path(folder)
            for package in _download(scratch):
                _run("dpkg-deb", "-x", package.name, "unpacked", folder=scratch)
            complete = _assemble(scratch / "unpacked", scratch / "wordnet")
            shutil.rmtree(
                target, ignore_errors=True
            )  # what is there is not readable, or we would not be called
            complete.rename(target)
    except OSError as error:
        raise InputError(f"Cannot build WordNet in {root}: {error}.") from error


def lexnames(manual_page: str) -> str:
    """The table NLTK expects as file ``lexnames``, from the text of lexnames(5WN): no package has the file.

    One line per lexicographer file: number, name, syntactic category, separated by tabs.
    """
    rows = [
        f"{number}\t{name}\t{_SYNTACTIC_CATEGORY[category]}\n"
        for number, name, category in _LEXNAME.findall(manual_page)
    ]
    if len(rows) != _N_LEXNAMES:
        raise InputError(f"lexnames(5WN) lists {len(rows)} lexicographer files instead of {_N_LEXNAMES}.")
    return "".join(rows)


def _download(scratch: Path) -> list[Path]:
    try:
        _run("apt-get", "download", *_PACKAGES, folder=scratch)
    except InputError:
        # Slim containers carry no package lists; a private copy needs no root rights.
        lists, cache = scratch / "lists", scratch / "cache"
        (lists / "partial").mkdir(parents=True)
        (cache / "archives" / "partial").mkdir(parents=True)
        private = ("-o", f"Dir::State::Lists={lists}", "-o", f"Dir::Cache={cache}")
        _run("apt-get", *private, "update", folder=scratch)
        _run("apt-get", *private, "download", *_PACKAGES, folder=scratch)
    return sorted(scratch.glob("*.deb"))


def _assemble(unpacked: Path, destination: Path) -> Path:
    share = unpacked / "usr" / "share"
    shutil.copytree(share / "wordnet", destination)
    shutil.copy(share / "doc" / "wordnet-base" / "copyright", destination / "LICENSE")
    page = gzip.decompress((share / "man" / "man5" / "lexnames.5WN.gz").read_bytes()).decode("utf-8")
    (destination / "lexnames").write_text(lexnames(page), encoding="utf-8")
    return destination


def _run(tool: str, *arguments: str, folder: Path) -> None:
    executable = shutil.which(tool)
    if executable is None:
        raise InputError(f"'{tool}' is not on this machine.")
    done = subprocess.run(  # noqa: S603 - fixed tools and arguments, no shell
        [executable, *arguments],
        cwd=folder,
        env={**os.environ, "LC_ALL": "C"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise InputError(
            f"{tool} {arguments[-1]} failed: {lines[-1] if lines else f'exit code {done.returncode}'}"
        )
