"""Request ids, the store's schema and every command's help stay what they were (``golden.py``).

Run ids of every shipped experiment are compared where they are planned, in ``test_pipeline_shipped.py``.
"""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from golden import assert_golden

from cdner import errors, prompts
from cdner.cli import COMMANDS, cli
from cdner.config import REASONING_SETTINGS, Describing, Judging, Llm, Reasoning
from cdner.files import Json
from cdner.reasoning import description_requests, reasoning_requests
from cdner.store import Store
from cdner.store.llm_log import request_id
from cdner.types import Entity, ReasoningRequest, Sentence
from cdner.verdicts import Question, question_maker

TEXT = "Ilse Vandermeer directed Low Tide in Ostend ."
SENTENCE = Sentence(tuple(TEXT.split()))
SHOWN = (Sentence(("Bergen", "shows", "Quiet", "Harbour")), Entity(0, 1, "city"))
SOURCE, TARGET = prompts.load_domain("coarse"), prompts.load_domain("film")


def identity(request: ReasoningRequest) -> str:
    return request_id("openai", "gpt-4o-mini", request)


def test_requests_for_reasoning_and_extraction() -> None:
    types = TARGET.types
    shorts = [entry.short for entry in SOURCE.entries]
    found: dict[str, Json] = {}
    for template, settings in (("pbrc.v1", REASONING_SETTINGS), ("ner.v1", ("full",))):
        for setting in settings:
            for structured in (True, False):
                (request,) = reasoning_requests(
                    [TEXT],
                    prompts.load_template(template),
                    setting=setting,
                    source=SOURCE,
                    target=TARGET,
                    prefixes={name: shorts[n % len(shorts)] for n, name in enumerate(types)},
                    rivals=dict(zip(types, ((name,) for name in (*types[1:], types[0])), strict=True)),
                    examples=prompts.load_examples("film"),
                    settings=Reasoning(n_examples=3, structured=structured),
                )
                found[f"{template} {setting} structured={structured}"] = identity(request)
    assert_golden("requests", found)


def test_requests_for_descriptions() -> None:
    template = prompts.load_template("describe.v1")
    glosses = dict.fromkeys(TARGET.types, "something that is known")
    assert_golden(
        "requests",
        {
            f"describe.v1 structured={structured}": [
                identity(request)
                for request in description_requests(
                    TARGET, glosses, template=template, settings=Describing(structured=structured)
                )
            ]
            for structured in (True, False)
        },
    )


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"answer": "letter"},
        {"definitions": False},
        {"template": "judge.v2"},
        {"template": "judge.v2", "neighbours_of": "sentence"},
    ],
)
def test_requests_for_verdicts(changes: dict[str, object]) -> None:
    settings = Judging.model_validate(changes)
    make = question_maker(prompts.load_template(settings.template), TARGET, settings, Llm())
    named = " ".join(f"{key}={value}" for key, value in changes.items())
    few = (TARGET.types[0], TARGET.types[3])
    questions = [Question(SENTENCE, 0, 2, (SHOWN,), names) for names in (TARGET.types, few)]
    assert_golden("requests", {f"judge {named}": [identity(make(question)) for question in questions]})


def test_the_schema_of_a_new_store(tmp_path: Path) -> None:
    with Store(tmp_path / "s.duckdb").transaction() as connection:
        columns = connection.execute(
            "SELECT table_name, column_name, data_type, is_nullable FROM information_schema.columns ORDER BY ALL"
        ).fetchall()
        keys = connection.execute(
            "SELECT table_name, constraint_type, constraint_column_names FROM duckdb_constraints() ORDER BY ALL"
        ).fetchall()
    assert len(columns) > 100
    assert_golden(
        "schema",
        {"columns": [list(row) for row in columns], "keys": [[*row[:2], list(row[2])] for row in keys]},
    )


def test_the_help_of_every_command() -> None:
    paths = ["", *(path for name in COMMANDS for path in _with_subcommands(name))]
    found: dict[str, Json] = {}
    for path in paths:
        answer = CliRunner().invoke(cli, [*path.split(), "--help"], prog_name="cdner", terminal_width=80)
        assert answer.exit_code == 0, path
        text = "".join(answer.output.split())  # lines are as wide as a terminal is
        # click remembers in a command how its help option was named in the first context that asked for it.
        found[f"cdner {path}".strip()] = text.replace("-h,--help", "--help")
    assert len(found) > 40
    assert_golden("help", found)


def _with_subcommands(name: str) -> list[str]:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    below = command.commands if isinstance(command, click.Group) else {}
    return [name, *(f"{name} {sub}" for sub in below)]


def test_exit_codes() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and hasattr(kind, "exit_code")]
    assert_golden("exit codes", {"codes": sorted([kind.__name__, kind.exit_code] for kind in kinds)})
