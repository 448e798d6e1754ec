"""What the batch backend needs to be told and to have remembered beyond its own process. Implemented by the store.

What a batch may cost and what it has cost: half the price, entered in the budget before anything is sent.

Completions through a Batch API: half the price, within a day, and the command may die meanwhile.

What is handed over is in the ledger before it is, and what is at the server is found there by the next command.
Requests that a batch leaves without an answer go into another one. Knows no store and no prompts.
"""

from __future__ import annotations

import dataclasses
import time
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from cdner.errors import BackendError
from cdner.llm.batch.rows import MAX_BYTES, MAX_REQUESTS, Failure, portions, read_rows, request_line
from cdner.llm.batch.server import ENDED, BatchServer, ServerBatch, UnreachableError
from cdner.llm.chat import Budget
from cdner.llm.chat.budget import estimated_input_tokens
from cdner.llm.chat.exchange import read_body
from cdner.llm.prices import Price, cost_usd
from cdner.types import Completion, Gap, Progress, ReasoningRequest


class Submission(Protocol):
    """A batch as the ledger has it."""

    @property
    def submission_id(self) -> str:
        """Our name for it, in its metadata at the server."""

    @property
    def batch_id(self) -> str | None:
        """The server's name; None: it is not known whether the server has it."""

    @property
    def names(self) -> frozenset[str]:
        """Those of its requests that were asked about."""

    @property
    def round(self) -> int:
        """1 when its requests were sent for the first time."""

    @property
    def cancel_asked(self) -> bool:
        """Whether the user had it cancelled."""

    @property
    def in_other_hands(self) -> bool:
        """Another living process is handing it over just now."""

    @property
    def created_utc(self) -> datetime: ...


class Ledger(Protocol):
    """Every call is durable when it returns. ``server`` names the server a batch is at."""

    def name(self, request: ReasoningRequest) -> str:
        """The request's name at the server: the same in every process, different for different requests."""

    def unsettled(self, names: Collection[str], *, server: str) -> Sequence[Submission]:
        """Batches that may answer some of these, the latest first."""

    def announce(self, names: Collection[str], *, server: str, round_n: int) -> Submission:
        """Before anything is handed over."""

    def withdraw(self, submission_id: str) -> None:
        """The server never got it."""

    def record(self, submission_id: str, *, batch_id: str, input_file_id: str, status: str) -> None:
        """What the server says of it."""

    def settle(self, submission_id: str, failures: Mapping[str, str]) -> None:
        """Name -> why this batch has no answer to it. What is answered needs no word: its completion is stored."""

    def cancel_asked(self, submission_id: str) -> bool:
        """As of now."""


class Account:
    """The batches of one command. ``price`` None: unknown, and no cost is stated."""

    def __init__(self, budget: Budget, price: Price | None) -> None:
        self._budget = budget
        self._price = price
        self._entered: dict[str, float] = {}  # name -> what it may cost

    def enter(self, requests: Mapping[str, ReasoningRequest]) -> str:
        """Enter requests, by name, that are to be sent; the estimate in words. BackendError where it is too much.

        To send one again needs no second entry: a server charges for answers only.
        """
        tokens = {name: estimated_input_tokens(request) for name, request in requests.items()}
        costs = {
            name: self._cost(tokens[name], 0, request.sampling.max_tokens) or 0.0
            for name, request in requests.items()
        }
        total = sum(costs.values())
        stated = "no price known" if self._price is None else f"at most about ${total:.4f} at a batch's price"
        estimate = f"{len(requests)} requests, about {sum(tokens.values()):,} input tokens, {stated}"
        shortage = self._budget.shortage(total, n_requests=len(requests))
        if shortage:
            raise BackendError(f"Nothing was sent. The batch would have {estimate}: {shortage}.")
        self._budget.reserve(total, n_requests=len(requests))
        self._entered.update(costs)
        return estimate

    def answered(self, name: str, completion: Completion, *, seconds: float) -> Completion:
        """The completion with its cost. What an earlier command has sent is not this one's expense."""
        cost = self._cost(completion.input_tokens, completion.cached_tokens, completion.output_tokens)
        if name in self._entered:
            self._budget.settle(self._entered.pop(name), cost or 0.0)
        return dataclasses.replace(completion, seconds=seconds, cost_usd=cost)

    def failed(self, name: str) -> None:
        """It is not sent again, and costs nothing."""
        self._budget.settle(self._entered.pop(name, 0.0), 0.0)

    def _cost(self, n_input: int, n_cached: int, n_output: int) -> float | None:
        if self._price is None:
            return None
        return cost_usd(
            self._price, input_tokens=n_input, cached_tokens=n_cached, output_tokens=n_output, batch=True
        )


MAX_ROUNDS = 4  # times a request is sent before it is a gap
FIRST_PAUSE, LONGEST_PAUSE = 5.0, 60.0  # seconds between two looks at the server; each half as long again
PATIENCE = 3600.0  # seconds without any answer of the server before the command ends; the batch does not
QUEUE_FULL = "token_limit_exceeded"  # more tokens wait at the server than the account may have there

Requests = Mapping[str, ReasoningRequest]  # by their names in the ledger


@dataclass(frozen=True, slots=True)
class _Flight:
    """A batch at the server, and the requests we expect of it."""

    submission: Submission
    batch_id: str
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Portion:
    """Requests for one batch that is not there yet."""

    names: tuple[str, ...]
    round: int


class BatchBackend:
    """``arguments`` makes the body of a request, ``redact`` an error text safe to show."""

    family = "openai"

    def __init__(
        self,
        server: BatchServer,
        ledger: Ledger,
        *,
        model: str,
        arguments: Callable[[ReasoningRequest], Mapping[str, Any]],
        redact: Callable[[str], str],
        account: Account,
        progress: Progress,
    ) -> None:
        self._server = server
        self._ledger = ledger
        self._model = model
        self._arguments = arguments
        self._redact = redact
        self._account = account
        self._progress = progress
        self._n_ready = 0
        self._is_handing_over = False

    @property
    def model(self) -> str:
        return self._model

    @property
    def n_ready(self) -> int:
        """Outcomes at hand: the rest of the batch that is being read."""
        return self._n_ready

    def rest(self) -> None:
        """The server is somebody else's."""

    def close(self) -> None:
        self._server.close()

    def complete(self, requests: Sequence[ReasoningRequest]) -> Iterator[tuple[int, Completion | Gap]]:
        """Yields nothing for hours, then a whole batch. BackendError where a batch can neither be made nor asked for.

        An interrupt and a BackendError say which batches go on at the server. A BackendError for requests with choices.
        """
        if any(request.sampling.choices for request in requests):
            raise BackendError(
                "A batch has no probabilities of choices: they may take a second question. Leave out --batch "
                "(execution.batch) for this step."
            )
        indexes: dict[str, list[int]] = {}
        for index, request in enumerate(requests):
            indexes.setdefault(self._ledger.name(request), []).append(index)
        asked = {name: requests[found[0]] for name, found in indexes.items()}
        flights: list[_Flight] = []
        try:
            for name, outcome in self._outcomes(asked, flights):
                for index in indexes[name]:
                    yield index, outcome
        except KeyboardInterrupt as error:
            error.add_note(self._left_behind(flights))
            raise
        except UnreachableError as error:
            raise BackendError(
                f"Cannot reach the server of the batches: {error}. {self._left_behind(flights)}".strip()
            ) from error
        except BackendError as error:
            raise BackendError(f"{error} {self._left_behind(flights)}".strip()) from error

    def _outcomes(self, asked: Requests, flights: list[_Flight]) -> Iterator[tuple[str, Completion | Gap]]:
        """``flights`` always holds what is at the server and not collected."""
        self._find(asked, flights)
        taken = {name for flight in flights for name in flight.names}
        fresh = [name for name in asked if name not in taken]
        if fresh:
            estimate = self._account.enter({name: asked[name] for name in fresh})
            self._progress.start(f"batch: {estimate}", len(asked))
        waiting = deque(self._portions(fresh, asked, round_n=1))
        one_by_one = False
        while waiting or flights:
            while waiting and not (one_by_one and flights):
                flights.append(self._hand_over(waiting.popleft(), asked))
            flight, batch = self._next_ended(flights, n_asked=len(asked))
            one_by_one = one_by_one or _is_queue_full(batch)
            again = yield from self._collect(flight, batch)
            flights.remove(flight)
            most = max(1, len(again) // 2) if _is_queue_full(batch) else MAX_REQUESTS
            waiting.extend(self._portions(again, asked, round_n=flight.submission.round + 1, most=most))

    # --- to the server -----------------------------------------------------------------------------------

    def _find(self, asked: Requests, flights: list[_Flight]) -> None:
        """What an earlier command, or another one, has handed over already."""
        taken: set[str] = set()
        for submission in self._unsettled(asked):
            names = tuple(name for name in asked if name in submission.names and name not in taken)
            batch_id = submission.batch_id
            if batch_id is None:  # a command died between the two: does the server have it?
                batch = self._server.find(submission.submission_id, since=_unix_time(submission.created_utc))
                if batch is None:
                    self._ledger.withdraw(submission.submission_id)
                    continue
                self._record(submission, batch)
                batch_id = batch.id
            taken.update(names)
            if names:
                flights.append(_Flight(submission, batch_id, names))

    def _unsettled(self, asked: Requests) -> Sequence[Submission]:
        """Waits while another process is handing over some of these requests."""
        while True:
            found = self._ledger.unsettled(asked.keys(), server=self._server.identity)
            busy = [submission.submission_id for submission in found if submission.in_other_hands]
            if not busy:
                return found
            self._progress.start(
                f"waiting: another process is handing over a batch with some of these requests ({busy[0]})"
            )
            time.sleep(FIRST_PAUSE)

    def _portions(
        self, names: Iterable[str], asked: Requests, *, round_n: int, most: int = MAX_REQUESTS
    ) -> Iterator[_Portion]:
        sizes = ((name, len(self._line(name, asked))) for name in names)
        for portion in portions(sizes, max_requests=min(most, MAX_REQUESTS), max_bytes=MAX_BYTES):
            yield _Portion(tuple(portion), round_n)

    def _line(self, name: str, asked: Requests) -> bytes:
        return request_line(name, self._arguments(asked[name]))

    def _hand_over(self, portion: _Portion, asked: Requests) -> _Flight:
        submission = self._ledger.announce(portion.names, server=self._server.identity, round_n=portion.round)
        self._is_handing_over = True
        lines = (self._line(name, asked) for name in portion.names)
        batch = self._server.hand_over(submission.submission_id, lines)
        self._record(submission, batch)
        self._is_handing_over = False
        return _Flight(submission, batch.id, portion.names)

    # --- from the server ---------------------------------------------------------------------------------

    def _next_ended(self, flights: Sequence[_Flight], *, n_asked: int) -> tuple[_Flight, ServerBatch]:
        """Look again and again, less and less often, until one has ended."""
        pause, seen = FIRST_PAUSE, dict.fromkeys((flight.batch_id for flight in flights), "")
        answered = time.monotonic()
        while True:
            for flight in flights:
                try:
                    batch = self._server.look(flight.batch_id)
                except UnreachableError as error:
                    self._progress.advance(0, note=f"no answer of the server: {error}; trying again")
                    if time.monotonic() - answered > PATIENCE:
                        raise
                    continue
                answered = time.monotonic()
                if batch.status != seen[flight.batch_id]:
                    seen[flight.batch_id] = batch.status
                    self._record(flight.submission, batch)
                    self._progress.start(f"{batch.id}: {batch.status}", n_asked)
                if batch.status in ENDED:
                    return flight, batch
                self._progress.advance(0, note=_note(batch, pause))
            time.sleep(pause)
            pause = min(1.5 * pause, LONGEST_PAUSE)

    def _collect(
        self, flight: _Flight, batch: ServerBatch
    ) -> Generator[tuple[str, Completion | Gap], None, list[str]]:
        """Yields what came of its requests; returns those to be sent again.

        Answers need no mark in the ledger: until their completions are stored, the next command fetches them anew.
        """
        rows = read_rows(self._server.fetch(batch), read_body=read_body, redact=self._redact)
        last = flight.submission.round >= MAX_ROUNDS or self._is_cancelled_meanwhile(flight, batch)
        missing = Failure(self._redact(_why_missing(batch)))
        failures: dict[str, str] = {}
        again: list[str] = []
        ready: list[tuple[str, Completion | Gap]] = []
        for name in flight.names:
            row = rows.get(name, missing)
            if isinstance(row, Completion):
                ready.append((name, self._account.answered(name, row, seconds=batch.seconds)))
                continue
            failures[name] = row.reason
            if isinstance(row, Failure) and row.again and not last:
                again.append(name)
            else:
                self._account.failed(name)
                ready.append((name, Gap(row.reason)))
        self._ledger.settle(flight.submission.submission_id, failures)
        for n_given, outcome in enumerate(ready, start=1):
            self._n_ready = len(ready) - n_given
            yield outcome
        return again

    def _is_cancelled_meanwhile(self, flight: _Flight, batch: ServerBatch) -> bool:
        """By the user, while we waited: then nothing is sent again before the user says so."""
        known = flight.submission.cancel_asked
        return (
            batch.status == "cancelled"
            and not known
            and self._ledger.cancel_asked(flight.submission.submission_id)
        )

    def _left_behind(self, flights: Sequence[_Flight]) -> str:
        """What the server goes on with, and how to get at it; "" for nothing."""
        sentences = []
        if self._is_handing_over:
            sentences.append(
                "A batch was just being handed over: the next command looks whether it got there."
            )
        if flights:
            ids = ", ".join(flight.batch_id for flight in flights)
            cancels = ", ".join(f"'cdner batches cancel {flight.batch_id} --yes'" for flight in flights)
            sentences.append(
                f"Not fetched yet, and going on at the server: {ids}. Run the same command again, whenever you "
                f"like, to fetch the answers: nothing is sent twice. To give up: {cancels}."
            )
        return " ".join(sentences)

    def _record(self, submission: Submission, batch: ServerBatch) -> None:
        self._ledger.record(
            submission.submission_id,
            batch_id=batch.id,
            input_file_id=batch.input_file_id,
            status=batch.status,
        )


def _why_missing(batch: ServerBatch) -> str:
    if batch.status == "completed":
        return f"no row for it in the output of {batch.id}"
    why = batch.problems[0].message or batch.problems[0].code if batch.problems else ""
    return f"{batch.id} {batch.status}{f': {why}' if why else ''}"


def _note(batch: ServerBatch, pause: float) -> str:
    counts = batch.request_counts
    done = f"{counts.completed + counts.failed} of {counts.total} done, " if counts else ""
    return f"{done}next look in {pause:.0f} s"


def _is_queue_full(batch: ServerBatch) -> bool:
    return batch.status == "failed" and any(problem.code == QUEUE_FULL for problem in batch.problems)


def _unix_time(utc: datetime) -> float:
    return utc.replace(tzinfo=UTC).timestamp()
