"""The real vLLM with SmolLM2, as a server of cdner's and in process. One server, one engine: each start takes a minute.

Needs .venv-vllm (scripts/setup-vllm), and fails without it: what a skip hides is not tested.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cdner.choices import ChoiceScores, read_scores
from cdner.config import BackboneChoice, Execution, Llm
from cdner.llm import open_backend
from cdner.llm.local import LocalBackend
from cdner.models import open_backbone
from cdner.types import Completion, Message, ReasoningBackend, ReasoningRequest, Sampling

ROOT = Path(__file__).resolve().parents[1]
PYTHON = ROOT / ".venv-vllm" / "bin" / "python"
FIXED = "Name every person and every place in the text and say why it is one. " * 40  # 640 tokens
LONGEST = 30  # characters
SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {name: {"type": "string", "maxLength": LONGEST} for name in ("why", "because")},
        "required": ["why", "because"],
        "additionalProperties": False,
    }
)
PLACES = ("Oslo", "Lagos", "Lima", "Perth", "Quito", "Riga", "Turin", "Split")
# Two begin alike; what SmolLM2 would say first is among them.
CHOICES = (" Person", " City", " Business", " User", " Name of a", " Name is", " Sports")
pytestmark = [pytest.mark.slow]


def ask(place: str, *, max_tokens: int = 16, schema: str | None = None) -> ReasoningRequest:
    messages = (Message("system", FIXED), Message("user", f"Mira Olsen left {place} on Monday ."))
    return ReasoningRequest(messages, Sampling(max_tokens=max_tokens), schema)


def answers(outcomes: Iterator[tuple[int, object]]) -> dict[int, Completion]:
    """Every outcome is a completion, and no index comes twice."""
    found: dict[int, Completion] = {}
    for index, outcome in outcomes:
        assert isinstance(outcome, Completion), outcome
        assert index not in found
        found[index] = outcome
    return found


def servers() -> list[int]:
    """Processes of vLLM's server among those below this one."""
    listing = subprocess.run(
        ["ps", "-eww", "-o", "pid,ppid,args"], capture_output=True, text=True, check=True
    )
    rows = [line.split(None, 2) for line in listing.stdout.splitlines()[1:]]
    ours = {os.getpid()}
    while grown := {int(pid) for pid, parent, _ in rows if int(parent) in ours} - ours:
        ours |= grown
    found = [(int(pid), arguments) for pid, _, arguments in rows if int(pid) in ours]
    return [pid for pid, arguments in found if "api_server" in arguments and "supervisor" not in arguments]


@pytest.fixture(scope="module")
def backend() -> Iterator[ReasoningBackend]:
    assert PYTHON.is_file(), "the real tests need .venv-vllm: run scripts/setup-vllm"
    opened = open_backend(Llm(backend="vllm", model="embedded"), Execution(concurrency=4))
    yield opened
    opened.close()
    assert servers() == []


@pytest.fixture(scope="module")
def plain(backend: ReasoningBackend) -> dict[int, Completion]:
    """What the server says at first; every other way to ask must come to the same."""
    return answers(backend.complete([ask(place) for place in PLACES]))


def test_the_fixed_part_of_a_prompt_is_computed_once(plain: dict[int, Completion]) -> None:
    cold = [index for index, answer in plain.items() if answer.cached_tokens == 0]
    assert cold == [0]
    rest = [answer for index, answer in plain.items() if index]
    assert sum(a.cached_tokens for a in rest) >= 0.9 * sum(a.input_tokens for a in rest)


def test_answers_keep_to_the_schema_and_its_lengths(backend: ReasoningBackend) -> None:
    found = answers(backend.complete([ask(place, max_tokens=64, schema=SCHEMA) for place in PLACES[:4]]))
    assert len(found) == 4
    for answer in found.values():
        assert answer.finish_reason == "stop"
        read = json.loads(answer.text)
        assert list(read) == ["why", "because"]
        assert all(0 < len(text) <= LONGEST for text in read.values())


def judge(place: str) -> ReasoningRequest:
    user = f"Mira Olsen left {place} on Monday .\nEntity: {place}"
    messages = (Message("system", FIXED), Message("user", user), Message("assistant", "Type:"))
    return ReasoningRequest(messages, Sampling(max_tokens=1, choices=CHOICES))


def all_scores(answered: dict[int, Completion]) -> list[ChoiceScores]:
    return [read_scores(answered[n].text, n_choices=len(CHOICES)) for n in sorted(answered)]


def test_probabilities_of_choices_are_those_of_the_local_backend(backend: ReasoningBackend) -> None:
    requests = [judge(place) for place in PLACES[:4]]

    def opened() -> Any:
        return open_backbone(BackboneChoice(family="causal", model="embedded", dtype="float32"), device="cpu")

    exact = all_scores(answers(LocalBackend(opened, model="m", batch_size=4).complete(requests)))
    served = all_scores(answers(backend.complete(requests)))
    n_compared = 0
    for ours, theirs in zip(exact, served, strict=True):
        assert (ours.origin, theirs.origin, theirs.n_invalid) == ("logits", "top_logprobs", 0)
        for one, other in zip(ours.log_probs, theirs.log_probs, strict=True):
            if other is not None:  # else it was not among the most probable
                assert other == pytest.approx(one, abs=0.01), (exact, served)
                n_compared += 1
    assert n_compared >= 2 * len(requests)


def test_a_server_killed_at_work_is_started_again_and_nothing_is_lost(
    backend: ReasoningBackend, plain: dict[int, Completion]
) -> None:
    outcomes = backend.complete([ask(place) for place in PLACES])
    found = answers(next(outcomes) for _ in range(2))
    (killed,) = servers()
    os.kill(killed, signal.SIGKILL)
    found |= answers(outcomes)
    assert {index: answer.text for index, answer in found.items()} == {
        index: answer.text for index, answer in plain.items()
    }
    assert servers() != [killed]


def test_a_server_that_cannot_sleep_is_stopped_to_rest(backend: ReasoningBackend) -> None:
    assert len(servers()) == 1
    backend.rest()
    assert servers() == []
