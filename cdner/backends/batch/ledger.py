"""What the batch backend needs to be told and to have remembered beyond its own process. Implemented by the store."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Protocol

from cdner.types import ReasoningRequest


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
