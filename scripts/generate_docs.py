#!/usr/bin/env python3
"""Writes the documentation that follows from the code: store/README.md, the modules in cdner/README.md, and the
command reference in cdner/cli/README.md.

With --check it writes nothing and fails, naming each file that is out of date.
"""

from __future__ import annotations

import ast
import re
import sys
import tempfile
import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from cdner.cli import cli
from cdner.store import Store
from cdner.store.dictionary import render_dictionary

ROOT = Path(__file__).resolve().parents[1]
WIDTH = 110
SHARED_BY = 5  # an option of at least this many commands is described once
HEADINGS = {
    "--set": "Options of every command that takes an experiment",
    "--json": "Options of every listing",
}
FOLDERS = {
    "cdner": "the package; a layer imports only layers below it, which `lint-imports` checks",
    "prompts": "what the LLM reads: templates, type explanations, worked examples",
    "store": "the store's SQL; `cdner.duckdb` and `checkpoints/` appear here",
    "scripts": "set-up, checks, tests, the main job, the experiments",
    "tests": "one file a module; `fixtures/` has the tiny models and vocabularies",
    "prompts/describe": "enriching a WordNet gloss into a type description",
    "prompts/examples": "ten worked examples a domain",
    "prompts/judge": "the type of one mention, as probabilities",
    "prompts/ner": "the LLM alone, as a baseline",
    "prompts/pbrc": "two-stage reasoning",
    "prompts/tell": "verdicts as a text for the backbone",
    "prompts/types": "label sets with explanations and WordNet senses",
    "store/migrations": "tables",
    "store/published": "published numbers, laid out as printed, with what can be compared of them",
    "store/queries": "named queries, for `cdner sql @NAME`",
    "store/views": "the interface for SQL users",
    "scripts/benchmarks": "speed and memory beside other tools",
    "scripts/experiments": "one TOML file an experiment, shipped in the package",
}
Option = tuple[str, str]  # ("--limit INTEGER RANGE", help)


def main() -> int:
    """Exit code 1 when --check finds something out of date."""
    stale = [path for path, text in generated().items() if _read(path) != text]
    if "--check" in sys.argv[1:]:
        for path in stale:
            print(f"{path.relative_to(ROOT)} is out of date: run scripts/check --fix", file=sys.stderr)
        return 1 if stale else 0
    for path in stale:
        path.write_text(generated()[path], encoding="utf-8")
        print(f"wrote {path.relative_to(ROOT)}")
    return 0


def generated() -> dict[Path, str]:
    """File -> what it should say."""
    pages = {ROOT / "store" / "README.md": dictionary()}
    for folder, name, heading, text in (
        ("cdner", "tree", "Modules", file_tree()),
        ("cdner/cli", "cli", "Command reference", cli_reference()),
    ):
        path = ROOT / folder / "README.md"
        pages[path] = between_markers(_read(path), name, heading=heading, text=text)
    return pages


def between_markers(page: str, name: str, *, heading: str, text: str) -> str:
    """Returns the page with `text` between its markers. A page without markers gets a section at its end."""
    first, last = f"<!-- generated: {name} -->", "<!-- end generated -->"
    block = f"{first}\n{text}\n{last}"
    if first not in page:
        return f"{page.rstrip()}\n\n## {heading}\n\n{block}\n".lstrip()
    pattern = re.escape(first) + ".*?" + re.escape(last)
    return re.sub(pattern, lambda _: block, page, count=1, flags=re.DOTALL)


def dictionary() -> str:
    """store/README.md, from the comments in a fresh store."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder) / "cdner.duckdb")
        with store.transaction():
            pass
        return render_dictionary(store)


def file_tree() -> str:
    """The folders, and the package's modules with the first sentence of their docstrings."""
    lines = []
    for folder in ("cdner", "prompts", "store", "scripts", "tests"):
        lines.append(_entry(f"{folder}/", FOLDERS[folder], indent=0))
        if folder != "tests":
            lines += [
                _entry(name, text, indent=2) for name, text in _children(ROOT / folder) if text is not None
            ]
    return "\n".join(["```text", *lines, "```"])


def _children(folder: Path) -> Iterator[tuple[str, str | None]]:
    for path in sorted(folder.iterdir(), key=lambda path: (path.is_file(), path.name)):
        relative = path.relative_to(ROOT).as_posix()
        if relative in FOLDERS:
            yield f"{path.name}/", FOLDERS[relative]
        elif (path / "__init__.py").is_file():
            yield f"{path.name}/", _first_sentence(path / "__init__.py")
        elif path.suffix == ".py" and not path.name.startswith("__"):
            yield path.name, _first_sentence(path)
        elif path.is_file() and not path.suffix and not path.name.startswith("."):
            yield path.name, _first_comment(path)


def _first_sentence(path: Path) -> str:
    text = ast.get_docstring(ast.parse(_read(path))) or ""
    paragraph = " ".join(text.partition("\n\n")[0].split()).replace("``", "`")
    return re.split(r"(?<=[.!?])\s", paragraph)[0].rstrip(".")


def _first_comment(path: Path) -> str | None:
    lines = [line for line in _read(path).splitlines() if line.startswith("# ")]
    return lines[0].removeprefix("# ").rstrip(".") if lines else None


def _entry(name: str, text: str, *, indent: int) -> str:
    head = f"{' ' * indent}{name}".ljust(19)
    return textwrap.fill(text, WIDTH, initial_indent=f"{head} ", subsequent_indent=" " * 20)


def cli_reference() -> str:
    """Every command with its summary and its own options. Options of many commands are listed once, at the end."""
    commands = list(leaf_commands())
    count = Counter(option for _, command, _ in commands for option in own_options(command))
    shared = {option for option, n in count.items() if n >= SHARED_BY}
    lines = []
    for path, command, context in commands:
        usage = " ".join(command.collect_usage_pieces(context)[1:])
        lines.append(f"{path} {usage}".rstrip())
        lines += textwrap.wrap(_one_line(command), WIDTH, initial_indent=" " * 4, subsequent_indent=" " * 4)
        lines += _option_lines([option for option in own_options(command) if option not in shared])
        lines.append("")
    for title, options in _shared_groups([own_options(command) for _, command, _ in commands], shared):
        lines += [title, *_option_lines(options), ""]
    lines += ["Options before the command", *_option_lines(own_options(cli))]
    return "\n".join(["```text", *lines, "```"])


def leaf_commands() -> Iterator[tuple[str, click.Command, click.Context]]:
    """Yields ("cdner corpora show", command, context) for every command that can be called."""
    root = click.Context(cli, info_name="cdner")
    for name in cli.list_commands(root):
        command = cli.get_command(root, name)
        if command is None:
            raise LookupError(name)
        context = click.Context(command, info_name=name, parent=root)
        if not isinstance(command, click.Group) or command.invoke_without_command:
            yield f"cdner {name}", command, context
        if isinstance(command, click.Group):
            for child_name, child in command.commands.items():
                yield (
                    f"cdner {name} {child_name}",
                    child,
                    click.Context(child, info_name=child_name, parent=context),
                )


def _one_line(command: click.Command) -> str:
    """The first paragraph of the command's help, on one line."""
    return " ".join((command.help or "").partition("\n\n")[0].split())


def own_options(command: click.Command) -> list[Option]:
    """Declarations and help of a command's options, in order."""
    context = click.Context(command)
    records = [
        parameter.get_help_record(context)
        for parameter in command.params
        if isinstance(parameter, click.Option)
    ]
    return [(declaration, text) for record in records if record for declaration, text in [record]]


def _shared_groups(
    by_command: Sequence[Sequence[Option]], shared: set[Option]
) -> list[tuple[str, list[Option]]]:
    """Groups the shared options: those that the same commands have form one group, with the title in HEADINGS."""
    order = list(dict.fromkeys(option for options in by_command for option in options if option in shared))
    groups: dict[str, list[Option]] = {"Options of several commands": []}
    for mark, title in HEADINGS.items():
        known = next(option for option in order if option[0].startswith(mark))
        users = [known in options for options in by_command]
        groups[title] = [option for option in order if [option in options for options in by_command] == users]
    grouped = {option for options in groups.values() for option in options}
    groups["Options of several commands"] = [option for option in order if option not in grouped]
    return [(title, options) for title, options in groups.items() if options]


def _option_lines(options: Sequence[Option]) -> list[str]:
    lines = []
    for declaration, text in options:
        head = f"    {declaration}".ljust(35)
        folded = textwrap.wrap(text, WIDTH - 36) or [""]
        rest = [" " * 36 + line for line in folded[1:]]
        if len(head) > 35:
            lines += [head, " " * 36 + folded[0], *rest]
        else:
            lines += [f"{head} {folded[0]}", *rest]
    return lines


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""


if __name__ == "__main__":
    sys.exit(main())
