"""Reasoning texts and verdicts for a block. Each answer of the LLM is on disk before it counts.

Answers lie beside the block until it is written: a killed process asks again for none of them. No store is opened.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from cdner.annotate.method import Asking, Method
from cdner.config import Execution, Llm
from cdner.errors import PartialError
from cdner.experiment.judge_method import EncoderWeights, JudgeMethod, Questioner, fused
from cdner.llm import open_backend
from cdner.llm.chat.budget import Budget
from cdner.reasoning import parse_reasoning
from cdner.steps.asking import Answer, Question, best_answers, reasons_in_words
from cdner.steps.judging import read_verdict
from cdner.steps.protocol import Defects
from cdner.steps.reasoning import reasoning_defects
from cdner.store.llm_log import request_id
from cdner.types import (
    Completion,
    Encoder,
    Gap,
    Prediction,
    ReasoningBackend,
    ReasoningChain,
    ReasoningRequest,
    Sentence,
)


class LoggedLlm:
    """An LLM whose answers are on disk before they count. Its backend is opened at the first question."""

    def __init__(self, llm: Llm, weights: str, execution: Execution, budget: Budget) -> None:
        self._llm = llm
        self._weights = weights
        self._execution = execution
        self._budget = budget
        self._backend: ReasoningBackend | None = None

    def best_answers(
        self, requests: Sequence[ReasoningRequest], log: Path, *, defects: Defects
    ) -> list[Answer]:
        """The answer to each request, in order; ``log`` is where answers are kept. Gaps are among them."""
        return best_answers(
            requests,
            identify=self._identify,
            ask=lambda asked, _: self._outcomes(asked, log),
            n_retries=self._llm.retries,
            defects=defects,
        )

    def close(self) -> None:
        if self._backend is not None:
            self._backend.close()

    def _identify(self, requests: Sequence[ReasoningRequest]) -> list[str]:
        return [request_id(self._llm.backend, self._weights, request) for request in requests]

    def _outcomes(self, asked: Sequence[Question], log: Path) -> Mapping[str, Completion | Gap]:
        outcomes: dict[str, Completion | Gap] = {**_load_answers(log)}
        pending = [question for question in asked if question.request_id not in outcomes]
        if pending:
            if self._backend is None:
                self._backend = open_backend(self._llm, self._execution, self._budget)
            is_cut = log.exists() and not log.read_bytes().endswith(b"\n")
            with log.open("a", encoding="utf-8") as file:
                file.write("\n" if is_cut else "")  # what a kill has cut off takes no whole line with it
                for index, outcome in self._backend.complete([question.request for question in pending]):
                    key = pending[index].request_id
                    if isinstance(outcome, Completion):
                        file.write(json.dumps({"request_id": key, **asdict(outcome)}) + "\n")
                        file.flush()
                        os.fsync(file.fileno())
                    outcomes[key] = outcome
        for question in pending:
            outcomes.setdefault(question.request_id, Gap("the backend gave no answer"))
        return outcomes


class Reasoner:
    """The reasoning texts of a method."""

    def __init__(self, method: Method, asking: Asking, budget: Budget) -> None:
        self._llm = method.experiment.reason
        self._n_allowed = method.experiment.execution.max_gaps
        self._asking = asking
        self._logged = LoggedLlm(self._llm, asking.weights, method.experiment.execution, budget)

    def chains(self, texts: Sequence[str], log: Path) -> list[ReasoningChain | None]:
        """The reasoning on each text, in order; ``log`` is where answers lie.

        PartialError for more gaps than allowed (``execution.max_gaps``, of one block); with fewer, theirs are None.
        """
        setting, structured = self._asking.setting, self._llm.structured
        defects = reasoning_defects(setting, structured=structured)
        answers = self._logged.best_answers(self._asking.requests(texts), log, defects=defects)
        gaps = [answer.outcome for answer in answers if isinstance(answer.outcome, Gap)]
        _check_gaps(
            gaps, f"of {len(texts)} sentences of a block have no reasoning text", allowed=self._n_allowed
        )
        return [
            None
            if isinstance(outcome, Gap)
            else parse_reasoning(outcome.text, setting, structured=structured)
            for outcome in (answer.outcome for answer in answers)
        ]

    def close(self) -> None:
        self._logged.close()


class Judge:
    """Verdicts on predicted mentions, fused with what the model says of them."""

    def __init__(
        self,
        method: JudgeMethod,
        execution: Execution,
        budget: Budget,
        open_encoder: Callable[[EncoderWeights], Encoder],
    ) -> None:
        self._method = method
        self._n_allowed = execution.max_gaps
        self._questioner = Questioner(method, open_encoder)
        self._logged = LoggedLlm(method.llm, method.weights, execution, budget)

    def fused(
        self, sentences: Sequence[Sentence], predictions: Sequence[Prediction], log: Path
    ) -> list[Prediction]:
        """The predictions with fused types; ``log`` is where answers are kept.

        PartialError for more gaps than allowed (``execution.max_gaps``, of one block); with fewer, their mentions keep
        the model's type.
        """
        asked = self._questioner.questions(sentences, predictions)
        requests = [question.request for question in asked]
        answers = self._logged.best_answers(requests, log, defects=lambda _completion: 0)
        verdicts = {
            question.mention: read_verdict(answer.request_id, answer.outcome, question.candidates)
            for question, answer in zip(asked, answers, strict=True)
        }
        gaps = [Gap(verdict.gap_reason) for verdict in verdicts.values() if verdict.gap_reason is not None]
        _check_gaps(gaps, f"of {len(asked)} mentions of a block have no verdict", allowed=self._n_allowed)
        return fused(self._method, sentences, predictions, verdicts)

    def close(self) -> None:
        self._logged.close()


def _check_gaps(gaps: Sequence[Gap], what: str, *, allowed: int) -> None:
    if len(gaps) > allowed:
        raise PartialError(
            f"{len(gaps)} {what}: {reasons_in_words(gaps)}. "
            "Finished blocks and what arrived are kept; run the same command again to go on. "
            f"To annotate them without: --set execution.max_gaps={len(gaps)} (counted by block)."
        )


def _load_answers(log: Path) -> dict[str, Completion]:
    """A line that a kill has cut off is no answer."""
    found: dict[str, Completion] = {}
    if not log.exists():
        return found
    for line in log.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except ValueError:  # cut off
            continue
        key = row.pop("request_id")
        found[key] = Completion(**row)
    return found
