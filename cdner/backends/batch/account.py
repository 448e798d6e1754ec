"""What a batch may cost and what it has cost: half the price, entered in the budget before anything is sent."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from cdner.backends.chat import Budget
from cdner.backends.chat.budget import estimated_input_tokens
from cdner.backends.prices import Price, cost_usd
from cdner.errors import BackendError
from cdner.types import Completion, ReasoningRequest


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
