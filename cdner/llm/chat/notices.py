"""What answers show of a server that the user should hear, each once for a client."""

from __future__ import annotations

import logging

from cdner.llm.chat.budget import estimated_input_tokens
from cdner.types import Completion, ReasoningRequest

BYTES_PER_TOKEN = 6.0  # more than any tokenizer packs into one on English prose
LEAST_TOKENS = 500  # of the estimate: short prompts say little
_log = logging.getLogger("cdner")


class Notices:
    """Used by one thread only."""

    def __init__(self) -> None:
        self._said: set[str] = set()

    def take_in(self, request: ReasoningRequest, completion: Completion, *, n_repaired: int) -> None:
        estimate = sum(len(message.content.encode("utf-8", "surrogatepass")) for message in request.messages)
        least = estimate / BYTES_PER_TOKEN
        read = completion.input_tokens
        if 0 < read < least and least >= LEAST_TOKENS:
            self._say(
                "prompt",
                f"the server read {read} tokens of a prompt that has about {estimated_input_tokens(request)}: it cuts "
                "prompts off. Raise its context length (Ollama: num_ctx) or lower n_examples.",
            )
        if not completion.text and completion.thoughts and not request.sampling.choices:
            self._say(
                "thoughts",
                f"an answer holds only thoughts ({completion.output_tokens} tokens were paid, finish reason "
                f"{completion.finish_reason}): thinking used the whole budget. Raise reason.max_tokens "
                "(describe.max_tokens for descriptions), or set execution.capabilities.thinking to 'off'.",
            )
        if n_repaired:
            self._say("usage", "the server sent token counts that cannot be right; they were clamped.")

    def _say(self, kind: str, what: str) -> None:
        if kind not in self._said:
            self._said.add(kind)
            _log.warning("Warning: %s", what)
