"""Answers from a function or a file instead of a model: for tests and for trying the tool out without any
LLM.

Knows nothing of what the answers mean.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from cdner.choices import ChoiceScores, scores_text
from cdner.config import Execution, Llm
from cdner.errors import InputError
from cdner.files import content_hash
from cdner.llm.chat.budget import Budget
from cdner.types import Completion, Gap, ReasoningRequest

Answer = Callable[[ReasoningRequest], Completion | Gap]


class ScriptedBackend:
    """Asks ``answer`` for each request, in order. An exception of it passes through, as a crash would.

    ``at_hand``: answers cost nothing and may be stored many at a time; a kill forgets some of them.
    """

    family = "scripted"

    def __init__(self, answer: Answer, *, model: str = "script", at_hand: bool = False) -> None:
        self._answer = answer
        self._model = model
        self._at_hand = at_hand
        self.n_ready = 0

    @property
    def model(self) -> str:
        return self._model

    def complete(self, requests: Sequence[ReasoningRequest]) -> Iterator[tuple[int, Completion | Gap]]:
        for index, request in enumerate(requests):
            self.n_ready = len(requests) - index - 1 if self._at_hand else 0
            yield index, self._answer(request)

    def rest(self) -> None:
        """Holds nothing."""

    def close(self) -> None:
        """Holds nothing."""


def written(text: str) -> Completion:
    """A finished completion; token counts are words, so that they are plausible and known."""
    return Completion(
        text=text, finish_reason="stop", input_tokens=0, cached_tokens=0, output_tokens=len(text.split())
    )


def scored(request: ReasoningRequest, favourite: str = "") -> Completion:
    """Made-up probabilities of a request's choices, sum 1, always the same for the same messages and choices.

    ``favourite``: the choice with a probability of 0.9, blanks around it aside; none of them: all are as they come.
    """
    messages = [[message.role, message.content] for message in request.messages]
    names = [choice.strip() for choice in request.sampling.choices]
    weights = [1 + int(content_hash({"messages": messages, "choice": name})[:4], 16) for name in names]
    if (chosen := favourite.strip()) in names and len(names) > 1:
        weights[names.index(chosen)] = 0
        weights[names.index(chosen)] = 9 * sum(weights)
    log_probs = tuple(math.log(weight / sum(weights)) for weight in weights)
    return Completion(
        text=scores_text(ChoiceScores(log_probs, "logits")),
        finish_reason="stop",
        input_tokens=0,
        cached_tokens=0,
        output_tokens=0,
    )


def open_backend(llm: Llm, _execution: Execution, _budget: Budget) -> ScriptedBackend:
    """``llm.model`` is a JSON Lines file of {"match": ..., "text": ...}.

    The first line whose ``match`` occurs in a request's last message answers it ("" matches all); a request
    that no line matches is a gap. Of a request with choices it is the last message of the user, and the line's text
    is the favourite (see ``scored``). InputError names the file and the line that is wrong.
    """
    script = _read_script(Path(llm.model))

    def answer(request: ReasoningRequest) -> Completion | Gap:
        has_choices = bool(request.sampling.choices)
        roles = ("user",) if has_choices else ("system", "user", "assistant")
        asked = next((turn.content for turn in reversed(request.messages) if turn.role in roles), "")
        for match, text in script:
            if match in asked:
                return scored(request, text) if has_choices else written(text)
        return Gap(f"no line of {llm.model} matches the request")

    return ScriptedBackend(answer, model=llm.model, at_hand=True)


def _read_script(path: Path) -> list[tuple[str, str]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"Cannot read the script {path}: {error}.") from error
    script = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise InputError(f"{path}, line {number}: not JSON: {error}.") from error
        if not isinstance(row, dict) or not all(isinstance(row.get(key), str) for key in ("match", "text")):
            raise InputError(f'{path}, line {number}: expected {{"match": "...", "text": "..."}}.')
        script.append((row["match"], row["text"]))
    return script
