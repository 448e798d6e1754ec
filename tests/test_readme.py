"""Every command in the README and in the pages it links to is run, in order, in one folder, by the reader's shell.

The main job runs whole, on the real embedded model and with recorded answers of an LLM, which fit only its sizes. The
commands after it read what it stored. ``scripts/test`` is the command that runs this file.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
LINK = re.compile(r"\]\(([^)\s]+)\)")


def _text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def _links(page: Path) -> list[str]:
    return [link for link in LINK.findall(_text(page)) if "://" not in link]


def _pages() -> list[Path]:
    """The README, then the pages that links lead to from it, nearest first."""
    pages = [README]
    for page in pages:
        linked = [(page.parent / link.partition("#")[0]).resolve() for link in _links(page)]
        pages += [page for page in dict.fromkeys(linked) if page.name == "README.md" and page not in pages]
    return pages


def _blocks(page: Path) -> list[tuple[str, str]]:
    """("bash" or "python", text) of each block that a reader would run."""
    return re.findall(r"^```(bash|python)\n(.*?)^```$", _text(page), flags=re.DOTALL | re.MULTILINE)


def _commands(page: Path) -> list[list[str]]:
    """As arguments for subprocess: a bash command a line, Python a block."""
    found = []
    for language, text in _blocks(page):
        if language == "python":
            found.append([sys.executable, "-c", text])
        else:
            found += [["bash", "-euc", line] for line in text.splitlines() if line.strip()]
    return found


def test_the_readme_starts_with_two_sentences_and_two_commands():
    first = _text(README).split("```bash")[0].split("\n", 1)[1].strip()
    assert len(re.findall(r"\.(?=\s|$)", first)) == 2
    assert [command[-1] for command in _commands(README)[:2]] == ["scripts/quickstart", "scripts/test"]


def test_the_readme_is_short():
    assert len(_text(README).encode()) <= 10_000


def test_the_results_table_has_at_most_eight_rows():
    section = _text(README).split("\n## Results\n")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("|")]
    assert 3 <= len(rows) <= 10  # with the heading and the line below it


def test_links_lead_from_the_readme_to_every_page():
    folders = ("cdner", "prompts", "scripts", "store")
    pages = {page for folder in folders for page in (ROOT / folder).rglob("README.md")}
    assert set(_pages()) == {README, *pages}


def _anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", _text(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", _pages(), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_to_files_and_headings_that_exist(page: Path):
    for link in _links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in _anchors(target), link


def test_the_folder_map_names_folders_that_exist():
    (block,) = re.findall(
        r"^## Folders\n\n```text\n(.*?)^```$", _text(README), flags=re.DOTALL | re.MULTILINE
    )
    names = set()
    for line in block.splitlines():
        parent = "cdner/" if line.startswith("  ") else ""
        names |= {parent + name for name in re.findall(r"(?<!\S)(\w+/)(?=\s)", line)}
    assert {name for name in names if not (ROOT / name).is_dir()} == set()
    assert {"cdner/", "cdner/llm/", "cdner/steps/", "prompts/", "store/", "scripts/", "tests/"} <= names


def test_continuous_integration_runs_the_readmes_test_command():
    assert re.search(r"^scripts/test$", _text(ROOT / ".ci" / "run"), flags=re.MULTILINE)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_command_of_the_pages_succeeds(tmp_path: Path, request: pytest.FixtureRequest):
    for made in ("quickstart.zip", "report.html"):
        request.addfinalizer((ROOT / made).unlink)
    store = tmp_path / "cdner.duckdb"
    environment = {
        **os.environ,
        "CDNER_STORE": str(store),
        "CDNER_QUIET": "1",
        # The one size that no recorded answer depends on; the options of every command read them from the environment.
        "CDNER_RUN_OVERRIDES": "train_augmented.epochs=1",
    }
    for command in [command for page in _pages() for command in _commands(page)]:
        if command[-1] == "scripts/test":
            continue
        done = subprocess.run(
            [argument.replace("store/cdner.duckdb", str(store)) for argument in command],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{command[-1]}\n{done.stdout}\n{done.stderr}"
        assert done.stdout.strip(), f"{command[-1]} printed nothing"
