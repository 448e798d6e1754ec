"""What answers show of a server that the user should hear, each once for a client."""

from __future__ import annotations

import logging

from cdner.llm.chat.budget import estimated_input_tokens
from cdner.types import Completion, ReasoningRequest

BYTES_PER_TOKEN = 6.0  # more than any tokenizer packs into one on English prose
ROUND = 256  # context lengths are multiples of it
BYTES_OF_WORDS = 20
LEAST_TOKENS = 500  # of the estimate: short prompts say little
_log = logging.getLogger("cdner")


class Notices:
    """Used by one thread only."""

    def __init__(self) -> None:
        self._said: set[str] = set()
        self._n_bytes: dict[
            int, int
        ] = {}  # tokens that the server said it read -> bytes of the first such prompt

    def take_in(self, request: ReasoningRequest, completion: Completion, *, n_repaired: int) -> None:
        n_bytes = sum(len(message.content.encode("utf-8", "surrogatepass")) for message in request.messages)
        if self._is_cut(n_bytes, read := completion.input_tokens):
            self._say(
                "prompt",
                f"the server read {read} tokens of a prompt that has about {estimated_input_tokens(request)}: it cuts "
                "prompts off. Raise its context length (Ollama: num_ctx) or lower n_examples.",
            )
        if not completion.text and completion.thoughts and not request.sampling.choices:
            self._say(
                "thoughts",
                f"an answer holds only thoughts ({completion.output_tokens} tokens were paid, finish reason "
                f"{completion.finish_reason}). Raise reason.max_tokens "
                "(describe.max_tokens for descriptions), or set execution.capabilities.thinking to 'off'.",
            )
        if n_repaired:
            self._say("usage", "the server sent token counts that cannot be right; they were clamped.")

    def _is_cut(self, n_bytes: int, read: int) -> bool:
        """Whether the server read less than the prompt: fewer tokens than it can have, or a round number twice."""
        if read <= 0:
            return False
        least = n_bytes / BYTES_PER_TOKEN
        is_short = read < least and least >= LEAST_TOKENS
        # Two prompts whose lengths differ by some words do not have the same number of tokens.
        differs = abs(self._n_bytes.setdefault(read, n_bytes) - n_bytes) > BYTES_OF_WORDS
        return is_short or (differs and read % ROUND == 0 and read >= LEAST_TOKENS)

    def _say(self, kind: str, what: str) -> None:
        if kind not in self._said:
            self._said.add(kind)
            _log.warning("Warning: %s", what)
