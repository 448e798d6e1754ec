"""The generated documentation is up to date, and the wheel contains every file that the program reads."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

from cdner.cli import COMMANDS, cli

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate_docs", ROOT / "scripts" / "generate_docs.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generated_docs_are_up_to_date():
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "generate_docs.py", "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_check_names_the_file_that_is_out_of_date_and_writes_nothing(
    generator, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(generator, "ROOT", tmp_path)
    monkeypatch.setattr(generator, "file_tree", lambda: "the tree")
    for folder in ("store", "cdner/cli"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "cdner" / "README.md").write_text("# Ours\n\nKept.\n")
    monkeypatch.setattr("sys.argv", ["generate_docs.py", "--check"])
    assert generator.main() == 1
    assert capsys.readouterr().err.splitlines() == [
        "store/README.md is out of date: run scripts/check --fix",
        "cdner/README.md is out of date: run scripts/check --fix",
        "cdner/cli/README.md is out of date: run scripts/check --fix",
    ]
    assert (tmp_path / "cdner" / "README.md").read_text() == "# Ours\n\nKept.\n"
    assert not (tmp_path / "store" / "README.md").exists()
    monkeypatch.setattr("sys.argv", ["generate_docs.py"])
    assert generator.main() == 0
    page = (tmp_path / "cdner" / "README.md").read_text()
    assert page.startswith("# Ours\n\nKept.\n\n## ")
    assert "<!-- generated: tree -->\nthe tree\n<!-- end generated -->" in page
    assert not (tmp_path / "README.md").exists()
    monkeypatch.setattr("sys.argv", ["generate_docs.py", "--check"])
    assert generator.main() == 0


def test_only_what_lies_between_the_markers_changes(generator):
    page = "".join(
        f"{name} before\n<!-- generated: {name} -->\nold {name}\n<!-- end generated -->\n" for name in "xy"
    )
    changed = generator.between_markers(page, "x", heading="X", text=r"new \1 \g<0>")
    assert changed == page.replace("old x", r"new \1 \g<0>")


def test_the_reference_names_every_command_and_every_option(generator):
    reference = generator.cli_reference()
    lines = reference.splitlines()
    for path, command, _ in generator.leaf_commands():
        assert any(line == path or line.startswith(f"{path} ") for line in lines), path
        for declaration, _text in generator.own_options(command):
            assert f"    {declaration}" in reference, (path, declaration)
    assert {path.split()[1] for path, _, _ in generator.leaf_commands()} == set(COMMANDS)
    for declaration, _text in generator.own_options(cli):
        assert declaration in reference


def test_no_line_of_the_generated_parts_is_too_wide(generator):
    lines = (generator.cli_reference() + generator.file_tree()).splitlines()
    assert max(map(len, lines)) <= 120


def test_the_tree_shows_every_module_of_the_package(generator):
    tree = generator.file_tree()
    for path in (ROOT / "cdner").iterdir():
        if path.name.startswith("__") or path.suffix == ".md":
            continue
        name = f"{path.name}/" if path.is_dir() else path.name
        assert f"  {name} " in tree


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, unpacked outside the checkout. Building needs the build backend from the package index."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", ROOT, "--no-deps", "--quiet", "--wheel-dir", folder],
        check=True,
    )
    (built,) = folder.glob("cdner-*.whl")
    with zipfile.ZipFile(built) as archive:
        archive.extractall(folder / "unpacked")
    return folder / "unpacked"


@pytest.mark.slow
def test_the_wheel_carries_everything_the_program_reads(wheel):
    expected = {
        f"cdner/{path.relative_to(ROOT / 'cdner').as_posix()}"
        for path in (ROOT / "cdner").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    for source, target in (
        ("prompts", "cdner/_prompts"),
        ("store/migrations", "cdner/_store/migrations"),
        ("store/views", "cdner/_store/views"),
        ("store/queries", "cdner/_store/queries"),
        ("store/published", "cdner/_store/published"),
        ("scripts/experiments", "cdner/_experiments"),
    ):
        files = [path for path in (ROOT / source).rglob("*") if path.is_file()]
        assert files
        expected |= {f"{target}/{path.relative_to(ROOT / source).as_posix()}" for path in files}
    assert any(name.endswith("crossner.sha256") for name in expected)
    assert any("demo" in name and name.endswith((".txt", ".conll")) for name in expected)
    present = {path.relative_to(wheel).as_posix() for path in wheel.rglob("*") if path.is_file()}
    assert expected - present == set()
    assert not [
        name for name in present if name.endswith(".duckdb") or "checkpoints" in name or "tests" in name
    ]


@pytest.mark.slow
def test_the_wheel_works_without_the_checkout(wheel, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(wheel)}

    def cdner(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "cdner", *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = subprocess.run(
        [sys.executable, "-P", "-c", "import cdner; print(cdner.__file__)"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(where.stdout.strip()).is_relative_to(wheel)
    assert "evaluate:full/test" in cdner("run", "demo", "--dry-run")
    assert "film" in cdner("-q", "import", "demo")
    assert "no problem found" in cdner("store", "verify")
    assert "pbrc" in cdner("prompts", "list")
