"""Five thousand names that want to be somewhere else: nothing is written outside the folder that was named.

What Python opens, makes, moves and deletes is seen by an audit hook, whatever code does it.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import random
import sys
import zipfile
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import pytest
from chromium_pages import chromium_page
from cli_stores import Shell
from report_stores import shared_report_store

from cdner.bundle.archive import read_archive
from cdner.bundle.checks import WhileReading
from cdner.config import load_experiment, parse_experiment
from cdner.console.experiment_options import find_experiment
from cdner.errors import CdnerError
from cdner.export.exporting import export
from cdner.formats import ExportedCorpus
from cdner.prompts import load_domain, load_examples, load_template
from cdner.registry import resolve
from cdner.report.figures import _slug
from cdner.store import Store
from cdner.store.sql import find_query
from cdner.types import Entity, Prediction, Sentence

N_NAMES = 5_000
PARTS = (
    *("..", ".", "", "/", "\\", "~", "~root", "a", "film", "train", "pbrc.v1", ".toml", ".jinja", "CON", "C:", "*"),
    *("\x00", "\n", "\r", "\x1b]0;t\x07", "\u202e", "é", "\udcff", "%2e%2e%2f", "$(id)", "`id`", "|", "-rf", "x" * 300),
    *("/etc", "/etc/passwd", "../..", "..\\..", "://", "file://", "\uff0e\uff0e\uff0f", "\u2025/"),
)  # fmt: skip
_OPENING_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_CHANGES = {
    "os.mkdir",
    "os.rename",
    "os.remove",
    "os.rmdir",
    "os.link",
    "os.symlink",
    "os.truncate",
    "os.chmod",
}
_STARTS = {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn"}
_watched: list[str] | None = None


def _audit(event: str, arguments: tuple[object, ...]) -> None:
    if _watched is None:
        return
    if event == "open" and isinstance(arguments[2], int) and arguments[2] & _OPENING_FLAGS:
        _watched.append(
            os.fsdecode(arguments[0]) if isinstance(arguments[0], str | bytes) else str(arguments[0])
        )
    elif event in _CHANGES:
        _watched.extend(os.fsdecode(name) for name in arguments if isinstance(name, str | bytes | Path))
    elif event in _STARTS:
        _watched.append(f"/started: {arguments}")


sys.addaudithook(_audit)


@contextlib.contextmanager
def writing_only_in(folder: Path) -> Iterator[None]:
    """Fails where anything else was written, or a process started."""
    global _watched  # noqa: PLW0603  an audit hook stays for good
    _watched = found = []
    try:
        yield
    finally:
        _watched = None
    outside = [name for name in found if not (folder / name).resolve().is_relative_to(folder.resolve())]
    assert outside == []


def names() -> list[str]:
    generator = random.Random(4)
    found: dict[str, None] = dict.fromkeys(PARTS)
    while len(found) < N_NAMES:
        chosen = generator.choices(PARTS, k=generator.randrange(1, 6))
        found[generator.choice(("", "/", "/", ".")).join(chosen)] = None
    return list(found)


def exported(name: str) -> ExportedCorpus:
    sentence = Sentence(("Ann",), (Entity(0, 1, "person"),))
    return ExportedCorpus(name, name, name, name, ("person",), (0,), (sentence,), (Prediction("", ()),))


def bundle_with(name: str, folder: Path) -> None:
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(zipfile.ZipInfo(name or "x"), b"evil")
        link = zipfile.ZipInfo("run.jsonl")
        link.external_attr = 0o120777 << 16  # a symbolic link
        archive.writestr(link, name.encode(errors="replace"))
    (folder / "b.zip").write_bytes(buffer.getvalue())
    read_archive(folder / "b.zip", ["run"], WhileReading("b.zip"))


def extended(name: str, folder: Path) -> None:
    text = f'name = "x"\nextends = {json.dumps(name)}\n'
    (folder / "extending.toml").write_text(text, encoding="utf-8")
    load_experiment(folder / "extending.toml")


def drawn(name: str, folder: Path) -> None:
    (folder / f"01-curve-{_slug(name)}.svg").write_text("", encoding="utf-8")


def exported_to(to: str) -> Callable[[str, Path], None]:
    return lambda name, folder: export(exported(name), folder / f"out.{to}", to=to, force=True)


USES: dict[str, Callable[[str, Path], object]] = {
    "domain": lambda name, _: load_domain(name),
    "examples": lambda name, _: load_examples(name),
    "template": lambda name, _: load_template(name),
    "shipped experiment": lambda name, _: find_experiment(name),
    "experiment file": lambda name, _: find_experiment(f"{name}.toml"),
    "extended experiment": extended,
    "settings": lambda name, _: parse_experiment({"name": name, "corpora": {"target": name}}, where="x"),
    "query": lambda name, _: find_query(f"@{name}"),
    "format": lambda name, _: resolve("export", name),
    "backend": lambda name, _: resolve("backend", name),
    "bundle member": bundle_with,
    "figure": drawn,
    "exported lines": exported_to("jsonl"),
    "exported tasks": exported_to("labelstudio"),
    "exported folder": exported_to("datasets"),
}


def test_five_thousand_names_write_nothing_elsewhere_and_raise_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each name in one of its uses, all uses in turn; what is refused is refused as everything is."""
    (tmp_path / "deep" / "er").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "deep" / "er")
    refused = 0
    with writing_only_in(Path.cwd()):
        for name, (use, call) in zip(names(), itertools.cycle(USES.items()), strict=False):
            try:
                call(name, Path.cwd())
            except CdnerError as error:
                refused += 1
                assert len(str(error)) < 2000, use
            except OSError as error:  # run_cli makes a line of it
                assert error.errno == errno.ENAMETOOLONG and use.endswith(("experiment", "file")), (
                    use,
                    error,
                )
            except UnicodeEncodeError:
                assert "\udcff" in name, use  # bytes of a command line that are no text go into no file
    assert refused > N_NAMES / 2


def test_the_hook_sees_what_it_must(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for escape in (
        lambda: (tmp_path / "in" / ".." / "out.txt").write_text(""),
        (tmp_path / "other").mkdir,
        lambda: (tmp_path / "out.txt").rename(tmp_path / "in" / "x"),
    ):
        with pytest.raises(AssertionError), writing_only_in(tmp_path / "in"):
            escape()


HOSTILE = "../../<script>window.owned=1</script>\x1b]0;owned\x07[bold]{{7*7}}" + "x" * 300


def test_an_experiment_called_like_a_path_is_reported_inside_the_folder(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    import matplotlib.font_manager  # noqa: F401  it writes a cache of its own where there is none

    made = shared_report_store(tmp_path_factory)
    path = tmp_path / "copy" / "s.duckdb"
    path.parent.mkdir()
    path.write_bytes(made.path.read_bytes())
    with Store(path).transaction() as connection:
        connection.execute(
            "UPDATE experiment_run SET experiment = replace(experiment, 'sizes', ?)", [HOSTILE]
        )
    files = {f"--{kind}": tmp_path / "out" / f"r.{kind}" for kind in ("html", "markdown", "latex", "figures")}
    (tmp_path / "out").mkdir()
    with writing_only_in(tmp_path):
        options = itertools.chain.from_iterable(files.items())
        ran = Shell(capsys, path)("report", *options, "--resamples", 100)
    assert ran.code == 0, ran.err
    written = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert {file.parent for file in written} == {
        path.parent,
        tmp_path / "out",
        tmp_path / "out" / "r.figures",
    }
    assert all(file.name.isascii() and file.name.isprintable() for file in written)
    for kind in ("html", "markdown", "latex"):
        text = files[f"--{kind}"].read_text(encoding="utf-8")
        assert "\x1b" not in text and "\x07" not in text and "<script>window" not in text
    with chromium_page() as page:
        page.open(files["--html"])
        assert page.run("window.owned") is None and page.complaints == [] and len(page.requests) == 1
        assert "<script>window.owned=1</script>" in page.run("document.body.textContent")
    listed = Shell(capsys, path)("runs")
    assert "\x1b" not in listed.out and "49" not in listed.out and "[bold]" in listed.out
