"""What commands write for their users: nothing is replaced by accident, and never a store, a link or a device."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from cli_stores import Shell, study_store
from report_stores import shared_report_store

from cdner.errors import UsageError
from cdner.files import check_output, output
from cdner.formats.datasets_folder import foreign_in_folder
from cdner.store import Store, migrations

# Every option or argument of a command that names a file to write.
COMMANDS = {
    "parquet": ("sql", "SELECT 1 AS one", "--parquet", "FILE"),
    "html": ("report", "--html", "FILE", "--resamples", 100),
    "markdown": ("report", "--markdown", "FILE", "--resamples", 100),
    "latex": ("report", "--latex", "FILE", "--resamples", 100),
    "bundle": ("bundle", "pack", "FILE"),
    "jsonl": ("export", "RUN", "FILE", "--to", "jsonl"),
}


@pytest.fixture
def shell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Shell:
    study_store(tmp_path / "s.duckdb")
    return Shell(capsys, tmp_path / "s.duckdb")


def called(shell: Shell, command: str, file: Path, *more: str):
    with Store(shell.store).reading() as connection:
        run = connection.execute("SELECT run_id FROM prediction ORDER BY ALL LIMIT 1").fetchone()[0]
    return shell(*({"FILE": file, "RUN": run}.get(word, word) for word in COMMANDS[command]), *more)


@pytest.mark.parametrize("command", COMMANDS)
def test_what_exists_is_replaced_with_force_only_and_keeps_its_mode(shell, tmp_path, command):
    file = tmp_path / "out"
    file.write_text("mine")
    file.chmod(0o600)
    refused = called(shell, command, file)
    assert refused.code == 2
    assert f"{file} exists. Name another file, or use --force to replace it." in refused.err
    assert file.read_text() == "mine"
    done = called(shell, command, file, "--force")
    assert done.code == 0, done.err
    assert file.read_bytes() != b"mine"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "s.duckdb"]


@pytest.mark.parametrize("command", COMMANDS)
def test_the_store_is_never_an_output(shell, tmp_path, command):
    hard = tmp_path / "other-name.html"
    os.link(shell.store, hard)
    before = shell.store.read_bytes()
    for target in (shell.store, hard, Path(f"{shell.store}.wal"), Path(f"{shell.store}.wal.recovery")):
        refused = called(shell, command, target, "--force")
        assert refused.code == 2, refused
        assert "perhaps a store: it is never replaced" in refused.err
    assert shell.store.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other-name.html", "s.duckdb"]


@pytest.mark.parametrize("command", COMMANDS)
def test_links_pipes_devices_and_folders_are_no_outputs(shell, tmp_path, command):
    (tmp_path / "victim").write_text("mine")
    (tmp_path / "link").symlink_to("victim")
    (tmp_path / "dangling").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name, why in (("link", "is a link"), ("dangling", "is a link"), ("pipe", "is neither a file nor")):
        refused = called(shell, command, tmp_path / name, "--force")
        assert (refused.code, why in refused.err) == (2, True), refused
    assert called(shell, command, tmp_path / "folder", "--force").code == 2
    with pytest.raises(UsageError, match="is neither a file nor"):
        check_output(
            Path("/dev/null"), force=True
        )  # no command: one that fails here would damage the machine
    assert (tmp_path / "victim").read_text() == "mine"
    assert (tmp_path / "dangling").is_symlink()
    assert not (tmp_path / "nowhere").exists()


def test_figures_leave_other_files_and_demand_force_for_their_own(tmp_path, tmp_path_factory, capsys):
    pytest.importorskip("matplotlib")
    shell = Shell(capsys, shared_report_store(tmp_path_factory).path)
    folder = tmp_path / "figures"
    folder.mkdir()
    (folder / "mine.png").write_text("mine")
    first = shell("report", "--figures", folder, "--resamples", 100)
    assert first.code == 0, first.err
    made = {file: file.stat().st_mtime_ns for file in folder.iterdir()}
    assert len(made) > 2
    assert shell("report", "--figures", folder, "--resamples", 100).code == 2
    assert {file: file.stat().st_mtime_ns for file in folder.iterdir()} == made
    assert shell("report", "--figures", folder, "--resamples", 100, "--force").code == 0
    assert (folder / "mine.png").read_text() == "mine"


@pytest.mark.parametrize("foreign", ["notes.md", "train.jsonl", "data.jsonl", "folder", "README"])
def test_an_exported_folder_with_anything_else_in_it_stays(shell, tmp_path, foreign):
    with Store(shell.store).reading() as connection:
        run = connection.execute("SELECT run_id FROM prediction ORDER BY ALL LIMIT 1").fetchone()[0]
    folder = tmp_path / "exported"
    export = ("export", run, folder, "--to", "datasets")
    assert shell(*export).code == 0
    assert foreign_in_folder(folder) == ""
    assert shell(*export).code == 2
    assert shell(*export, "--force").code == 0
    if foreign == "folder":
        (folder / foreign).mkdir()
    elif foreign == "README":  # somebody's own data set
        (folder / "README.md").write_text("# My data\n")
    else:
        (folder / foreign).write_text('{"id": "mine"}\n')
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    refused = shell(*export, "--force")
    assert refused.code == 2
    name = "README.md" if foreign == "README" else foreign
    assert f"holds {name}, which no export wrote" in refused.err
    assert {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()} == before


def test_a_private_file_is_private_while_it_is_written(tmp_path):
    file = tmp_path / "out"
    file.write_text("mine")
    file.chmod(0o600)
    with output(file, force=True) as made:
        assert stat.S_IMODE(made.stat().st_mode) == 0o600
        made.write_text("new")
    assert file.read_text() == "new"


def test_a_missing_folder_is_said_before_any_work(tmp_path):
    with pytest.raises(UsageError, match="there is no such folder"):
        check_output(tmp_path / "no" / "r.html", force=True)


def test_stores_are_private_and_their_backups_too(tmp_path, monkeypatch):
    store = Store(tmp_path / "s.duckdb")
    with store.transaction():
        pass
    assert stat.S_IMODE(store.path.stat().st_mode) == 0o600
    backup = tmp_path / "s.duckdb.backup-v3"
    migrations._back_up(store.path, 3)
    assert stat.S_IMODE(backup.stat().st_mode) == 0o600
    store.path.chmod(0o640)
    backup.unlink()
    migrations._back_up(store.path, 3)
    assert stat.S_IMODE(backup.stat().st_mode) == 0o640


@pytest.mark.parametrize("taken", ["link", "file"])
def test_a_backup_never_replaces_what_is_no_backup(tmp_path, taken):
    from cdner.errors import StoreError

    store = Store(tmp_path / "s.duckdb")
    with store.transaction():
        pass
    victim = tmp_path / "s.duckdb.backup-v3"
    if taken == "link":
        victim.symlink_to(tmp_path / "victim")
        victim = tmp_path / "victim"
    victim.write_text("mine")
    with pytest.raises(StoreError, match=r"is a link|is taken"):
        migrations._back_up(store.path, 3)
    assert victim.read_text() == "mine"
