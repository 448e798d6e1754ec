"""What a command says on stderr while something takes long."""

from __future__ import annotations

import logging
import time

import pytest

from cdner.console import progress as module
from cdner.console.progress import StderrProgress

LOG = logging.getLogger("cdner")


def test_what_the_package_logs_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with StderrProgress(quiet=False) as progress:
        progress.start("reason:full/test", 2)
        LOG.info("vLLM sleeps (level 1)")
    LOG.info("said to nobody")
    assert capsys.readouterr().err.splitlines() == ["reason:full/test (2) ...", "  vLLM sleeps (level 1)"]


def test_lines_of_one_beginning_are_shown_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SECONDS_BETWEEN", 0.2)
    with StderrProgress(quiet=False):
        for number in range(5):
            LOG.info("vLLM loads m: line %d", number)
        time.sleep(0.3)
        LOG.info("vLLM loads m: line 5")
    assert capsys.readouterr().err.splitlines() == ["  vLLM loads m: line 0", "  vLLM loads m: line 5"]


def test_quiet_shows_nothing_and_control_characters_are_inert(capsys: pytest.CaptureFixture[str]) -> None:
    with StderrProgress(quiet=True):
        LOG.info("vLLM sleeps")
    with StderrProgress(quiet=False):
        LOG.info("a\x1b[2Jb")
    shown = capsys.readouterr().err
    assert "sleeps" not in shown and "\x1b" not in shown and "2Jb" in shown


def test_a_warning_is_shown_also_when_quiet_and_is_remembered(capsys: pytest.CaptureFixture[str]) -> None:
    with StderrProgress(quiet=True) as progress:
        progress.start("predict:full/test", 2)
        progress.warn("2 sentences are \x1b[2Jtoo long")
    assert capsys.readouterr().err == "Warning: 2 sentences are \\x1b[2Jtoo long\n"
    assert progress.warnings == ["2 sentences are \x1b[2Jtoo long"]


@pytest.mark.parametrize("quiet", [False, True])
def test_every_warning_that_is_logged_is_shown_at_once_and_remembered(
    quiet: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two of them begin alike, and neither may be held back."""
    with StderrProgress(quiet=quiet) as progress:
        LOG.warning("Warning: %s is left out", "temperature")
        LOG.warning("Warning: %s is left out", "top_p")
    expected = ["temperature is left out", "top_p is left out"]
    assert capsys.readouterr().err.splitlines() == [f"Warning: {line}" for line in expected]
    assert progress.warnings == expected
