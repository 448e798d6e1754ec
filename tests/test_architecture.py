"""The house rules that a machine can hold: imports, sizes, names, help texts, the registry."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from cdner import registry
from cdner.cli import COMMANDS, cli

ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted(path for path in (ROOT / "cdner").rglob("*.py"))
SOURCES = [*MODULES, *(ROOT / "scripts").glob("*.py")]
NO_NAMES = {
    "util",
    "utils",
    "helper",
    "helpers",
    "common",
    "misc",
    "data",
    "info",
    "manager",
    "tools",
}
TOP_LEVEL = {
    *("pyproject.toml", "cdner", "prompts", "store", "scripts", "tests"),
    *("README.md", "LICENSE", "CHANGELOG.md"),
}
BY_PRODUCTS = {"build", "dist"}  # ignored by git


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_imports_point_down():
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"[1-9]\d* kept, 0 broken", done.stdout), done.stdout


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_files_are_short_and_say_why_they_exist(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 600
    assert (ast.get_docstring(ast.parse(text)) or "").strip().endswith(
        (".", ":", "!", "```", ")")
    ) or text == ""


def test_functions_are_short():
    long = [
        f"{relative(path)}:{node.lineno} {node.name}"
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and _n_statement_lines(node) > 40
    ]
    assert long == []


def _n_statement_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of the body behind the docstring; a signature of options is no logic."""
    body = node.body[1:] if ast.get_docstring(node) else node.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def test_no_file_has_a_name_that_says_nothing():
    files = [*MODULES, *(ROOT / "tests").rglob("*.py"), *(ROOT / "scripts").rglob("*")]
    assert [relative(path) for path in files if path.stem in NO_NAMES] == []


def test_the_top_level_is_what_it_is_meant_to_be():
    names = {path.name for path in ROOT.iterdir() if not path.name.startswith(".")}
    assert names - BY_PRODUCTS - {name for name in names if name.endswith(".egg-info")} == TOP_LEVEL
    assert (ROOT / ".ci" / "run").is_file()


def test_of_our_classes_only_protocols_exceptions_and_settings_are_inherited_from():
    bases = {
        node.name: [ast.unparse(base).partition("[")[0] for base in node.bases]
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
    }

    def roots(name: str) -> set[str]:
        if not bases.get(name):
            return {name}
        return {root for base in bases[name] for root in roots(base)}

    found = {
        (name, base)
        for name, its_bases in bases.items()
        for base in its_bases
        if base in bases and not roots(base) & {"Protocol", "Exception", "BaseModel"}
    }
    assert found == set()
    assert roots("UsageError") == {"Exception"}, "the walk works"


def commands() -> Iterator[tuple[str, click.Command]]:
    context = click.Context(cli)
    yield "cdner", cli
    for name in COMMANDS:
        command = cli.get_command(context, name)
        assert command is not None
        yield f"cdner {name}", command
        if isinstance(command, click.Group):
            yield from ((f"cdner {name} {child}", found) for child, found in command.commands.items())


@pytest.mark.parametrize(
    ("path", "command"), list(commands()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_every_command_and_option_explains_itself(path, command):
    assert (command.help or "").strip(), path
    silent = [
        parameter.opts[-1]
        for parameter in command.params
        if isinstance(parameter, click.Option) and not (parameter.help or "").strip()
    ]
    assert silent == []


@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind in registry._BUILT_IN for name in registry._BUILT_IN[kind]]
)
def test_every_registered_name_can_be_resolved(kind, name):
    assert registry.resolve(kind, name) is not None


def test_every_backend_that_can_be_opened_is_registered():
    """A file with a factory that nothing names is dead, or was forgotten."""
    registered = {value.partition(":")[0] for kind in registry._BUILT_IN.values() for value in kind.values()}
    factories = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in (ROOT / "cdner" / "llm").rglob("*.py")
        if path.stem != "__init__" and "\ndef open_backend(" in path.read_text(encoding="utf-8")
    }
    assert factories >= {"cdner.llm.openai", "cdner.llm.local"}, "the search works"
    assert factories <= registered


def test_no_path_of_a_machine_and_no_registry_host_is_in_the_repository():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    assert listed.returncode == 0, listed.stderr.decode()
    files = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    assert {ROOT / "README.md", ROOT / "cdner" / "__init__.py", Path(__file__)} <= set(files)
    patterns = re.compile(r"/(?:home|root|Users|work)/\w|file:///\w|pypi\.org|/tmp/\w")
    found = []
    for path in files:
        if path == Path(__file__) or path.suffix not in (".py", ".md", ".toml", ".sql", ".jinja", ""):
            continue
        for number, line in enumerate(
            path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1
        ):
            if patterns.search(line):
                found.append(f"{relative(path)}:{number}: {line.strip()}")
    assert found == []
