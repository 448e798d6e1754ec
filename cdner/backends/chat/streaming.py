"""One answer read as it is written, for somebody who watches: the same completion as from a whole body.

Knows nothing of when to try again; what a server does to the stream leaves as the errors that ``exchange`` reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from pydantic import BaseModel, ValidationError

from cdner.backends.chat.body import Usage, completion_of, malformed
from cdner.types import Completion, Gap


class _Delta(BaseModel):
    content: str | None = None
    refusal: str | None = None


class _Choice(BaseModel):
    delta: _Delta
    finish_reason: str | None = None


class _Chunk(BaseModel):
    choices: list[_Choice] = []
    usage: Usage | None = None


def read_chunks(chunks: Iterable[Any], on_text: Callable[[str], None]) -> Completion | Gap:
    """``chunks``: the SDK's, unchecked by it; the last one has the usage and no choice."""
    written: list[str] = []
    usage, finish_reason, refused = Usage(), None, False
    for raw in chunks:
        try:
            chunk = _Chunk.model_validate(raw.model_dump(warnings=False))
        except ValidationError as error:
            return malformed(error)
        usage = chunk.usage or usage
        for choice in chunk.choices[:1]:
            finish_reason = choice.finish_reason or finish_reason
            refused = refused or bool(choice.delta.refusal)
            if choice.delta.content:
                written.append(choice.delta.content)
                on_text(choice.delta.content)
    if finish_reason is None:
        return Gap("the answer ended without a finish reason: the stream was cut off")
    return completion_of("".join(written) if written else None, finish_reason, usage, refused=refused)
