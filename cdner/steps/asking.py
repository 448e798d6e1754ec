"""Asking an LLM for what the store cannot answer: a completion is stored before it counts, none is paid for twice.

An answer that was cut off or lacks a part is asked for again with another seed. Such a retry is a request of its own,
so a rerun and a replay find it in the store and come to the same answer.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from cdner.config import Llm
from cdner.errors import BackendError, PartialError
from cdner.steps.context import Context
from cdner.steps.protocol import Defects, Questions, StepKind
from cdner.steps.step import Step
from cdner.store import llm_log as stored
from cdner.types import Completion, Gap, ReasoningBackend, ReasoningRequest


class Meter:
    """Tokens a second, cached share, cost and gaps of the answers so far. ``clock`` gives seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._started = clock()
        self._n_input = self._n_cached = self._n_output = self._n_gaps = 0
        self._cost: float | None = None
        self._last_gap = ""

    def add(self, outcome: Completion | Gap) -> None:
        if isinstance(outcome, Gap):
            self._n_gaps += 1
            self._last_gap = outcome.reason
            return
        self._n_input += outcome.input_tokens
        self._n_cached += outcome.cached_tokens
        self._n_output += outcome.output_tokens
        if outcome.cost_usd is not None:
            self._cost = (self._cost or 0.0) + outcome.cost_usd

    def note(self) -> str:
        """``85 tokens/s, 94 % cached, $0.0123, 2 gaps (last: timeout)``; what is not known is left out."""
        seconds = max(self._clock() - self._started, 1e-3)
        parts = [f"{self._n_output / seconds:.0f} tokens/s"]
        if self._n_input:
            parts.append(f"{self._n_cached / self._n_input:.0%} cached".replace("%", " %"))
        if self._cost is not None:
            parts.append(f"${self._cost:.4f}")
        if self._n_gaps:
            parts.append(f"{self._n_gaps} {'gap' if self._n_gaps == 1 else 'gaps'} (last: {self._last_gap})")
        return ", ".join(parts)


# Where the settings say 0: a greedy answer would come again as it was, whatever the seed.
RETRY_TEMPERATURE = 0.3
LARGEST_GROUP = 256  # completions a transaction
CUT_OFF = "length"  # finish reason
N_REASONS = 3  # named in an error; the rest is counted

Identify = Callable[[Sequence[ReasoningRequest]], list[str]]  # the request ids


@dataclass(frozen=True, slots=True)
class Answer:
    """``request_id`` names the request whose completion it is: the one asked, or a retry of it."""

    request_id: str
    outcome: Completion | Gap


@dataclass(frozen=True, slots=True)
class Question:
    number: int  # 0-based, among the requests of the step
    request_id: str
    request: ReasoningRequest


Ask = Callable[[Sequence[Question], int], Mapping[str, Completion | Gap]]  # of the n-th retry; by request id


def complete(
    step: Step,
    context: Context,
    llm: Llm,
    requests: Sequence[ReasoningRequest],
    *,
    defects: Defects,
    which: str = "",
) -> list[Answer]:
    """The answer to each request, in order. Equal requests are sent once; requests with a stored answer are not sent.

    An answer with defects is requested again, at most ``llm.retries`` times, all retries of a round in one call of the
    backend. The answer with the fewest defects is used, the earliest of equals. A retry that fails is a gap like any
    other: the next run continues there. ``which`` is shown after the label of the step if these are not all of its
    requests.
    """
    return best_answers(
        requests,
        identify=lambda asked: _request_ids(context, llm, asked),
        ask=lambda asked, n_retries: _found_or_asked(
            step, context, llm, asked, label=f"{step.label}{which}{_nth_retry(n_retries)}"
        ),
        n_retries=llm.retries,
        defects=defects,
    )


def best_answers(
    requests: Sequence[ReasoningRequest], *, identify: Identify, ask: Ask, n_retries: int, defects: Defects
) -> list[Answer]:
    """As ``complete``, with outcomes from ``ask``, which gives one for every question."""
    ids = identify(requests)
    best: dict[str, Answer] = {}
    waiting = _distinct(ids, requests)
    for n in range(n_retries + 1):
        asked = _retries(identify, waiting, n)
        outcomes = ask(asked, n)
        again = []
        for original, question in zip(waiting, asked, strict=True):
            key, outcome = original.request_id, outcomes[question.request_id]
            if _is_better(outcome, best.get(key), defects):
                best[key] = Answer(question.request_id, outcome)
            if isinstance(outcome, Completion) and defects(outcome):
                again.append(original)
        waiting = again
        if not waiting:
            break
    return [best[key] for key in ids]


def to_send(
    context: Context, llm: Llm, requests: Sequence[ReasoningRequest], *, defects: Defects
) -> list[ReasoningRequest]:
    """The requests that ``complete`` would send first: those, or their retries, without a stored answer."""
    missing: list[ReasoningRequest] = []

    def identify(asked: Sequence[ReasoningRequest]) -> list[str]:
        return _request_ids(context, llm, asked)

    waiting = _distinct(identify(requests), requests)
    for n_retries in range(llm.retries + 1):
        asked = _retries(identify, waiting, n_retries)
        found = stored.load_completions(context.store, [question.request_id for question in asked])
        missing += [question.request for question in asked if question.request_id not in found]
        waiting = [
            original
            for original, question in zip(waiting, asked, strict=True)
            if question.request_id in found and defects(found[question.request_id])
        ]
        if not waiting:
            break
    return missing


def retried(request: ReasoningRequest, n_retries: int) -> ReasoningRequest:
    """The n-th retry of a request: n is added to the seed, and sampling is not greedy. The 0th is the request."""
    if not n_retries:
        return request
    sampling = request.sampling
    return replace(
        request,
        sampling=replace(
            sampling,
            seed=sampling.seed + n_retries,
            temperature=sampling.temperature or RETRY_TEMPERATURE,
        ),
    )


def reasons_in_words(gaps: Sequence[Gap]) -> str:
    """The reasons for missing answers, most frequent first: "timeout (12), connection reset (1)"."""
    counts = Counter(gap.reason for gap in gaps).most_common()
    named = [f"{reason} ({n})" for reason, n in counts[:N_REASONS]]
    if rest := counts[N_REASONS:]:
        named.append(f"{len(rest)} other reasons ({sum(n for _, n in rest)})")
    return ", ".join(named)


def _is_better(outcome: Completion | Gap, best: Answer | None, defects: Defects) -> bool:
    if best is None or isinstance(outcome, Gap) or isinstance(best.outcome, Gap):
        return True
    return defects(outcome) < defects(best.outcome)


def _distinct(ids: Sequence[str], requests: Sequence[ReasoningRequest]) -> list[Question]:
    first: dict[str, Question] = {}
    for number, (key, request) in enumerate(zip(ids, requests, strict=True)):
        first.setdefault(key, Question(number, key, request))
    return list(first.values())


def _retries(identify: Identify, questions: Sequence[Question], n_retries: int) -> Sequence[Question]:
    if not n_retries:
        return questions
    requests = [retried(question.request, n_retries) for question in questions]
    ids = identify(requests)
    return [
        Question(question.number, key, request)
        for question, key, request in zip(questions, ids, requests, strict=True)
    ]


def _nth_retry(n_retries: int) -> str:
    return f" (retry {n_retries})" if n_retries else ""


def _found_or_asked(
    step: Step, context: Context, llm: Llm, questions: Sequence[Question], *, label: str
) -> dict[str, Completion | Gap]:
    """Request id -> outcome, for every question."""
    ids = [question.request_id for question in questions]
    outcomes: dict[str, Completion | Gap] = {**stored.load_completions(context.store, ids)}
    if context.experiment.execution.replay:
        outcomes.update(_recorded_gaps(step, context, [q for q in questions if q.request_id not in outcomes]))
    pending = [question for question in questions if question.request_id not in outcomes]
    if pending and context.experiment.execution.replay:
        raise BackendError(
            f"{label}: {len(pending)} of {len(questions)} completions are not in the store; the first "
            f"is request {pending[0].request_id} (number {pending[0].number}). "
            "Run without --backend replay to make them."
        )
    if pending:
        outcomes.update(_ask(step, context, llm, pending, label=label))
    return outcomes


def _recorded_gaps(step: Step, context: Context, questions: Sequence[Question]) -> dict[str, Gap]:
    """What this very run went without, here or where a bundle of it was packed; a replay goes without it, too."""
    if not questions:
        return {}
    reasons = stored.load_gap_requests(context.store, step.spec.run_id)
    return {q.request_id: Gap(reasons[q.request_id]) for q in questions if q.request_id in reasons}


def _ask(
    step: Step, context: Context, llm: Llm, pending: Sequence[Question], *, label: str
) -> dict[str, Completion | Gap]:
    """Send them. The backend is asked for its next outcome only when those it gave before are in the store."""
    requests = [question.request for question in pending]
    stored.save_requests(context.store, *_identity(context, llm), requests)
    backend = context.llms.open(llm)
    outcomes: dict[str, Completion | Gap] = {}
    group: list[tuple[str, Completion | Gap]] = []
    meter = Meter()
    context.progress.start(label, len(pending))

    def commit() -> None:
        completions = [(key, outcome) for key, outcome in group if isinstance(outcome, Completion)]
        if completions:
            stored.save_completions(context.store, step.spec.run_id, completions)
        for key, outcome in group:
            outcomes[key] = outcome
            meter.add(outcome)
        context.progress.advance(len(group), note=meter.note())
        group.clear()

    try:
        for index, outcome in backend.complete(requests):
            group.append((pending[index].request_id, outcome))
            if len(group) >= LARGEST_GROUP or not _n_ready(backend):
                commit()
    finally:  # answers that have arrived are stored, also after an interrupt or an error of the backend
        if group:
            # The interrupt may have come after they were stored; storing them twice would count them twice.
            durable = stored.load_completions(context.store, [key for key, _ in group])
            group[:] = [(key, outcome) for key, outcome in group if key not in durable]
            commit()
    for question in pending:
        outcomes.setdefault(question.request_id, Gap("the backend gave no answer"))
    return outcomes


def _n_ready(backend: ReasoningBackend) -> int:
    """Outcomes that the backend has ready, if it reports that: they are stored together."""
    return int(getattr(backend, "n_ready", 0))


def _identity(context: Context, llm: Llm) -> tuple[str, str]:
    """Backend family and model@weights, as they stand in every request's identity."""
    return llm.backend, context.model("llm", llm.model)


def _request_ids(context: Context, llm: Llm, requests: Sequence[ReasoningRequest]) -> list[str]:
    family, model = _identity(context, llm)
    return [stored.request_id(family, model, request) for request in requests]


def check_llm(kind: StepKind, step: Step, context: Context) -> None:
    """Open the backend if the step will ask it; a step that the store can answer needs none."""
    llm = kind.asks.llm(step, context) if kind.asks else None
    if llm is None or context.experiment.execution.replay or not must_ask(kind, step, context):
        return
    context.llms.open(llm)


def must_ask(kind: StepKind, step: Step, context: Context) -> bool:
    """Whether a step still needs its LLM. True as long as its prompts are not known."""
    missing = unanswered(kind, step, context)
    return missing is None or any(missing)


def unanswered(kind: StepKind, step: Step, context: Context) -> Iterator[list[ReasoningRequest]] | None:
    """The requests that a step would send first, with the retries that are due, a window at a time.

    None while its prompts are not known: its inputs are not done, or a model would have to be loaded. Opens no backend.
    """
    asks = kind.asks
    llm = asks.llm(step, context) if asks else None
    if asks is None or llm is None:
        return iter(())
    if any(context.run_state(run_id) != "done" for run_id in step.spec.inputs):
        return None
    if not asks.are_known(step, context):
        return None
    return _unanswered(step, context, llm, asks)


def _unanswered(step: Step, context: Context, llm: Llm, asks: Questions) -> Iterator[list[ReasoningRequest]]:
    defects = asks.defects(step, context)
    seen: set[int] = set()  # hashes: a request that comes again in another window is sent once
    for window in asks.windows(step, context):
        missing = [
            request for request in to_send(context, llm, window, defects=defects) if hash(request) not in seen
        ]
        seen.update(map(hash, missing))
        yield missing


def partial_error(step: Step, gaps: Sequence[Gap], what: str, *, way_out: str = "") -> PartialError:
    """How many, why, and how to go on."""
    return PartialError(
        f"{step.label}: {len(gaps)} of {what} yet: {reasons_in_words(gaps)}. "
        f"What arrived is stored; run the same command again to ask for the rest.{way_out}"
    )
