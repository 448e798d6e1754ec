"""What is read of a chat completion's answer, whole: the completion, or why there is none.

The shapes are ours, because the SDK passes a malformed body on unchecked.
"""

from __future__ import annotations

from pydantic import BaseModel, Field, ValidationError

from cdner.types import Completion, Gap


class _TokenDetails(BaseModel):
    cached_tokens: int | None = None


class Usage(BaseModel):
    """Tokens read and written; a server may leave out any of it."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _TokenDetails | None = None


class _Message(BaseModel):
    content: str | None = None
    refusal: str | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None


class _Body(BaseModel):
    choices: list[_Choice] = Field(min_length=1)
    usage: Usage | None = None


def read_body(text: str) -> Completion | Gap:
    """The completion in an answer's body; a gap for anything else that a server may send with status 200."""
    try:
        body = _Body.model_validate_json(text)
    except ValidationError as error:
        return malformed(error)
    choice = body.choices[0]
    refused = bool(choice.message.refusal)
    return completion_of(choice.message.content, choice.finish_reason, body.usage or Usage(), refused=refused)


def read_probed_body(text: str) -> Completion | Gap:
    """Like ``read_body``, for an answer that is asked for its log-probabilities: it may hold no text."""
    try:
        body = _Body.model_validate_json(text)
    except ValidationError as error:
        return malformed(error)
    choice = body.choices[0]
    refused = bool(choice.message.refusal)
    content = choice.message.content if refused else choice.message.content or ""
    return completion_of(content, choice.finish_reason, body.usage or Usage(), refused=refused)


def completion_of(
    text: str | None, finish_reason: str | None, usage: Usage, *, refused: bool
) -> Completion | Gap:
    """``text`` None: the server wrote nothing."""
    if text is None:
        return Gap("refused" if refused else f"no text, finish reason {finish_reason}")
    details = usage.prompt_tokens_details or _TokenDetails()
    return Completion(
        text=text,
        finish_reason=finish_reason or "unknown",
        input_tokens=usage.prompt_tokens or 0,
        cached_tokens=details.cached_tokens or 0,
        output_tokens=usage.completion_tokens or 0,
    )


def malformed(error: ValidationError) -> Gap:
    """Names the first thing that is not as it should be."""
    problem = error.errors()[0]
    where = ".".join(str(part) for part in problem["loc"])
    return Gap(f"malformed answer: {where or 'body'}: {problem['msg']}")
