"""``cdner report`` as a user calls it."""

from __future__ import annotations

import pytest
from cli_stores import Shell
from report_stores import shared_report_store

from cdner.report.command import report


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory):
    return shared_report_store(tmp_path_factory).path


@pytest.fixture
def cdner(capsys, path) -> Shell:
    return Shell(capsys, path)


def test_files_are_written_and_named_on_stdout(cdner, tmp_path):
    files = {option: tmp_path / f"r.{option}" for option in ("html", "markdown", "latex")}
    options = [part for option, file in files.items() for part in (f"--{option}", file)]
    done = cdner("report", "sizes", *options, "--resamples", 100, "--title", "A study")
    assert done.code == 0
    assert done.out.split() == [str(file) for file in files.values()]
    written = {option: file.read_text(encoding="utf-8") for option, file in files.items()}
    assert written["html"].startswith("<!DOCTYPE html>")
    assert "<title>A study - cdner report</title>" in written["html"]
    for option, heading in (("markdown", "## Leaderboard"), ("latex", r"\caption{Leaderboard")):
        assert heading in written[option]
        assert "Errors per type" in written[option]
    for text in written.values():
        assert "\x1b" not in text
        assert "\u202e" not in text


def test_the_same_store_gives_the_same_page(cdner, tmp_path):
    pages = []
    for name in ("a.html", "b.html"):
        assert cdner("report", "--html", tmp_path / name, "--resamples", 100).code == 0
        page = (tmp_path / name).read_text(encoding="utf-8")
        pages.append(page[: page.index("cdner 0.")] + page[page.index(" UTC.") :])
    assert pages[0] == pages[1]


def test_nothing_to_write_is_a_usage_error_that_names_the_options(cdner):
    done = cdner("report")
    assert done.code == 2
    for option in report.params:
        if option.name in ("html", "markdown", "latex"):
            assert f"--{option.name} FILE" in done.err


def test_an_unknown_experiment_and_an_unwritable_file_are_one_line(cdner, tmp_path):
    unknown = cdner("report", "sise", "--html", tmp_path / "r.html")
    assert (unknown.code, unknown.err.count("\n")) == (2, 1)
    assert "sizes" in unknown.err
    nowhere = cdner("report", "--html", tmp_path / "no" / "r.html", "--resamples", 100)
    assert (nowhere.code, nowhere.err.count("\n")) == (2, 1)
    assert "there is no such folder" in nowhere.err
