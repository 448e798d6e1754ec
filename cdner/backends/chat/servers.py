"""Which server is asked next: the one with the fewest requests on their way among those that can take one.

A server that cannot be reached is set aside for a while, longer each time, and its requests go to the others.
Knows no requests and sends none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cdner.backends.chat.exchange import Connection, Server
from cdner.backends.chat.pacing import Pace, backoff


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
