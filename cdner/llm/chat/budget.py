"""What one command may spend on LLMs: so many requests, so many US dollars, over all its steps.

A request is entered with what it may cost before it is sent, so that many at once do not overshoot together.
Every attempt that reaches a server is a request, a retry too: the limit is a promise about what leaves this
machine. Used by one thread only. Knows no prices: costs come in.
"""

from __future__ import annotations

from cdner.config import Execution
from cdner.types import ReasoningRequest

# English has four to five bytes a token, Chinese about three; fewer only in text no corpus is full of.
BYTES_PER_TOKEN = 3
TOKENS_PER_MESSAGE = 8  # role and markers


class Budget:
    """Counts from its creation on. A limit of 0 is none."""

    def __init__(self, *, max_cost: float = 0.0, max_requests: int = 0) -> None:
        self._max_cost = max_cost
        self._max_requests = max_requests
        self._n_requests = 0
        self._spent = 0.0
        self._reserved = 0.0

    @classmethod
    def of(cls, execution: Execution) -> Budget:
        """With the limits of a command's settings. Whoever opens several LLMs for one command hands all of them one."""
        return cls(max_cost=execution.max_cost, max_requests=execution.max_requests)

    @property
    def n_requests(self) -> int:
        """Requests sent so far, each attempt counted."""
        return self._n_requests

    @property
    def spent(self) -> float:
        """US dollars, as far as prices are known; attempts that may have been billed unseen are in it."""
        return self._spent

    def reserve(self, cost: float, *, n_requests: int = 1) -> bool:
        """Enter requests that may cost so many US dollars together; False, and nothing entered, if too much."""
        if self.shortage(cost, n_requests=n_requests):
            return False
        self._n_requests += n_requests
        self._reserved += cost
        return True

    def settle(self, reserved: float, spent: float) -> None:
        """What was entered with ``reserved`` has cost ``spent``."""
        self._reserved -= reserved
        self._spent += spent

    def withdraw(self, reserved: float, *, n_requests: int = 1) -> None:
        """What was entered was not sent after all."""
        self._reserved -= reserved
        self._n_requests -= n_requests

    def shortage(self, cost: float, *, n_requests: int = 1) -> str:
        """Why requests of this cost must not be sent now; "" if they may."""
        if self._max_requests and self._n_requests + n_requests > self._max_requests:
            return f"budget of {self._max_requests} requests (--max-requests) is used up"
        if self._max_cost and self._spent + self._reserved + cost > self._max_cost:
            return (
                f"budget of {self._max_cost:g} US dollars (--max-cost): {self._spent:.6f} spent, "
                f"the next request may cost {cost:.6f}"
            )
        return ""


def estimated_input_tokens(request: ReasoningRequest) -> int:
    """Rather too many than too few, without a tokenizer."""
    texts = [message.content for message in request.messages] + [request.schema or ""]
    n_bytes = sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)
    return n_bytes // BYTES_PER_TOKEN + TOKENS_PER_MESSAGE * len(request.messages)
