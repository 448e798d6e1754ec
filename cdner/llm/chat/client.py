"""The chat client: one model on one or more servers, behind the two methods every backend needs.

How requests are scheduled is in ``call``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cdner.config import Capabilities
from cdner.llm.chat.budget import Budget
from cdner.llm.chat.call import Call, OnUnreachable, ServerPool, Terms
from cdner.llm.chat.capabilities import Dialect, capabilities_of
from cdner.llm.chat.choice_dialogue import ServerManner
from cdner.llm.chat.exchange import Connection, Server, is_official
from cdner.llm.chat.pacing import Clock
from cdner.llm.choice_trie import refuse_unusable_choices
from cdner.llm.prices import Price
from cdner.types import Completion, Gap, ReasoningRequest

N_RETRIES = 6  # of one request, and of connecting: about a minute


class ChatClient:
    """Asks one model on one or more servers. One ``complete`` at a time.

    ``timeout``: seconds for one attempt. ``price``: fills ``cost_usd`` and counts for the budget. ``prefix_first``:
    each server's first request of a call is answered before its others are sent, so that they find their common
    beginning computed. ``on_unreachable`` is called, in the reader's thread, when a server takes no connection: it
    gives the server to go on with (started again, perhaps elsewhere), or None to set it aside.
    """

    def __init__(
        self,
        servers: Sequence[Server],
        *,
        model: str,
        concurrency: int,
        timeout: float,
        budget: Budget | None = None,
        price: Price | None = None,
        on_unreachable: OnUnreachable | None = None,
        capabilities: Capabilities | None = None,
        prefix_first: bool = True,
        n_retries: int = N_RETRIES,
        clock: Clock = Clock(),  # noqa: B008  immutable
    ) -> None:
        budget = budget or Budget()
        manner = ServerManner(continues=not any(is_official(server.base_url) for server in servers))
        self._terms = Terms(
            model, concurrency, timeout, budget, price, on_unreachable, prefix_first, n_retries, clock, manner
        )
        self._call: Call | None = None

        dialects: dict[str, Dialect] = {}

        def connect(server: Server) -> Connection:
            dialect = dialects.setdefault(
                server.base_url, Dialect(capabilities_of(model, server.base_url, capabilities))
            )
            return Connection(server, timeout=clock.real(timeout), most=concurrency, dialect=dialect)

        self._pool = ServerPool(servers, connect=connect, most=concurrency, n_retries=n_retries)

    def complete(self, requests: Sequence[ReasoningRequest]) -> Iterator[tuple[int, Completion | Gap]]:
        """Yields (index into requests, outcome) as answers arrive.

        A request that fails for good, or that the budget has no room for, is a gap. BackendError for what would
        fail every request alike (key, quota, model, no server to reach); what is on its way is yielded before it.
        A request with choices may be sent several times, as ``ChoiceDialogue`` says; each is one for the budget.
        """
        for request in requests:
            if request.sampling.choices:
                refuse_unusable_choices(request)
        self._pool.begin(prefix_first=self._terms.prefix_first)
        self._call = Call(self._terms, self._pool, requests)
        return self._call.outcomes()

    @property
    def n_ready(self) -> int:
        """Outcomes of the running call at hand; nothing is sent before they are handed over."""
        return self._call.n_ready if self._call is not None else 0

    def close(self) -> None:
        """Close all connections; may be called twice."""
        self._pool.close()
