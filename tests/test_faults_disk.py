"""Full disks and folders nobody may write in: one clear line, exit code 1, a sound store, and a resume afterwards."""

from __future__ import annotations

import re
import shutil
from functools import cache
from pathlib import Path

import pytest
from full_disks import MB, Disk, read_only, small_disk
from pipeline_experiments import CALLS, Ran, cdner, shared_folder, write_experiment

from cdner.files import file_sha256
from cdner.store import Store
from cdner.store.hash import hash_tables
from cdner.store.verify import verify

PREDICTIONS = "tiny:without_all/test"


@pytest.fixture(autouse=True)
def _log_of_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CALLS, str(tmp_path / "calls"))


@cache
def finished() -> Path:
    """The folder of a finished experiment on a disk that is large enough."""
    folder = shared_folder() / "finished"
    folder.mkdir()
    ran = cdner(folder / "s.duckdb", "run", experiment())
    assert ran.code == 0, ran.err
    return folder


@cache
def experiment() -> Path:
    return write_experiment(shared_folder(), settings=("without_all", "full"))


def results(folder: Path) -> tuple[dict[str, str], dict[str, str]]:
    """All tables but attempts and times; all weights."""
    tables = {table.table: table.sha256 for table in hash_tables(Store(folder / "s.duckdb"))}
    return tables, {path.parent.name: file_sha256(path) for path in sorted(folder.rglob("*.safetensors"))}


def assert_one_line(ran: Ran, *, about: str) -> None:
    errors = [
        line for line in ran.err.splitlines() if not line.endswith(" ...")
    ]  # the others say what is done
    assert ran.code == 1, ran.err
    assert "Traceback" not in ran.err
    assert errors[-1].startswith("Error: "), ran.err
    assert re.search(about, errors[-1]), ran.err
    assert sum(line.startswith("Error: ") for line in errors) == 1


FULL = "(?i)disk of .* is full|No space left on device"


@pytest.mark.parametrize("n_kib", [16, 300, 600, 2000, 3072])
def test_a_store_on_a_disk_without_room_is_whole_or_not_there(tmp_path: Path, n_kib: int) -> None:
    with small_disk(tmp_path / "disk", n_kib * 1024) as disk:
        store = disk.folder / "s.duckdb"
        ran = cdner(store, "import", "demo")
        assert_one_line(ran, about=FULL)
        assert not [path.name for path in disk.folder.iterdir() if path.name.startswith(".")]
        if store.exists():
            assert verify(Store(store)) == []
        disk.resize(32 * MB)
        ran = cdner(store, "import", "demo")
        assert ran.code == 0, ran.err
        assert verify(Store(store)) == []


@pytest.mark.slow
def test_an_experiment_on_a_disk_that_is_full_time_and_again_ends_as_on_a_large_one(tmp_path: Path) -> None:
    """It begins with 3 MB; whenever it is full there is a little more, less than any training needs."""
    labels = set()
    with small_disk(tmp_path / "disk") as disk:
        size, store = 3 * MB, disk.folder / "s.duckdb"
        while (ran := cdner(store, "run", experiment())).code != 0:
            assert_one_line(ran, about=FULL)
            said = re.findall(r"^(\w+):\S+ \.\.\.$|^(\w+):\S+ on \d+ sentences", ran.err, re.M)
            labels.add(said[-1] if said else "")
            if store.exists():
                assert verify(Store(store)) == []
            size += 3 * MB // 4
            assert size < 64 * MB
            disk.resize(size)
        assert results(disk.folder) == results(finished())
        left = [path.name for path in disk.folder.rglob("*") if path.name.startswith(".")]
    assert left == []
    assert len(labels) > 2, "it was full at different steps"


@pytest.mark.slow
@pytest.mark.parametrize("n_free", [0, 64 << 10, 400 << 10])
def test_a_training_that_fills_the_disk_goes_on_when_there_is_space(tmp_path: Path, n_free: int) -> None:
    options = ("train", "-e", experiment(), "--setting", "without_all", "--force")
    with small_disk(tmp_path / "disk", 64 * MB) as disk:
        shutil.copytree(finished(), disk.folder, dirs_exist_ok=True)
        store, filler = disk.folder / "s.duckdb", disk.fill(leave=n_free)
        assert_one_line(cdner(store, *options), about=FULL)
        assert verify(Store(store)) == []
        filler.unlink()
        ran = cdner(store, *options[:-1])
        assert ran.code == 0, ran.err
        assert results(disk.folder) == results(finished())


WRITERS = {
    "bundle": ("bundle", "pack", "FILE"),
    "page": ("report", "--html", "FILE", "--resamples", 100),
    "tables": ("report", "--markdown", "FILE", "--resamples", 100),
    "latex": ("report", "--latex", "FILE", "--resamples", 100),
    "figures": ("report", "--figures", "FILE", "--resamples", 100),
    "parquet": ("sql", "SELECT * FROM prompt_text, range(40)", "--parquet", "FILE"),
    **{f"export {to}": ("export", PREDICTIONS, "FILE", "--to", to) for to in ("conll", "jsonl", "datasets")},
    "export labelstudio": ("export", PREDICTIONS, "FILE", "--to", "labelstudio"),
    "export spacy": ("export", PREDICTIONS, "FILE", "--to", "spacy"),
}


def write(disk: Disk, name: str) -> Ran:
    file = disk.folder / "written"
    return cdner(finished() / "s.duckdb", *(file if word == "FILE" else word for word in WRITERS[name]))


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_for_which_there_is_no_room_is_one_line_and_no_file(tmp_path: Path, name: str) -> None:
    with small_disk(tmp_path / "disk") as disk:
        filler = disk.fill()
        ran = write(disk, name)
        assert_one_line(ran, about=FULL)
        assert str(disk.folder) in ran.err
        left = [path for path in disk.folder.rglob("*") if path.is_file()]
        assert left == [filler]
        filler.unlink()
        disk.resize(32 * MB)
        ran = write(disk, name)
        assert ran.code == 0, ran.err
        assert (disk.folder / "written").exists()


@pytest.mark.slow
def test_in_a_read_only_folder_all_that_reads_works_and_what_writes_is_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "archive"
    shutil.copytree(finished(), folder)
    store, named = folder / "s.duckdb", ("-e", experiment())
    before = results(folder)
    with read_only(folder):
        for command in (
            ("import", "demo"),  # it is there already
            ("runs",),
            ("store", "verify"),
            ("sql", "SELECT count(*) FROM run"),
            ("confusion", "show", *named),
            ("bundle", "pack", tmp_path / "texts.zip"),
            ("report", "--html", tmp_path / "page.html", "--resamples", 100),
            ("run", experiment(), "--dry-run"),
        ):
            ran = cdner(store, *command)
            assert ran.code == 0, (command, ran.err)
        for command in (
            ("quantify", *named, "--alpha", 0.9),
            ("train", *named, "--setting", "without_source"),
            ("predict", *named, "--setting", "full", "--force"),
            ("bundle", "pack", folder / "texts.zip"),
            ("report", "--html", folder / "page.html", "--resamples", 100),
        ):
            assert_one_line(cdner(store, *command), about="Read-only file system")
        assert_one_line(cdner(folder / "new.duckdb", "import", "demo"), about="cannot be created.*Read-only")
    assert results(folder) == before
    assert verify(Store(store)) == []
