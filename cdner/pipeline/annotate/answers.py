"""Reasoning texts for the sentences of a block. Each answer of the LLM is on disk before it counts.

Answers lie beside the block until it is written: a killed process asks again for none of them. No store is opened.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from cdner.backends import open_backend
from cdner.errors import PartialError
from cdner.pipeline.annotate.method import Asking, Method
from cdner.pipeline.asking import Question, best_answers, reasons_in_words
from cdner.pipeline.reasoning import reasoning_defects
from cdner.reasoning import parse_reasoning
from cdner.store.reasoning import request_id
from cdner.types import Completion, Gap, ReasoningBackend, ReasoningChain, ReasoningRequest


class Reasoner:
    """Asks the method's LLM, which is opened at the first question."""

    def __init__(self, method: Method, asking: Asking) -> None:
        self._llm = method.experiment.reason
        self._execution = method.experiment.execution
        self._asking = asking
        self._backend: ReasoningBackend | None = None

    def chains(self, texts: Sequence[str], log: Path) -> list[ReasoningChain | None]:
        """The reasoning on each text, in order; ``log`` is where answers lie.

        PartialError for more gaps than allowed (``execution.max_gaps``, of one block); with fewer, theirs are None.
        """
        setting, structured = self._asking.setting, self._llm.structured
        answers = best_answers(
            self._asking.requests(texts),
            identify=self._identify,
            ask=lambda asked, _: self._outcomes(asked, log),
            n_retries=self._llm.retries,
            defects=reasoning_defects(setting, structured=structured),
        )
        gaps = [answer.outcome for answer in answers if isinstance(answer.outcome, Gap)]
        if len(gaps) > self._execution.max_gaps:
            raise PartialError(
                f"{len(gaps)} of {len(texts)} sentences of a block have no reasoning text: {reasons_in_words(gaps)}. "
                "Finished blocks and what arrived are kept; run the same command again to go on. "
                f"To annotate them without: --set execution.max_gaps={len(gaps)} (counted by block)."
            )
        return [
            None
            if isinstance(outcome, Gap)
            else parse_reasoning(outcome.text, setting, structured=structured)
            for outcome in (answer.outcome for answer in answers)
        ]

    def close(self) -> None:
        if self._backend is not None:
            self._backend.close()

    def _identify(self, requests: Sequence[ReasoningRequest]) -> list[str]:
        return [request_id(self._llm.backend, self._asking.weights, request) for request in requests]

    def _outcomes(self, asked: Sequence[Question], log: Path) -> Mapping[str, Completion | Gap]:
        outcomes: dict[str, Completion | Gap] = {**_load_answers(log)}
        pending = [question for question in asked if question.request_id not in outcomes]
        if pending:
            if self._backend is None:
                self._backend = open_backend(self._llm, self._execution)
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
