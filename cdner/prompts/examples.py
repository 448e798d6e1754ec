"""The in-context examples of a domain: hand-written sentences with their entities and reasoning.

Checked on reading, so that a slip in a file is an error with a place and never a worse prompt. Knows nothing
of how an example is laid out for the model.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from cdner.errors import InputError, unknown_name
from cdner.prompts.domains import OneLine, load_domain
from cdner.prompts.files import FileModel, checked_name, prompt_roots, read_toml


@dataclass(frozen=True, slots=True)
class ExampleEntity:
    type: str
    mention: str


@dataclass(frozen=True, slots=True)
class ExampleStep:
    """Reasoning on mentions of one type: forward says why it is, backward why it is not the rival."""

    type: str
    rival: str
    mentions: tuple[str, ...]
    forward: str
    backward: str


@dataclass(frozen=True, slots=True)
class Example:
    text: str  # tokens joined by single spaces, as in corpora
    entities: tuple[ExampleEntity, ...]  # in text order
    initial: str
    steps: tuple[ExampleStep, ...]


class _EntityRow(FileModel):
    type: OneLine
    mention: OneLine


class _StepRow(FileModel):
    type: OneLine
    rival: OneLine
    mentions: Annotated[list[OneLine], Field(min_length=1)]
    forward: OneLine
    backward: OneLine


class _ExampleRow(FileModel):
    text: OneLine
    entities: list[_EntityRow]
    initial: OneLine
    step: list[_StepRow]


class _ExamplesFile(FileModel):
    domain: OneLine
    example: list[_ExampleRow]


def load_examples(name: str, extra: Path | None = None) -> tuple[Example, ...]:
    """The examples of domain ``name`` in file order; same search order and errors as ``load_domain``.

    InputError names the file and the example (1-based) when a mention is no run of whole tokens, a type is
    not the domain's, or the steps do not cover exactly the entities.
    """
    checked_name("domain", name)
    types = set(load_domain(name, extra).types)
    for root in prompt_roots(extra):
        path = root / "examples" / f"{name}.toml"
        if path.is_file():
            examples_file = read_toml(path, _ExamplesFile)
            if examples_file.domain != name:
                raise InputError(
                    f"{path}: 'domain' is '{examples_file.domain}', but the file is named '{name}'."
                )
            for number, row in enumerate(examples_file.example, start=1):
                problem = _problem(row, types)
                if problem:
                    raise InputError(f"{path}: example {number}: {problem}.")
            return tuple(_as_example(row) for row in examples_file.example)
    known = {path.stem for root in prompt_roots(extra) for path in (root / "examples").glob("*.toml")}
    raise unknown_name("set of examples", name, known)


def _problem(row: _ExampleRow, types: set[str]) -> str:
    """What is wrong with an example, "" if nothing."""
    padded = f" {row.text} "
    for entity in row.entities:
        if f" {entity.mention} " not in padded:
            return f"'{entity.mention}' is no run of whole tokens of the text"
    named = {entity.type for entity in row.entities} | {step.rival for step in row.step}
    if unknown := sorted(named - types):
        return f"'{unknown[0]}' is not a type of the domain"
    if same := [step.type for step in row.step if step.type == step.rival]:
        return f"the rival of '{same[0]}' is '{same[0]}' itself"
    entities = Counter((entity.type, entity.mention) for entity in row.entities)
    covered = Counter((step.type, mention) for step in row.step for mention in step.mentions)
    if different := sorted((entities - covered) + (covered - entities)):
        return f"entities and steps disagree on {different[0][0]} '{different[0][1]}'"
    return ""


def _as_example(row: _ExampleRow) -> Example:
    return Example(
        text=row.text,
        entities=tuple(ExampleEntity(entity.type, entity.mention) for entity in row.entities),
        initial=row.initial,
        steps=tuple(
            ExampleStep(step.type, step.rival, tuple(step.mentions), step.forward, step.backward)
            for step in row.step
        ),
    )
