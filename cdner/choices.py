"""How probable an LLM finds each of several given answers: the text of a completion to a request with choices.

A verdict needs no generated text, only log-probabilities. They are kept as the text of an ordinary completion, so
that the store, the account, resume, replay and bundles treat them like any other answer.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, cast, get_args

from cdner.files import canonical_json

# logits: computed from the whole distribution. top_logprobs: the figures a server sent of its most probable tokens.
# sampled: the server has no log-probabilities; it was asked to choose, once or several times.
Origin = Literal["logits", "top_logprobs", "sampled"]


@dataclass(frozen=True, slots=True)
class ChoiceScores:
    """What an LLM says of each choice.

    ``log_probs``: one for each choice, in the request's order: natural logarithm of the probability that the choice
    is the next text, at most 0, not renormalised; None where none is known. ``n_invalid``: figures that were sent and
    cannot be log-probabilities (NaN, above 0, no number); they count as not known.
    """

    log_probs: tuple[float | None, ...]
    origin: Origin
    n_invalid: int = 0

    @property
    def n_missing(self) -> int:
        return sum(value is None for value in self.log_probs)


def checked_scores(figures: Sequence[object], origin: Origin) -> ChoiceScores:
    """Scores from figures that somebody sent: what cannot be a log-probability becomes None and is counted."""
    n_invalid = 0
    log_probs: list[float | None] = []
    for figure in figures:
        value = _log_probability(figure)
        n_invalid += value is None and figure is not None
        log_probs.append(value)
    return ChoiceScores(tuple(log_probs), origin, n_invalid)


def _log_probability(figure: object) -> float | None:
    """None for what is not one. Rounding may leave a probability of 1 slightly above it."""
    if isinstance(figure, bool) or not isinstance(figure, int | float):
        return None
    return None if math.isnan(figure) or figure > 1e-6 or math.isinf(figure) else min(float(figure), 0.0)


def chosen_scores(n_chosen: Sequence[int], *, n_invalid: int = 0) -> ChoiceScores:
    """Of a server that was asked to choose, once or several times. ``n_chosen``: how often it chose each.

    One more choosing is shared equally between all choices: what was never chosen is not impossible, and what was
    chosen once is not certain.
    """
    k, n = len(n_chosen), sum(n_chosen)
    return ChoiceScores(
        tuple(math.log((count + 1 / k) / (n + 1)) for count in n_chosen), "sampled", n_invalid
    )


def scores_text(scores: ChoiceScores) -> str:
    """As a completion's text: canonical JSON, each figure to four decimals: more is noise of the number format."""
    return canonical_json(
        {
            "log_probs": [value if value is None else round(value, 4) + 0.0 for value in scores.log_probs],
            "origin": scores.origin,
            **({"n_invalid": scores.n_invalid} if scores.n_invalid else {}),
        }
    )


def read_scores(text: str, *, n_choices: int) -> ChoiceScores:
    """Scores from a completion's text. ValueError, in words, for a text that is none or of other choices."""
    try:
        found = json.loads(text)
    except ValueError as error:
        raise ValueError(f"not the scores of choices: {error}") from error
    if not isinstance(found, Mapping) or not isinstance(found.get("log_probs"), list):
        raise ValueError("not the scores of choices: no list 'log_probs'")  # noqa: TRY004  one kind of error
    if found.get("origin") not in get_args(Origin):
        raise ValueError(f"scores of choices from an unknown origin: {found.get('origin')!r}")
    if len(found["log_probs"]) != n_choices:
        raise ValueError(f"scores of {len(found['log_probs'])} choices, not of {n_choices}")
    scores = checked_scores(found["log_probs"], cast(Origin, found["origin"]))
    n_invalid = found.get("n_invalid", 0)
    if not isinstance(n_invalid, int) or isinstance(n_invalid, bool) or n_invalid < 0:
        raise ValueError(f"scores of choices with n_invalid = {n_invalid!r}")
    return ChoiceScores(scores.log_probs, scores.origin, scores.n_invalid + n_invalid)


def normalised(scores: ChoiceScores) -> tuple[float, ...]:
    """Probabilities of the choices, sum 1; a missing figure is bounded by the smallest one that is known.

    All equal where none is known.
    """
    known = [value for value in scores.log_probs if value is not None]
    if not known:
        return (1 / len(scores.log_probs),) * len(scores.log_probs)
    smallest, largest = min(known), max(known)
    weights = [math.exp((smallest if value is None else value) - largest) for value in scores.log_probs]
    return tuple(weight / sum(weights) for weight in weights)
