"""Answers from stored completions only: repeats a run offline, and proves that nothing else was needed for
it.

Knows the store only as a function from a request to its completion.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cdner.backends import Lookup
from cdner.config import Execution, Llm
from cdner.errors import BackendError
from cdner.store.reasoning import request_id
from cdner.types import Completion, Gap, ReasoningRequest


class ReplayBackend:
    """``family`` and ``model`` are those of the backend that wrote the completions."""

    def __init__(self, lookup: Lookup, *, family: str, model: str) -> None:
        self._lookup = lookup
        self._family = family
        self._model = model

    @property
    def family(self) -> str:
        return self._family

    @property
    def model(self) -> str:
        return self._model

    def complete(self, requests: Sequence[ReasoningRequest]) -> Iterator[tuple[int, Completion | Gap]]:
        """In order. A request without stored completion is a gap that names its id and position (from 1)."""
        for index, request in enumerate(requests):
            found = self._lookup(request)
            if found is not None:
                yield index, found
                continue
            missing = request_id(self._family, self._model, request)
            yield (
                index,
                Gap(
                    f"no stored completion of request {missing} ({index + 1} of {len(requests)}) "
                    f"by {self._family} {self._model}"
                ),
            )


def open_backend(
    llm: Llm,
    execution: Execution,  # noqa: ARG001  every factory has the same signature
    *,
    lookup: Lookup | None = None,
    family: str = "replay",
) -> ReplayBackend:
    """``llm.model`` is the model as stored. BackendError without ``lookup``: there is nothing to replay."""
    if lookup is None:
        raise BackendError("The backend 'replay' reads stored completions, but no store was given to it.")
    return ReplayBackend(lookup, family=family, model=llm.model)
