"""Time as the chat client sees it, so that a test can wait a minute in a second.

How fast one server may be asked: what its headers and refusals say, as a limit on requests at a time.

Headers (OpenAI's names; Azure, Groq and others send the same): ``x-ratelimit-remaining-requests``, ``-tokens``,
``x-ratelimit-limit-*`` and ``x-ratelimit-reset-*``, the last one as "12ms", "6m0s" or plain seconds: the time until
the whole limit is free again. ``retry-after-ms`` and ``retry-after`` (seconds or an HTTP date) come with a refusal.
Knows no HTTP library.
"""

from __future__ import annotations

import email.utils
import math
import random
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Clock:
    """Runs ``speed`` times as fast as the world; what the chat client measures and waits for is in its seconds."""

    speed: float = 1.0

    def now(self) -> float:
        """Seconds since some fixed moment."""
        return time.monotonic() * self.speed

    def real(self, seconds: float) -> float:
        """What these seconds are for the operating system."""
        return seconds / self.speed


FIRST_BACKOFF = 1.0  # seconds; doubled with every attempt
LONGEST_BACKOFF = 30.0
LONGEST_REFILL = 60.0  # seconds; what headers foretell beyond that is tried earlier
_UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_DURATION = re.compile(r"(\d{1,12}(?:\.\d{1,12})?)(ms|us|µs|ns|[dhms])")


@dataclass(frozen=True, slots=True)
class Allowance:
    """One of a server's limits as an answer's headers state it."""

    remaining: int
    limit: int | None
    reset: float  # seconds until ``limit`` remain

    def seconds_for(self, amount: int) -> float:
        """Until so much more is free, if it comes back evenly: never longer than the whole reset."""
        if amount <= 0:
            return 0.0
        if self.limit is None or self.limit <= self.remaining:
            return self.reset
        return self.reset * min(1.0, amount / (self.limit - self.remaining))


class Pace:
    """A server's limit between 1 and ``most`` requests at a time: additive increase, multiplicative decrease.

    ``sequence`` numbers the requests sent to it: the n-th one's answer tells how many may follow the n-th.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._limit = float(most)
        self._decreased_at = -math.inf
        self._not_before = -math.inf
        self._n_sent = 0
        self._told_by = 0  # sequence of the answer whose headers hold
        self._last_allowed: float = math.inf  # sequence up to which they let us send
        self._refilled_at = -math.inf
        self._refill_seconds = 0.0

    @property
    def limit(self) -> int:
        """Requests at a time."""
        return int(self._limit)

    def ready_at(self, now: float) -> float:
        """When the next request may be sent, as far as the server's own words go."""
        exhausted = self._n_sent >= self._last_allowed
        return max(now, self._not_before, self._refilled_at if exhausted else now)

    def sent(self, now: float) -> int:
        """Count a request; its sequence."""
        if self._n_sent >= self._last_allowed:
            self._refilled_at = now + self._refill_seconds
        self._n_sent += 1
        return self._n_sent

    def answered(self, sequence: int, headers: Mapping[str, str], *, tokens: int, now: float) -> None:
        """Take in the headers of any answer. ``tokens``: what a request takes of the token limit."""
        requests, by_tokens = allowance(headers, "requests"), allowance(headers, "tokens")
        if sequence < self._told_by or (requests is None and by_tokens is None):
            return
        fitting, wait, refill = math.inf, 0.0, 0.0
        for kind, needed in ((requests, 1), (by_tokens, max(1, tokens))):
            if kind is not None:
                fitting = min(fitting, kind.remaining // needed)
                wait = max(wait, kind.seconds_for(needed - kind.remaining))
                refill = max(refill, kind.seconds_for(needed))
        self._told_by = sequence
        self._last_allowed = sequence + fitting
        self._refill_seconds = min(refill, LONGEST_REFILL)
        self._refilled_at = now + (self._refill_seconds if fitting else min(wait, LONGEST_REFILL))

    def succeeded(self) -> None:
        """One more at a time after a whole round of successes."""
        self._limit = min(float(self._most), self._limit + 1.0 / self._limit)

    def congested(self, *, sent_at: float, now: float) -> None:
        """Half as many at a time; once for all that were on their way together."""
        if sent_at >= self._decreased_at:
            self._limit = max(1.0, self._limit / 2)
            self._decreased_at = now

    def pause(self, until: float) -> None:
        """Nothing is sent before."""
        self._not_before = max(self._not_before, until)


def allowance(headers: Mapping[str, str], kind: str) -> Allowance | None:
    """``kind``: "requests" or "tokens". None where a server does not say, or says -1 as Azure may."""
    remaining = _count(headers.get(f"x-ratelimit-remaining-{kind}"))
    reset = duration(headers.get(f"x-ratelimit-reset-{kind}"))
    if remaining is None or reset is None:
        return None
    return Allowance(remaining, _count(headers.get(f"x-ratelimit-limit-{kind}")), reset)


def duration(text: str | None) -> float | None:
    """Seconds in "6m0s", "12ms", "1.5" ...; None for anything else."""
    if text is None:
        return None
    text = text.strip()
    if re.fullmatch(r"\d{1,12}(\.\d{1,12})?", text):
        return float(text)
    parts = _DURATION.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        return None
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds a refusal asks to wait, never negative; None if it does not say."""
    milliseconds = _seconds(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    text = headers.get("retry-after")
    seconds = _seconds(text)
    if seconds is not None or text is None:
        return seconds
    try:
        moment = email.utils.parsedate_to_datetime(text).timestamp()
    except (ValueError, OverflowError):
        return None
    return max(0.0, moment - time.time())


def backoff(n_failures: int) -> float:
    """Seconds before the next attempt after so many failures (1, 2 ...): doubled each time, half of it random."""
    longest = min(LONGEST_BACKOFF, FIRST_BACKOFF * 2.0 ** min(n_failures - 1, 30))
    return longest * random.uniform(0.5, 1.0)


def _count(text: str | None) -> int | None:
    return int(text) if text is not None and re.fullmatch(r"\s*\d{1,15}\s*", text) else None


def _seconds(text: str | None) -> float | None:
    return float(text) if text is not None and re.fullmatch(r"\s*\d{1,12}(\.\d{1,12})?\s*", text) else None
