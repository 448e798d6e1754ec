"""Ctrl-C once and twice, SIGTERM, readers that go away, no terminal and narrow ones: the command ends as documented,
nothing is left running, and nothing is half written.

What an interrupt does to training and to questions to an LLM is asked in ``test_pipeline_interruption``.
"""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from cli_stores import Shell
from rich.cells import cell_len

from cdner.cli import take_signals

SIGNALS = pytest.mark.parametrize(
    "signals",
    [(signal.SIGINT,), (signal.SIGTERM,), (signal.SIGINT, signal.SIGINT), (signal.SIGTERM, signal.SIGINT)],
    ids=lambda sent: "+".join(each.name for each in sent),
)
SAID = "Error: interrupted; finished work is stored, run the same command again to go on"
ENDLESS = "SELECT count(*) FROM range(1000000) a, range(1000000) b WHERE hash(a.range + b.range) = 1"
N_SENTENCES = 3_000
COLOUR = re.compile(r"\x1b\[[0-9;]*\b(?:[349][0-7]|10[0-7])[;m]")
STREAMS = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}


def start(store: Path, *arguments: object, environment: dict[str, str] | None = None, **streams: Any) -> Any:
    """The installed command, leader of a process group of its own."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in ("COLUMNS", "NO_COLOR", "FORCE_COLOR")
    }
    return subprocess.Popen(
        [sys.executable, "-c", "from cdner.cli import main; main()", "--store", store, *map(str, arguments)],
        start_new_session=True,
        env={**kept, "PYTHONPATH": str(Path(__file__).parents[1]), **(environment or {})},
        **{**STREAMS, **streams},
    )


def interrupted(process: Any, signals: Sequence[signal.Signals], *, at: Callable[[], bool]) -> str:
    """Send the signals once ``at`` holds; see it end with 130 and nothing of it live on. What it said."""
    wait_for(at)
    for number in signals:
        process.send_signal(number)
        time.sleep(0.02)
    said = process.stderr.read().decode()
    assert process.wait(60) == 130, said
    wait_for(lambda: members(process.pid) == [])
    assert "Traceback" not in said
    assert len(signals) > 1 or said.splitlines()[-1] == SAID
    return said


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def members(group: int) -> list[int]:
    """Processes of a process group that are not dead."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


@pytest.fixture(scope="module")
def demo_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("signals") / "s.duckdb"
    assert start(path, "-q", "import", "demo").wait(60) == 0
    return path


# --- signals ------------------------------------------------------------------------------------------------


@SIGNALS
def test_an_interrupted_import_leaves_no_half_corpus_and_comes_again(tmp_path, capsys, signals):
    store, file = tmp_path / "s.duckdb", tmp_path / "train.txt"
    file.write_text("".join(f"Wulf{n} B-person\nsailed O\nto O\nLund B-city\n\n" for n in range(N_SENTENCES)))
    command = ("import", "conll", file, "--domain", "ships")
    process = start(store, *command)
    interrupted(process, signals, at=lambda: process.stderr.readline().startswith(b"read ships"))
    cdner = Shell(capsys, store)
    if store.exists():
        assert cdner("store", "verify").code == 0
        n_stored = cdner("sql", "SELECT count(*) AS n FROM corpus_sentence", "--csv").out
        assert n_stored in ("n\n0\n", f"n\n{N_SENTENCES}\n")
    assert cdner(*command).code == 0
    counted = "SELECT count(*) AS n, count(DISTINCT sentence_id) AS ids FROM corpus_sentence"
    assert cdner("sql", counted, "--csv").out == f"n,ids\n{N_SENTENCES},{N_SENTENCES}\n"


@SIGNALS
def test_an_interrupted_query_takes_its_sealed_process_along(demo_store, signals):
    process = start(demo_store, "sql", ENDLESS, "--seconds", 60)
    said = interrupted(process, signals, at=lambda: len(members(process.pid)) == 2)
    assert said in ("", f"{SAID}\n")
    assert process.stdout.read() == b""


def test_a_signal_that_was_to_be_ignored_stays_so():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        take_signals()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGTERM) != before[1]
    finally:
        for number, handler in zip((signal.SIGINT, signal.SIGTERM), before, strict=True):
            signal.signal(number, handler)


# --- readers that go away -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ("sql", "SELECT repeat('x', 300) FROM range(3000)", "--csv"),
        ("corpora", "show", "film", "--limit", "1000", "--nl"),
    ],
    ids=" ".join,
)
def test_a_reader_of_the_first_byte_ends_the_command_in_silence(demo_store, arguments):
    process = start(demo_store, *arguments, bufsize=0)
    assert len(process.stdout.read(1)) == 1
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(60) == 0
    assert members(process.pid) == []


def test_work_whose_progress_nobody_reads_is_done(tmp_path, capsys):
    store = tmp_path / "s.duckdb"
    process = start(store, "import", "demo", bufsize=0)
    assert len(process.stderr.read(1)) == 1
    process.stderr.close()
    process.stdout.read()
    code = process.wait(60)
    n_corpora = len(Shell(capsys, store)("corpora", "--nl").out.splitlines())
    assert (code, n_corpora) == (0, 5)


# --- terminals ----------------------------------------------------------------------------------------------


def on_terminal(store: Path, *arguments: object, **environment: str) -> tuple[int, str]:
    """Exit code and all that the command shows on a terminal of its own."""
    shown, terminal = pty.openpty()
    streams = dict.fromkeys(STREAMS, terminal)
    process = start(store, *arguments, environment={"TERM": "xterm-256color", **environment}, **streams)
    os.close(terminal)
    pieces = []
    try:
        while piece := os.read(shown, 1 << 16):
            pieces.append(piece)
    except OSError:  # how a terminal whose last process has gone ends
        os.close(shown)
    return process.wait(60), b"".join(pieces).decode()


@pytest.mark.parametrize(
    "arguments", [("corpora",), ("runs",), ("sql", "FROM corpus"), ("backends",)], ids=" ".join
)
def test_a_narrow_width_folds_what_a_wide_one_shows(demo_store, capsys, monkeypatch, arguments):
    cdner, shown = Shell(capsys, demo_store), []
    for width in ("20", "400"):
        monkeypatch.setenv("COLUMNS", width)
        listed = cdner(*arguments)
        assert (listed.code, listed.err) == (0, "")
        assert max(cell_len(line) for line in listed.out.splitlines()) <= int(width)
        shown.append(Counter(re.sub(r"[^a-z0-9]", "", listed.out.lower())))
    assert shown[0] >= shown[1]  # names of columns come again with each value


@pytest.mark.parametrize(("width", "no_colour"), [("80", False), ("80", True), ("20", True)])
def test_a_terminal_shows_progress_and_results_narrow_and_without_colour_too(tmp_path, width, no_colour):
    environment = {"COLUMNS": width, "LINES": "10", **({"NO_COLOR": "1"} if no_colour else {})}
    code, shown = on_terminal(tmp_path / "s.duckdb", "import", "demo", **environment)
    assert code == 0, shown
    assert "Traceback" not in shown
    assert bool(COLOUR.search(shown)) != no_colour
    assert shown.rfind("\x1b[?25h") > shown.rfind("\x1b[?25l"), "the cursor stays hidden"


def test_without_a_terminal_nothing_is_coloured_or_moved(tmp_path):
    out, err = start(tmp_path / "s.duckdb", "import", "demo").communicate(timeout=60)
    assert b"newsdesk" in out
    assert b"newsdesk" in err
    assert b"\x1b" not in out + err
    assert b"\r" not in out + err
