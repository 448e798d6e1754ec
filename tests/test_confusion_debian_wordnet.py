"""WordNet built from Debian's packages without root, and what a machine without WordNet is told."""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cdner.confusion.debian_wordnet import build_from_debian, lexnames
from cdner.errors import InputError


def _in_a_fresh_process(code: str, cache: Path) -> subprocess.CompletedProcess[str]:
    """NLTK reads its paths once per process, so an empty machine needs a process of its own."""
    environment = {key: value for key, value in os.environ.items() if key != "NLTK_DATA"}
    environment |= {"CDNER_CACHE": str(cache), "HOME": str(cache)}
    preamble = (
        "import nltk; nltk.data.path.clear()\n"
        "from cdner.confusion.descriptions import *\n"
        "from cdner.types import TypeEntry\n"
        "band = TypeEntry('band', 'band', 'band', 'band', 'dance_band.n.01', 'By hand.')\n"
    )
    return subprocess.run(
        [sys.executable, "-c", preamble + code], env=environment, capture_output=True, text=True, check=False
    )


def test_without_wordnet_the_error_says_how_to_get_it(tmp_path: Path) -> None:
    done = _in_a_fresh_process("print(wordnet_available()); gloss(band)", tmp_path)
    assert done.stdout == "False\n"
    assert "cdner models fetch wordnet" in done.stderr.splitlines()[-1]


def test_wordnet_from_debian_is_read_from_the_cache(tmp_path: Path) -> None:
    if shutil.which("apt-get") is None:  # not a Debian: all there is to show is the message
        with pytest.raises(InputError, match="'apt-get' is not on this machine"):
            build_from_debian(tmp_path / "nltk_data")
        return
    build_from_debian(tmp_path / "nltk_data")
    done = _in_a_fresh_process("print(gloss(band))", tmp_path)
    assert done.stdout.startswith("Gloss(text='a group of musicians"), done.stderr
    assert [path.name for path in (tmp_path / "nltk_data").iterdir()] == ["corpora"]


def _install_tools(folder: Path, **scripts: str) -> str:
    """A PATH whose apt-get and dpkg-deb are ours: states of other machines cannot be had here."""
    folder.mkdir()
    for name, script in scripts.items():
        tool = folder / name.replace("_", "-")
        tool.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        tool.chmod(0o755)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


UNPACK = """mkdir -p "$3/usr/share/wordnet" "$3/usr/share/doc/wordnet-base" "$3/usr/share/man/man5"
echo data > "$3/usr/share/wordnet/data.noun"; echo free > "$3/usr/share/doc/wordnet-base/copyright"
cp "$PAGE" "$3/usr/share/man/man5/lexnames.5WN.gz" """


def test_without_package_lists_private_ones_are_fetched_without_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page, log, root = tmp_path / "page.gz", tmp_path / "log", tmp_path / "nltk_data"
    page.write_bytes(gzip.compress(_manual_page(45).encode()))
    monkeypatch.setenv("PAGE", str(page))
    apt = f"""echo "$@" >> {log}
case "$*" in download*) echo "E: no lists" >&2; exit 100;; *update) exit 0;; *) touch one.deb;; esac"""
    monkeypatch.setenv("PATH", _install_tools(tmp_path / "bin", apt_get=apt, dpkg_deb=UNPACK))
    root.mkdir()
    root.chmod(0o777)
    build_from_debian(root)
    calls = log.read_text(encoding="utf-8").splitlines()
    assert [call.split()[-1] for call in calls] == ["wordnet-sense-index", "update", "wordnet-sense-index"]
    assert all(f"Dir::State::Lists={root}" in call for call in calls[1:])
    assert (root / "corpora" / "wordnet" / "data.noun").read_text(encoding="utf-8") == "data\n"
    assert [path.name for path in root.iterdir()] == ["corpora"]
    assert root.stat().st_mode & 0o022 == 0  # NLTK refuses a root that others can write


def test_a_failed_download_leaves_nothing_and_says_what_apt_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    apt = "echo 'E: Could not resolve host' >&2; exit 100"
    monkeypatch.setenv("PATH", _install_tools(tmp_path / "bin", apt_get=apt, dpkg_deb=UNPACK))
    with pytest.raises(InputError, match="apt-get update failed: E: Could not resolve host"):
        build_from_debian(tmp_path / "nltk_data")
    assert list((tmp_path / "nltk_data" / "corpora").iterdir()) == []


def test_a_machine_without_apt_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="'apt-get' is not on this machine"):
        build_from_debian(tmp_path / "nltk_data")
    assert not (tmp_path / "nltk_data" / "corpora" / "wordnet").exists()


def _manual_page(n_rows: int) -> str:
    rows = [f"{number:02d}\tnoun.kind{number}  \tnouns of kind {number}" for number in range(n_rows - 1)]
    return "\n".join([".TH LEXNAMES", "\\fB1\\fP\tNOUN", *rows, f"{n_rows - 1}\tadj.ppl\tparticiples", ".TE"])


def test_lexnames_are_number_name_and_category() -> None:
    lines = lexnames(_manual_page(45)).splitlines()
    assert len(lines) == 45
    assert (lines[3], lines[44]) == ("03\tnoun.kind3\t1", "44\tadj.ppl\t3")


def test_a_manual_page_with_rows_missing_is_refused() -> None:
    with pytest.raises(InputError, match="44 lexicographer files instead of 45"):
        lexnames(_manual_page(44))
