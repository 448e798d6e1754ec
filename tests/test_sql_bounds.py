"""``cdner sql`` ends: with its limits, with what it reads, and with the command that started it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cli_stores import Shell, study_store

ENDLESS = "SELECT count(*) FROM range(100000000) a, range(100000000) b"


@pytest.fixture
def shell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Shell:
    study_store(tmp_path / "s.duckdb")
    return Shell(capsys, tmp_path / "s.duckdb")


@pytest.mark.parametrize("seconds", ["inf", "nan", "1e300", "0", "-1"])
def test_a_time_limit_is_a_number_of_seconds(shell, seconds):
    refused = shell("sql", "SELECT 1", "--seconds", seconds)
    assert refused.code == 2
    assert "The time limit must be above 0 and at most" in refused.err


def test_a_memory_limit_is_one_the_system_can_set(shell):
    refused = shell("sql", "SELECT 1", "--memory", "9" * 40 + "TB")
    assert (refused.code, "Memory must be at most" in refused.err) == (2, True)


def test_a_file_that_never_ends_is_no_statement(shell, tmp_path):
    assert "characters: it is not read" in shell("sql", "--file", "/dev/zero").err
    (tmp_path / "q.sql").write_text("SELECT 1 AS one " + " " * 999_000)
    assert shell("sql", "--file", tmp_path / "q.sql", "--csv").out == "one\n1\n"


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_a_killed_query_leaves_no_process_and_the_next_one_no_file(shell, tmp_path):
    file = tmp_path / "out.parquet"
    command = ["--store", shell.store, "sql", ENDLESS, "--seconds", "600", "--parquet", file]
    parent = subprocess.Popen([sys.executable, "-m", "cdner", *map(str, command)])
    try:
        until = time.monotonic() + 60
        while not (found := children(parent.pid)) and time.monotonic() < until:
            time.sleep(0.05)
        (child,) = found
        while f"sealed_child\0{parent.pid}" not in Path(f"/proc/{child}/cmdline").read_text():
            time.sleep(0.05)
        time.sleep(2)  # it runs, and has asked to end with its parent
    finally:
        os.kill(parent.pid, signal.SIGKILL)
        parent.wait()
    until = time.monotonic() + 10
    while Path(f"/proc/{child}/cmdline").exists() and time.monotonic() < until:
        if Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
            break
        time.sleep(0.05)
    else:
        assert not Path(f"/proc/{child}").exists()
    assert shell("sql", "SELECT 1 AS one", "--parquet", file).code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.parquet", "s.duckdb"]


@pytest.mark.parametrize("command", [("store", "path"), ("store", "verify")])
def test_control_characters_of_a_path_are_spelled_out(tmp_path, capsys, command):
    folder = tmp_path / "\x1b[31mred"
    folder.mkdir()
    made = study_store(folder / "s.duckdb")
    shown = Shell(capsys, made.path)(*command)
    assert "\\x1b[31mred" in shown.out + shown.err
    assert "\x1b" not in shown.out + shown.err
