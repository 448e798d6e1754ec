"""What each kind of step says about itself: its version, its work, its checks, its cost, and what it asks of an LLM.

Every file of a step ends in its ``StepKind``; ``cdner.steps.kinds`` collects them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from cdner.config import Llm
from cdner.steps.context import Context
from cdner.steps.step import Step
from cdner.types import Completion, ReasoningRequest

Defects = Callable[[Completion], int]  # how much is wrong with an answer; 0: nothing


@dataclass(frozen=True, slots=True)
class Questions:
    """What a kind of step asks of an LLM.

    ``llm``: the LLM's settings; None for a step that asks none, because its texts come from a file.
    ``windows``: the requests, in parts that are asked together; they can be made once the inputs are done.
    ``defects``: how good an answer is.
    ``n_texts``: types, sentences or mentions that are asked about; None where that is not known yet.
    ``are_known``: whether the requests can be made without loading a model.
    """

    llm: Callable[[Step, Context], Llm | None]
    windows: Callable[[Step, Context], Iterator[Sequence[ReasoningRequest]]]
    defects: Callable[[Step, Context], Defects]
    n_texts: Callable[[Step, Context], int | None]
    are_known: Callable[[Step, Context], bool] = lambda _step, _context: True


@dataclass(frozen=True, slots=True)
class StepKind:
    """What plan, checks, forecast and execution need of one kind of step.

    ``version``: raised when the same settings give another result; part of every run id.
    ``run``: does the work and stores it; can be resumed.
    ``check``: raises what can be known to fail before anything is executed. Asks no server, loads no model.
    ``n_units``: amount of work for the forecast of durations: sentences, in a training times epochs, 1 for steps of
    constant cost, None where it is not known yet. Steps with ``asks`` count calls of the LLM instead.
    """

    name: str
    version: int
    run: Callable[[Step, Context], None]
    check: Callable[[Step, Context], None] | None = None
    n_units: Callable[[Step, Context], int | None] = lambda _step, _context: 1
    asks: Questions | None = None
