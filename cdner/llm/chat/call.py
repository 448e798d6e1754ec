"""One call of the chat client: what is sent when and to which server, what is tried again, when it all ends.

The scheduler runs in the thread that reads the answers, so nothing is shared with another thread but the queue of
arrivals. At most ``concurrency`` answers are on their way or not yet handed over: what a kill can lose.
"""

from __future__ import annotations

import dataclasses
import heapq
import itertools
import math
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from cdner.errors import BackendError
from cdner.llm.chat.budget import Budget, estimated_input_tokens
from cdner.llm.chat.choice_dialogue import ChoiceDialogue, ServerManner
from cdner.llm.chat.exchange import (
    OVERDUE,
    TIMEOUT,
    Connection,
    Exchange,
    Passing,
    Reworded,
    Server,
    Unreachable,
)
from cdner.llm.chat.notices import Notices
from cdner.llm.chat.pacing import Clock, Pace, backoff
from cdner.llm.prices import Price, cost_usd
from cdner.types import Completion, Gap, ReasoningRequest

HOPELESS_AFTER = 20  # gaps without one success: the remaining requests would not fare better
LONGEST_WAIT = 300.0  # seconds; a server that asks for more is not waited for

OnUnreachable = Callable[[Server], Server | None]


@dataclass(frozen=True, slots=True)
class Terms:
    """What holds for every request of a client (see ``ChatClient``)."""

    model: str
    concurrency: int
    timeout: float
    budget: Budget
    price: Price | None
    on_unreachable: OnUnreachable | None
    prefix_first: bool
    n_retries: int
    clock: Clock
    manner: ServerManner
    notices: Notices = field(default_factory=Notices)


@dataclass(slots=True, order=True)
class _Job:
    index: int
    asked: ReasoningRequest | ChoiceDialogue = field(compare=False)
    n_failures: int = field(default=0, compare=False)

    @property
    def request(self) -> ReasoningRequest:
        """What is to be sent, or was sent last."""
        return self.asked.request if isinstance(self.asked, ChoiceDialogue) else self.asked


@dataclass(frozen=True, slots=True)
class _Sent:
    job: _Job
    lane: Lane
    era: int
    sequence: int
    at: float
    reserved: float  # US dollars


class Call:
    """What waits, what is on its way, and what ends it."""

    def __init__(self, terms: Terms, pool: ServerPool, requests: Sequence[ReasoningRequest]) -> None:
        self._terms = terms
        self._pool = pool
        self._waiting = deque(
            _Job(index, ChoiceDialogue(request, terms.manner) if request.sampling.choices else request)
            for index, request in enumerate(requests)
        )
        self._delayed: list[tuple[float, _Job]] = []  # heap of (not before, job)
        self._on_its_way: dict[int, _Sent] = {}
        self._numbers = itertools.count()
        self._arrivals: queue.SimpleQueue[tuple[int, Exchange | BaseException]] = queue.SimpleQueue()
        self._ready: deque[tuple[int, Completion | Gap]] = deque()
        self._stopped: BackendError | None = None
        self._n_completed = self._n_gaps = 0

    @property
    def n_ready(self) -> int:
        """Outcomes at hand; nothing is sent before they are handed over."""
        return len(self._ready)

    def outcomes(self) -> Iterator[tuple[int, Completion | Gap]]:
        while self._ready or self._waiting or self._delayed or self._on_its_way:
            if self._ready:
                yield self._ready.popleft()
                continue
            shortage, wake = self._dispatch()
            if shortage:
                self._give_up(shortage)
            else:
                self._receive(wake)
        if self._stopped is not None:
            raise self._stopped

    def _dispatch(self) -> tuple[str, float]:
        """Send what may be sent. Why nothing more ever may ("" if not so), and when to look again."""
        while len(self._on_its_way) < self._terms.concurrency:
            now = self._terms.clock.now()
            job = self._due(now)
            if job is None:
                return "", self._delayed[0][0] if self._delayed else math.inf
            lane = self._pool.choose(now)
            if lane is None:
                wake = self._pool.ready_at(now)
                if wake - now > LONGEST_WAIT and not self._on_its_way:
                    self._stop(
                        BackendError(f"The server asks to wait for {wake - now:.0f} seconds. Try later.")
                    )
                    return "", now
                return "", wake
            cost = self._most_it_may_cost(job.request)
            if not self._terms.budget.reserve(cost):
                # What is on its way may turn out cheaper than was reserved for it.
                return "" if self._on_its_way else self._terms.budget.shortage(cost), math.inf
            self._take(job)
            self._send(job, lane, reserved=cost, now=now)
        return "", math.inf

    def _due(self, now: float) -> _Job | None:
        """The job whose turn it is; it stays where it is."""
        if self._delayed and self._delayed[0][0] <= now:
            return self._delayed[0][1]
        return self._waiting[0] if self._waiting else None

    def _take(self, job: _Job) -> None:
        if self._waiting and self._waiting[0] is job:
            self._waiting.popleft()
        else:
            heapq.heappop(self._delayed)

    def _send(self, job: _Job, lane: Lane, *, reserved: float, now: float) -> None:
        number = next(self._numbers)
        lane.n_outstanding += 1
        lane.n_sent += 1
        self._on_its_way[number] = _Sent(job, lane, lane.era, lane.pace.sent(now), now, reserved)
        connection, arrivals, model = lane.connection, self._arrivals, self._terms.model
        request = job.request

        def carry() -> None:
            try:
                arrivals.put((number, connection.send(request, model=model)))
            except BaseException as error:  # noqa: BLE001  a defect of ours: raised where the answers are read
                arrivals.put((number, error))

        # A daemon: whoever stops reading need not wait for answers nobody wants.
        threading.Thread(target=carry, name="chat", daemon=True).start()

    def _receive(self, wake: float) -> None:
        """Wait for an answer, and take in all that have arrived; or until it is time to look again."""
        clock, patience = self._terms.clock, OVERDUE * self._terms.timeout
        until = min([wake, *(sent.at + patience for sent in self._on_its_way.values())])
        try:
            self._take_in(*self._arrivals.get(timeout=max(0.0, clock.real(until - clock.now()))))
            while True:
                self._take_in(*self._arrivals.get_nowait())
        except queue.Empty:
            self._take_in(self._overdue(clock.now() - patience), Exchange(TIMEOUT, billed=True))

    def _take_in(self, number: int, exchange: Exchange | BaseException) -> None:
        if isinstance(exchange, BaseException):
            raise exchange
        sent = self._on_its_way.pop(number, None)
        if sent is not None:  # else nobody waits for that answer any more
            sent.lane.n_outstanding -= 1
            self._settle(sent, exchange)

    def _overdue(self, before: float) -> int:
        """Number of a request sent before that moment; -1 if there is none."""
        return next((number for number, sent in self._on_its_way.items() if sent.at <= before), -1)

    def _settle(self, sent: _Sent, exchange: Exchange) -> None:
        """What came of a request: an outcome, another attempt, or the end of all."""
        outcome, lane, terms = exchange.outcome, sent.lane, self._terms
        now = terms.clock.now()
        if isinstance(outcome, Unreachable):
            terms.budget.withdraw(sent.reserved)
            self._unreachable(sent, outcome.reason, now)
            return
        if isinstance(outcome, Completion):
            terms.notices.take_in(sent.job.request, outcome, n_repaired=exchange.n_repaired)
            outcome = self._priced(outcome, now - sent.at)
            terms.budget.settle(sent.reserved, outcome.cost_usd or 0.0)
        else:
            terms.budget.settle(sent.reserved, sent.reserved if exchange.billed else 0.0)
        if sent.era == lane.era:
            lane.n_failures = 0
            tokens = estimated_input_tokens(sent.job.request) + sent.job.request.sampling.max_tokens
            lane.pace.answered(sent.sequence, exchange.headers, tokens=tokens, now=now)
        if isinstance(outcome, Reworded):
            lane.warm = True
            if self._stopped is None:
                self._waiting.appendleft(sent.job)
        elif isinstance(outcome, BackendError):
            self._stop(outcome)
        elif isinstance(outcome, Passing):
            self._try_again(sent, outcome, now)
        else:
            lane.warm = True
            self._hear(sent.job, outcome, exchange.body, lane)

    def _hear(self, job: _Job, outcome: Completion | Gap, body: str, lane: Lane) -> None:
        """An answer is the end of a request, or part of a dialogue: what follows is sent before anything else."""
        if not isinstance(job.asked, ChoiceDialogue):
            self._finish(job, outcome, lane)
            return
        end = job.asked.hear(outcome, body)
        if end is not None:
            self._finish(job, end, lane)
        elif self._stopped is None:
            self._waiting.appendleft(_Job(job.index, job.asked))

    def _finish(self, job: _Job, outcome: Completion | Gap, lane: Lane) -> None:
        self._ready.append((job.index, outcome))
        if isinstance(outcome, Completion):
            lane.pace.succeeded()
            self._n_completed += 1
            return
        self._n_gaps += 1
        if not self._n_completed and self._n_gaps >= HOPELESS_AFTER:
            self._stop(BackendError(f"No request succeeded; the last one: {outcome.reason}."))

    def _try_again(self, sent: _Sent, failure: Passing, now: float) -> None:
        job, lane = sent.job, sent.lane
        job.n_failures += 1
        delay = backoff(job.n_failures)
        if failure.congested:
            lane.pace.congested(sent_at=sent.at, now=now)
        if failure.wait:  # 0 says nothing
            lane.pace.pause(now + failure.wait)
            delay = 0.0  # another server may take it at once
        if self._stopped is not None:
            return
        if job.n_failures > self._terms.n_retries:
            self._hear(job, Gap(failure.reason), "", lane)
        else:
            heapq.heappush(self._delayed, (now + delay, job))

    def _unreachable(self, sent: _Sent, reason: str, now: float) -> None:
        if self._stopped is not None:
            return
        self._waiting.appendleft(sent.job)
        if sent.era != sent.lane.era:
            return  # sent before the server was last found unreachable, or replaced
        server = sent.lane.connection.server
        replacement = self._terms.on_unreachable(server) if self._terms.on_unreachable else None
        if replacement is not None:
            self._pool.replace(sent.lane, replacement)
        elif self._pool.set_aside(sent.lane, now):
            self._stop(BackendError(f"Cannot reach the server at {self._pool.addresses()}: {reason}."))

    def _priced(self, completion: Completion, seconds: float) -> Completion:
        cost = self._cost(completion.input_tokens, completion.cached_tokens, completion.output_tokens)
        return dataclasses.replace(completion, seconds=seconds, cost_usd=cost)

    def _most_it_may_cost(self, request: ReasoningRequest) -> float:
        return self._cost(estimated_input_tokens(request), 0, request.sampling.max_tokens) or 0.0

    def _cost(self, n_input: int, n_cached: int, n_output: int) -> float | None:
        if self._terms.price is None:
            return None
        return cost_usd(
            self._terms.price, input_tokens=n_input, cached_tokens=n_cached, output_tokens=n_output
        )

    def _give_up(self, reason: str) -> None:
        """Gaps for all that has not been sent."""
        jobs = [*self._waiting, *(job for _, job in self._delayed)]
        self._clear()
        self._ready.extend((job.index, Gap(reason)) for job in jobs)

    def _stop(self, error: BackendError) -> None:
        """Send nothing more; the first error counts."""
        self._stopped = self._stopped or error
        self._clear()

    def _clear(self) -> None:
        self._waiting.clear()
        self._delayed.clear()


@dataclass(slots=True)
class Lane:
    """What is known of one server while the client lives."""

    connection: Connection
    pace: Pace
    n_outstanding: int = 0
    n_sent: int = 0
    warm: bool = True  # False: only one request, until it is answered
    n_failures: int = 0  # to connect, in a row
    aside_until: float = -math.inf
    era: int = 0  # raised with every failure to connect: what was sent before says nothing of the present

    def ready_at(self, now: float) -> float:
        """When it can take a request; infinity while it must first answer one."""
        if self.n_outstanding >= (self.pace.limit if self.warm else 1):
            return math.inf
        return max(self.aside_until, self.pace.ready_at(now))


class ServerPool:
    """``connect`` opens the connections; ``n_retries`` failures to connect in a row are forgiven."""

    def __init__(
        self, servers: Sequence[Server], *, connect: Callable[[Server], Connection], most: int, n_retries: int
    ) -> None:
        self._connect = connect
        self._n_retries = n_retries
        self._retired: list[Connection] = []
        self.lanes = [Lane(connect(server), Pace(most)) for server in servers]

    def begin(self, *, prefix_first: bool) -> None:
        """A new call: every server gets another chance, and its first request alone if so wished."""
        for lane in self.lanes:
            lane.warm = not prefix_first
            lane.n_outstanding = 0
            lane.n_failures = 0
            lane.aside_until = -math.inf

    def choose(self, now: float) -> Lane | None:
        """The server to ask now; None if none can take a request."""
        ready = [lane for lane in self.lanes if lane.ready_at(now) <= now]
        return min(ready, key=lambda lane: (lane.n_outstanding, lane.n_sent), default=None)

    def ready_at(self, now: float) -> float:
        """When some server can take a request; infinity while all must first answer."""
        return min(lane.ready_at(now) for lane in self.lanes)

    def set_aside(self, lane: Lane, now: float) -> bool:
        """The server could not be reached. Whether no server can be."""
        lane.era += 1
        lane.n_failures += 1
        lane.warm = False
        lane.aside_until = now + backoff(lane.n_failures)
        return all(lane.n_failures > self._n_retries for lane in self.lanes)

    def replace(self, lane: Lane, server: Server) -> None:
        """The server was started again, perhaps elsewhere; its first request is sent alone."""
        self._retired.append(lane.connection)  # closed at the end: threads may be about to send on it
        lane.connection = self._connect(server)
        lane.era += 1
        lane.n_failures = 0
        lane.warm = False
        lane.aside_until = -math.inf

    def addresses(self) -> str:
        """The servers' base URLs, safe to show."""
        return ", ".join(lane.connection.address for lane in self.lanes)

    def close(self) -> None:
        """Close all connections."""
        for connection in (*self._retired, *(lane.connection for lane in self.lanes)):
            connection.close()
