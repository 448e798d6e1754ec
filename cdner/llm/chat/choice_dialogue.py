"""How a server of chat completions is asked for the probabilities of given next texts, and what is read of it.

One token is asked for with its most probable alternatives; a choice has the figure of the longest of these tokens that
its text begins with. Choices that begin with the same token are told apart by asking again, with the message continued
by that token. So is a token that ends inside a choice's word (" the" of " theory"): only the tokenizer, which is not at
hand, could say whether it is the choice's own, so what follows it there is looked at once and remembered. A server that
does not continue messages is asked without the last message of the assistant; what it would take a second question to
know is then not known. A server that sends no log-probabilities is asked to choose, bound by a schema.
All that is read here was sent by a stranger. Sends nothing itself.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from cdner.choices import ChoiceScores, checked_scores, chosen_scores, scores_text
from cdner.errors import BackendError
from cdner.files import canonical_json
from cdner.llm.choice_trie import LEAST_LEFT
from cdner.types import Completion, Gap, Message, ReasoningRequest, Sampling

TOP = 20  # alternatives asked for: OpenAI's most and vLLM's default limit
NO_FIGURE = -9999.0  # OpenAI's mark for a token that is not among the most probable
MOST_IN_ALL = 1.01  # probabilities of different tokens sum to 1 at most, but for rounding
HALF_CHARACTER = "\N{REPLACEMENT CHARACTER}".encode()
CONFIRMED = 0.01  # least probability of a choice's next characters behind one of its own tokens
SHORTEST_GUESS = (
    2  # characters of a token inside a word that counts although the server cannot be asked what follows
)
ROOM_FOR_JSON = 32  # tokens beside those of the choice
_log = logging.getLogger("cdner")

Figures = Mapping[bytes, float]  # token -> its log-probability
Heard = tuple[Completion | Gap, str]  # outcome and the answer's whole body, "" if none came
Asking = Generator[ReasoningRequest, Heard, Figures]


@dataclass(slots=True)
class ServerManner:
    """What the answers so far have shown of the servers of one client."""

    continues: bool  # a last message of the assistant; False: such a message is left out
    has_log_probs: bool | None = None  # None: not known yet
    confirmed: dict[tuple[bytes, bytes], bool] = field(default_factory=dict)  # (rest of a choice, token)


@dataclass(frozen=True, slots=True)
class _Candidate:
    index: int
    rest: bytes  # of the choice, behind what is said already


class _WithoutFiguresError(BackendError):
    """The server sent no log-probabilities."""


class _FailedError(BackendError):
    """The dialogue ends with this gap."""

    def __init__(self, gap: Gap) -> None:
        super().__init__(gap.reason)
        self.gap = gap


class ChoiceDialogue:
    """One request with choices. ``request``: what is to be sent next. Begins when that is read first."""

    def __init__(self, request: ReasoningRequest, manner: ServerManner) -> None:
        self._question = request
        self._manner = manner
        self._figures: list[float | None] = [None] * len(request.sampling.choices)
        self._n_invalid = 0
        self._heard: list[Completion] = []
        self._steps = self._run()
        self._next: ReasoningRequest | None = None

    @property
    def request(self) -> ReasoningRequest:
        if self._next is None:
            self._next = next(self._steps)
        return self._next

    def hear(self, outcome: Completion | Gap, body: str) -> Completion | Gap | None:
        """Take in the outcome of ``request``; the end of it all, or None if there is another ``request``."""
        try:
            self._next = self._steps.send((outcome, body))
        except StopIteration as end:
            found: Completion | Gap = end.value
            return found
        return None

    # --- what is asked -----------------------------------------------------------------------------------

    def _run(self) -> Generator[ReasoningRequest, Heard, Completion | Gap]:
        choices = [choice.encode("utf-8", "surrogatepass") for choice in self._question.sampling.choices]
        try:
            if self._manner.has_log_probs is not False:
                try:
                    candidates = [_Candidate(index, choice) for index, choice in enumerate(choices)]
                    yield from self._level("", 0.0, candidates)
                    return self._completion(
                        ChoiceScores(tuple(self._figures), "top_logprobs", self._n_invalid)
                    )
                except _WithoutFiguresError:
                    if self._manner.has_log_probs:
                        return Gap("the answer has no log-probabilities, though others had")
                    _say_once_that_there_are_none(self._manner)
            return (yield from self._chosen())
        except _FailedError as error:
            return error.gap

    def _level(
        self, said: str, log_prob: float, group: Sequence[_Candidate]
    ) -> Generator[ReasoningRequest, Heard, None]:
        """Figures of choices that all go on behind ``said``, which has this probability."""
        figures = yield from self._ask(said)
        if not said and not any(_beginnings(figures, candidate.rest) for candidate in group):
            figures, group = _without_leading_blanks(figures, group)
        by_token: dict[bytes, list[_Candidate]] = {}
        for candidate in group:
            token = yield from self._own_token(said, figures, candidate)
            if token is not None:
                by_token.setdefault(token, []).append(candidate)
        for token, members in by_token.items():
            further = [_Candidate(member.index, member.rest[len(token) :]) for member in members]
            if len(members) == 1:
                self._figures[members[0].index] = log_prob + figures[token]
            elif (longer := self._continued(said, token)) is not None:
                yield from self._level(longer, log_prob + figures[token], further)
        for candidate in group:
            if said and not candidate.rest:  # the beginning of others: what they leave
                left = 1.0 - math.fsum(math.exp(figures[token]) for token in by_token)
                self._figures[candidate.index] = log_prob + math.log(max(left, LEAST_LEFT))

    def _own_token(
        self, said: str, figures: Figures, candidate: _Candidate
    ) -> Generator[ReasoningRequest, Heard, bytes | None]:
        """The longest token that is one of the choice's own; None where none of the most probable is."""
        for token in _beginnings(figures, candidate.rest):
            rest = candidate.rest[len(token) :]
            if not _may_be_anothers(token, rest):
                return token
            longer = self._continued(said, token)
            if longer is None:
                if len(token.strip()) >= SHORTEST_GUESS:
                    return token
                continue
            key = (candidate.rest, token)
            if key not in self._manner.confirmed:
                following = yield from self._ask(longer)
                self._manner.confirmed[key] = any(
                    math.exp(following[more]) >= CONFIRMED for more in _beginnings(following, rest)
                )
            if self._manner.confirmed[key]:
                return token
        return None

    def _ask(self, said: str) -> Asking:
        continued = self._manner.continues
        outcome, body = yield self._probe(said, continued=continued)
        if isinstance(outcome, Gap) and continued and not said and self._manner.has_log_probs is None:
            # Perhaps it refuses the continuation: one try without.
            outcome, body = yield self._probe(said, continued=False)
            if isinstance(outcome, Completion):
                self._manner.continues = False
        if isinstance(outcome, Gap):
            raise _FailedError(outcome)
        self._heard.append(outcome)
        entries = _entries(body)
        if entries is None:
            raise _WithoutFiguresError
        self._manner.has_log_probs = True
        figures, n_invalid = read_figures(entries)
        self._n_invalid += n_invalid
        return figures

    def _probe(self, said: str, *, continued: bool) -> ReasoningRequest:
        messages = self._question.messages
        spoken = messages[-1].content if messages[-1].role == "assistant" else ""
        before = messages[:-1] if messages[-1].role == "assistant" else messages
        if continued and spoken + said:
            before = (*before, Message("assistant", spoken + said))
        return ReasoningRequest(before, replace(self._question.sampling, max_tokens=1, temperature=0.0))

    def _continued(self, said: str, token: bytes) -> str | None:
        """None where the message cannot be continued by the token."""
        if not self._manner.continues:
            return None
        try:
            return said + token.decode("utf-8")
        except UnicodeDecodeError:
            return None

    def _chosen(self) -> Generator[ReasoningRequest, Heard, Completion | Gap]:
        """By schema: how often it chooses each. An answer that is none of them is counted; all of them are a gap."""
        messages, asked = self._question.messages, self._question.sampling
        before = messages[:-1] if messages[-1].role == "assistant" else messages
        names = [choice.strip() for choice in asked.choices]
        room = ROOM_FOR_JSON + max(len(name.encode("utf-8", "surrogatepass")) for name in names)
        n_chosen = dict.fromkeys(names, 0)
        for number in range(asked.n_choosings):
            sampling = Sampling(
                room, temperature=1.0 if asked.n_choosings > 1 else 0.0, seed=asked.seed + number
            )
            outcome, _ = yield ReasoningRequest(before, sampling, _schema(names))
            if isinstance(outcome, Gap):
                return outcome
            self._heard.append(outcome)
            chosen = _name_in(outcome.text)
            if chosen in n_chosen:
                n_chosen[chosen] += 1
            else:
                self._n_invalid += 1
        if not any(n_chosen.values()):
            return Gap(f"none of the choices was chosen: {' '.join(self._heard[-1].text.split())[:80]!r}")
        return self._completion(chosen_scores(list(n_chosen.values()), n_invalid=self._n_invalid))

    def _completion(self, scores: ChoiceScores) -> Completion:
        """All that was heard for it, summed."""
        costs = [heard.cost_usd for heard in self._heard]
        return Completion(
            text=scores_text(scores),
            finish_reason="stop",
            input_tokens=sum(heard.input_tokens for heard in self._heard),
            cached_tokens=sum(heard.cached_tokens for heard in self._heard),
            output_tokens=sum(heard.output_tokens for heard in self._heard),
            seconds=sum(heard.seconds for heard in self._heard),
            cost_usd=None
            if any(cost is None for cost in costs)
            else math.fsum(cost or 0.0 for cost in costs),
        )


# --- what is read ------------------------------------------------------------------------------------------


def read_figures(entries: Sequence[object]) -> tuple[dict[bytes, float], int]:
    """The usable figures of a ``top_logprobs`` list, by token, and how many entries are not usable.

    Not usable: an entry without a token, a figure that is not a log-probability, a token with two different figures,
    and all of them if they sum to more than 1. Left out: OpenAI's mark for "not among the most probable", and tokens
    that hold part of a character, which vLLM sends as the same replacement character each.
    """
    found: dict[bytes, float] = {}
    contradicted: set[bytes] = set()
    n_invalid = 0
    for entry in entries:
        token, figure = (_token(entry), _figure(entry)) if isinstance(entry, Mapping) else (None, None)
        if token is not None and HALF_CHARACTER in token:
            continue
        if token is None or figure is None:
            n_invalid += 1
        elif figure > NO_FIGURE and found.setdefault(token, figure) != figure:
            contradicted.add(token)
            n_invalid += 1
    for token in contradicted:
        del found[token]
        n_invalid += 1
    if math.fsum(map(math.exp, found.values())) > MOST_IN_ALL:
        return {}, n_invalid + len(found)
    return found, n_invalid


def _figure(entry: Mapping[str, Any]) -> float | None:
    (found,) = checked_scores([entry.get("logprob")], "top_logprobs").log_probs
    return found


def _token(entry: Mapping[str, Any]) -> bytes | None:
    """Its bytes where they are given, which a text may not be able to hold; None for neither."""
    values, text = entry.get("bytes"), entry.get("token")
    if isinstance(values, list) and values and all(type(byte) is int and 0 <= byte < 256 for byte in values):
        return bytes(values)
    return text.encode("utf-8", "surrogatepass") if isinstance(text, str) and text else None


def _entries(body: str) -> list[object] | None:
    """``choices[0].logprobs.content[0].top_logprobs``; None where the server sent no log-probabilities.

    Something else in its place is a list with one entry that cannot be used: it was sent, and it is counted.
    """
    try:
        log_probs = json.loads(body)["choices"][0].get("logprobs")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None
    content = log_probs.get("content") if isinstance(log_probs, Mapping) else log_probs
    if not content:
        return None
    first = content[0] if isinstance(content, list) else None
    top = first.get("top_logprobs") if isinstance(first, Mapping) else None
    return top if isinstance(top, list) and top else [None]


def _beginnings(figures: Figures, rest: bytes) -> list[bytes]:
    """The tokens that the text begins with, longest first."""
    return sorted((token for token in figures if token and rest.startswith(token)), key=len, reverse=True)


def _without_leading_blanks(
    figures: Figures, group: Sequence[_Candidate]
) -> tuple[dict[bytes, float], list[_Candidate]]:
    """Both sides without; of tokens that are then the same the more probable counts."""
    found: dict[bytes, float] = {}
    for token, figure in figures.items():
        bare = token.lstrip()
        found[bare] = max(figure, found.get(bare, figure))
    return found, [_Candidate(candidate.index, candidate.rest.lstrip()) for candidate in group]


def _may_be_anothers(token: bytes, rest: bytes) -> bool:
    """Whether the token ends inside a word of the choice, or is the blank before one: many other texts go on so."""
    if not rest or not token.strip():
        return bool(rest)
    joined = (token + rest).decode("utf-8", "replace")
    n = len(token.decode("utf-8", "replace"))
    return joined[n - 1 : n + 1].isalnum()


def _schema(names: Sequence[str]) -> str:
    return canonical_json(
        {
            "type": "object",
            "properties": {"choice": {"type": "string", "enum": list(names)}},
            "required": ["choice"],
            "additionalProperties": False,
        }
    )


def _name_in(text: str) -> str:
    """What stands in the schema's one field; the bare text where a server does not follow schemas."""
    try:
        read = json.loads(text)
    except (ValueError, RecursionError):
        return text.strip()
    chosen = read.get("choice") if isinstance(read, Mapping) else read
    return chosen.strip() if isinstance(chosen, str) else ""


def _say_once_that_there_are_none(manner: ServerManner) -> None:
    if manner.has_log_probs is None:
        manner.has_log_probs = False
        _log.warning(
            "Warning: the server sends no log-probabilities: it is asked to choose instead, and how often it chooses "
            "a type stands for its probability (judge.n_choosings)."
        )
