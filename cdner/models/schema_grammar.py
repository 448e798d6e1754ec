"""Constrains output to JSON of a schema: which tokens may come next. Only this module uses llguidance.

llguidance needs neither torch nor any other package and is also used by vLLM. JSON is written without whitespace
between its parts, as cdner's vLLM servers write it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cdner.errors import ModelError

# If whitespace were allowed, a small model could fill its whole budget with it.
_COMPACT = {"whitespace_flexible": False, "item_separator": ",", "key_separator": ":"}
_BITS = 32  # of one word of llguidance's mask


def grammar_is_installed() -> bool:
    """Imports nothing."""
    return importlib.util.find_spec("llguidance") is not None


class SchemaGrammar:
    """Schemas for one tokenizer, which takes a second to read. Each schema is compiled once."""

    def __init__(self, tokenizer: Any, end_ids: Iterable[int]) -> None:
        from llguidance.hf import from_tokenizer

        try:
            self._tokenizer = from_tokenizer(tokenizer, eos_token=sorted(end_ids))
        except ValueError as error:
            raise ModelError(
                f"JSON by schema needs a fast tokenizer: {error}. Set structured = false."
            ) from error
        self._compiled: dict[str, Any] = {}

    def constraint(self, schema: str) -> SchemaConstraint:
        """A constraint for one output, which is then JSON of ``schema`` (a JSON text) unless it is cut off.

        Raises ModelError for a schema that llguidance does not support completely.
        """
        if schema not in self._compiled:
            self._compiled[schema] = self._compile(schema)
        return SchemaConstraint(self._compiled[schema].deep_copy(), self._tokenizer.vocab_size)

    def _compile(self, schema: str) -> Any:
        from llguidance import LLMatcher

        try:
            grammar = LLMatcher.grammar_from_json_schema(schema, overrides=_COMPACT)
        except ValueError as error:
            raise ModelError(f"A JSON schema is not valid JSON: {error}") from error
        matcher = LLMatcher(self._tokenizer, grammar, log_level=0)
        if complaint := matcher.get_error() or "; ".join(matcher.get_grammar_warnings()):
            raise ModelError(f"A JSON schema cannot be followed: {complaint.strip().splitlines()[0]}")
        return matcher


class SchemaConstraint:
    """``cdner.types.TokenConstraint`` for one output."""

    def __init__(self, matcher: Any, vocabulary_size: int) -> None:
        self._matcher = matcher
        self._mask = np.zeros(-(-vocabulary_size // _BITS), dtype=np.int32)

    def allowed(self) -> NDArray[np.int64]:
        """Sorted ids; the end tokens if the text is complete. ModelError if llguidance reports an error."""
        self._matcher.unsafe_compute_mask_ptr(self._mask.ctypes.data, self._mask.nbytes)
        found = np.flatnonzero(np.unpackbits(self._mask.view(np.uint8), bitorder="little"))
        if not len(found):
            raise ModelError(
                f"No token continues this JSON: {self._matcher.get_error() or 'no reason given'}"
            )
        return found

    def advance(self, token_id: int) -> None:
        """Append the chosen token. ValueError if it was not allowed."""
        if not self._matcher.consume_token(token_id):
            raise ValueError(f"token {token_id} was not allowed: {self._matcher.get_error()}")
