"""Backends that need no model: scripts, and the identity of a request."""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from cdner.choices import read_scores
from cdner.config import Execution, Llm
from cdner.errors import InputError, UsageError
from cdner.llm import open_backend
from cdner.llm.scripted import ScriptedBackend, written
from cdner.store.llm_log import request_id
from cdner.types import Completion, Gap, Message, ReasoningRequest, Sampling


def ask(text: str) -> ReasoningRequest:
    return ReasoningRequest((Message("system", "fixed"), Message("user", text)), Sampling(max_tokens=9))


def identity(request: ReasoningRequest, *, family: str = "f", model: str = "m") -> str:
    return request_id(family, model, request)


# --- identity ----------------------------------------------------------------------------------------------


def test_equal_requests_have_one_identity() -> None:
    assert identity(ask("one")) == identity(ask("one"))
    as_integer = dataclasses.replace(ask("one"), sampling=Sampling(max_tokens=9, temperature=0, top_p=1))
    assert identity(as_integer) == identity(ask("one"))


def test_everything_that_decides_an_answer_changes_the_identity() -> None:
    base = ask("one")
    others = [
        identity(base, family="g"),
        identity(base, model="n"),
        identity(ask("two")),
        identity(dataclasses.replace(base, schema="{}")),
        identity(dataclasses.replace(base, messages=base.messages[::-1])),
        identity(dataclasses.replace(base, messages=(Message("user", "fixed"), base.messages[1]))),
    ]
    for change in ({"max_tokens": 8}, {"temperature": 0.1}, {"top_p": 0.9}, {"seed": 1}, {"stop": ("x",)}):
        others.append(
            identity(dataclasses.replace(base, sampling=dataclasses.replace(base.sampling, **change)))
        )  # type: ignore[arg-type]
    assert len({identity(base), *others}) == len(others) + 1


# --- scripted ----------------------------------------------------------------------------------------------


def test_script_answers_in_order_what_the_function_says() -> None:
    def answer(request: ReasoningRequest) -> Completion | Gap:
        text = request.messages[-1].content
        return Gap("no") if text == "two" else written(text.upper())

    outcomes = list(ScriptedBackend(answer).complete([ask("one"), ask("two")]))
    assert outcomes == [(0, written("ONE")), (1, Gap("no"))]


def test_script_file_answers_by_the_first_matching_line(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    lines = [{"match": "Io", "text": "a moon"}, {"match": "I", "text": "a letter"}]
    path.write_text("\n".join(json.dumps(line) for line in lines) + "\n\n", encoding="utf-8")
    backend = open_backend(Llm(backend="scripted", model=str(path)), Execution())
    outcomes = dict(backend.complete([ask("see Io ."), ask("I see ."), ask("nothing .")]))
    assert outcomes[0] == written("a moon") and outcomes[1] == written("a letter")
    assert isinstance(outcomes[2], Gap)


CHOICES = (" person", " place", " club")


def with_choices(text: str) -> ReasoningRequest:
    messages = (Message("user", text), Message("assistant", "Type:"))
    return ReasoningRequest(messages, Sampling(max_tokens=1, choices=CHOICES))


def test_script_file_names_the_favourite_of_a_request_with_choices(tmp_path: Path) -> None:
    path = tmp_path / "script.jsonl"
    path.write_text('{"match": "Oslo", "text": "place"}\n{"match": "Club", "text": "no name of a choice"}')
    backend = open_backend(Llm(backend="scripted", model=str(path)), Execution())
    asked = [with_choices(text) for text in ("in Oslo", "Harbour Club", "Mira", "Lantern Club")]
    first, second = (dict(backend.complete(asked)) for _ in range(2))
    assert first == second and isinstance(first[2], Gap)
    found = {}
    for index in (0, 1, 3):
        outcome = first[index]
        assert isinstance(outcome, Completion) and outcome.finish_reason == "stop"
        found[index] = [math.exp(x or 0.0) for x in read_scores(outcome.text, n_choices=3).log_probs]
        assert sum(found[index]) == pytest.approx(1.0, abs=1e-3)
    assert found[0][1] == pytest.approx(0.9, abs=1e-3)
    assert found[1] != found[3] and max(*found[1], *found[3]) < 1.0


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('{"match": "a", "text": "b"}\n{"match"', "line 2: not JSON"),
        ('{"match": 1, "text": "b"}', "line 1: expected"),
    ],
)
def test_broken_script_is_an_error_with_its_line(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=complaint):
        open_backend(Llm(backend="scripted", model=str(path)), Execution())
    with pytest.raises(InputError, match="gone"):
        open_backend(Llm(backend="scripted", model=str(tmp_path / "gone")), Execution())


# --- opening -----------------------------------------------------------------------------------------------


def test_unknown_backend_is_answered_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="Did you mean 'openai'"):
        open_backend(Llm(backend="opnai"), Execution())


def test_importing_backends_prompts_and_reasoning_loads_nothing_heavy() -> None:
    code = (
        "import sys, cdner.llm.openai, cdner.llm.local, cdner.prompts, cdner.reasoning\n"
        "heavy = ('torch', 'transformers', 'openai', 'jinja2', 'duckdb')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
