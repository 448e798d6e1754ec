"""A weight file is hashed once, and again when anything of it has changed."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from cdner.errors import ModelError
from cdner.files import file_sha256
from cdner.models import weights as checksums
from cdner.models.weights import checked, remembered_sha256, weights_identity, weights_sha256


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CDNER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(checksums, "YOUNG_SECONDS", -1.0)  # files of this test are remembered at once
    return tmp_path / "cache" / "checksums"


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that were hashed."""
    names: list[str] = []
    monkeypatch.setattr(checksums, "file_sha256", lambda file: names.append(file.name) or file_sha256(file))
    return names


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    file = tmp_path / "model" / "model.safetensors"
    file.parent.mkdir()
    file.write_bytes(b"weights")
    return file


def test_a_folder_is_hashed_once_and_named_by_its_content(
    cache: Path, read: list[str], weights: Path
) -> None:
    first = weights_identity(str(weights.parent))
    assert weights_identity(str(weights.parent)) == first
    assert read == ["model.safetensors"]
    assert len(list(cache.iterdir())) == 1
    weights.write_bytes(b"Weights")
    assert weights_identity(str(weights.parent)) != first
    assert read == ["model.safetensors"] * 2


def test_weights_are_compared_with_the_stored_sum_and_read_once(
    cache: Path, read: list[str], weights: Path
) -> None:
    folder, stored = weights.parent, weights_sha256(weights.parent)
    assert [checked(folder, stored), checked(folder, stored)] == [folder, folder]
    assert read == ["model.safetensors"]
    weights.write_bytes(b"WEIGHTS")
    with pytest.raises(ModelError, match=r"are not the ones that were trained: [^\n]+$"):
        checked(folder, stored)
    with pytest.raises(ModelError, match=r"No checkpoint at [^\n]+ Train it first\.$"):
        checked(folder / "none", stored)


@pytest.mark.parametrize("change", ["longer", "same size", "same size and time", "another file", "touched"])
def test_a_changed_file_is_hashed_again(change: str, cache: Path, read: list[str], weights: Path) -> None:
    remembered_sha256(weights)
    before = weights.stat()
    if change == "longer":
        weights.write_bytes(b"weights and more")
    elif change == "same size":
        weights.write_bytes(b"WEIGHTS")
    elif change == "same size and time":
        weights.write_bytes(b"WEIGHTS")
        os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    elif change == "another file":
        other = weights.with_name("other")
        other.write_bytes(b"WEIGHTS")
        os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
        other.replace(weights)
    else:
        os.utime(weights)
    assert remembered_sha256(weights) == file_sha256(weights)
    assert len(read) == 2
    assert remembered_sha256(weights) == file_sha256(weights)
    assert len(read) == 2


@pytest.mark.parametrize("field", ["path", "size", "mtime_ns", "ctime_ns", "inode", "sha256"])
def test_a_record_that_differs_in_one_field_is_not_believed(
    field: str, cache: Path, read: list[str], weights: Path
) -> None:
    remembered_sha256(weights)
    (record,) = cache.iterdir()
    told = json.loads(record.read_text())
    for wrong in ({**told, field: "0"}, {name: value for name, value in told.items() if name != field}):
        record.write_text(json.dumps({**wrong, **({} if field == "sha256" else {"sha256": "0" * 64})}))
        assert remembered_sha256(weights) == file_sha256(weights)
    assert len(read) == 3


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b'{"sha256": 1}', b"\xff"])
def test_a_broken_record_is_written_anew(content: bytes, cache: Path, read: list[str], weights: Path) -> None:
    remembered_sha256(weights)
    (record,) = cache.iterdir()
    record.write_bytes(content)
    for _ in range(2):
        assert remembered_sha256(weights) == file_sha256(weights)
    assert len(read) == 2


def test_a_file_that_was_just_written_is_not_remembered(
    cache: Path, monkeypatch: pytest.MonkeyPatch, read: list[str], weights: Path
) -> None:
    monkeypatch.setattr(checksums, "YOUNG_SECONDS", 2.0)
    remembered_sha256(weights)
    assert not cache.exists()
    monkeypatch.setattr(time, "time", lambda: weights.stat().st_ctime + 3)
    remembered_sha256(weights)
    remembered_sha256(weights)
    assert len(read) == 2


def test_a_file_that_changes_while_it_is_read_is_not_remembered(
    cache: Path, monkeypatch: pytest.MonkeyPatch, weights: Path
) -> None:
    def slow(file: Path) -> str:
        found = file_sha256(file)
        file.write_bytes(b"changed meanwhile")
        return found

    monkeypatch.setattr(checksums, "file_sha256", slow)
    remembered_sha256(weights)
    assert not cache.exists()


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(
    cache: Path, read: list[str], weights: Path
) -> None:
    cache.parent.write_text("a file where the folder would be")
    for _ in range(2):
        assert remembered_sha256(weights) == file_sha256(weights)
    assert len(read) == 2


def test_records_of_removed_files_go_when_another_is_written(cache: Path, weights: Path) -> None:
    other = weights.with_name("other.safetensors")
    other.write_bytes(b"others")
    for file in (weights, other):
        remembered_sha256(file)
    weights.unlink()
    (cache / "broken.json").write_text("{")
    other.write_bytes(b"changed")
    remembered_sha256(other)
    (record,) = cache.iterdir()
    assert json.loads(record.read_text())["path"] == str(other)
