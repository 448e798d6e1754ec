"""One Batch API over HTTP: hand over, find again, look, fetch, cancel. Every error leaves it as one of two.

BackendError where no further call would fare better, ``UnreachableError`` where a later one may. A batch is created at
most once for each submission: when the answer to a creation is lost, the server's list is asked before it is
tried again. Knows no ledger and waits for nothing.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any, TypeVar, cast
from urllib.parse import urlsplit, urlunsplit

from pydantic import BaseModel, ValidationError

from cdner.errors import BackendError
from cdner.files import content_hash
from cdner.llm.batch.rows import ENDPOINT

if TYPE_CHECKING:
    import openai

TAG = "cdner_submission"  # in a batch's metadata
ENDED = frozenset({"completed", "failed", "expired", "cancelled"})
CREATIONS = 3  # tries
PAUSE = 2.0  # seconds before the server is asked whether it has created a batch after all
MOST_LISTED = 1000  # batches looked through for one of ours
CLOCK_SLACK = 86_400.0  # seconds a server's clock may be off ours
_PASSING_STATUS = frozenset({408, 409, 425, 429})


_Model = TypeVar("_Model", bound=BaseModel)


class UnreachableError(BackendError):
    """The server could not be asked just now."""


class _Counts(BaseModel):
    total: int = 0
    completed: int = 0
    failed: int = 0


class _Error(BaseModel):
    code: str | None = None
    message: str | None = None


class _Errors(BaseModel):
    data: list[_Error] | None = None


class ServerBatch(BaseModel):
    """What is read of a batch. Ours, because the SDK passes a malformed one on unchecked."""

    id: str
    status: str
    created_at: float = 0.0
    completed_at: float | None = None
    expired_at: float | None = None
    cancelled_at: float | None = None
    input_file_id: str = ""
    output_file_id: str | None = None
    error_file_id: str | None = None
    errors: _Errors | None = None
    request_counts: _Counts | None = None
    metadata: dict[str, str] | None = None

    @property
    def seconds(self) -> float:
        """From its creation to its end, as the server's clock has it; 0 where it does not say."""
        ended = self.completed_at or self.expired_at or self.cancelled_at or self.created_at
        return max(0.0, ended - self.created_at)

    @property
    def problems(self) -> list[_Error]:
        return (self.errors and self.errors.data) or []


class _Page(BaseModel):
    data: list[ServerBatch]
    has_more: bool = False


class _File(BaseModel):
    id: str


class BatchServer:
    """``redact`` makes an error text safe to show."""

    def __init__(self, client: openai.OpenAI, *, redact: Callable[[str], str]) -> None:
        self._client = client
        self._redact = redact

    @property
    def identity(self) -> str:
        """Hash of the base URL without user and password: it names the server and shows nothing of it."""
        parts = urlsplit(str(self._client.base_url))
        host = parts.netloc.rpartition("@")[2].lower()
        return content_hash(urlunsplit((parts.scheme, host, parts.path.rstrip("/"), "", "")))

    def hand_over(self, submission_id: str, lines: Iterable[bytes]) -> ServerBatch:
        """Upload the file and create its batch."""
        with tempfile.TemporaryFile() as file:
            for line in lines:
                file.write(line)
            file.seek(0)
            file_id = self._upload(file, f"cdner-{submission_id}.jsonl")
        began = time.time()
        for n in range(CREATIONS):
            try:
                return self._create(submission_id, file_id)
            except UnreachableError as error:
                lost = error
            time.sleep(PAUSE * 2**n)
            found = self.find(submission_id, since=began)
            if found is not None:
                return found
        raise lost

    def find(self, submission_id: str, *, since: float) -> ServerBatch | None:
        """The batch made of this submission; ``since``: when it was announced (Unix time)."""
        after: dict[str, str] = {}
        for _ in range(MOST_LISTED // 100):
            with self._errors():
                answer = self._client.batches.with_raw_response.list(limit=100, **after)  # type: ignore[arg-type]
            page = self._read(_Page, answer.text)
            for batch in page.data:
                if (batch.metadata or {}).get(TAG) == submission_id:
                    return batch
            if not page.has_more or not page.data or page.data[-1].created_at < since - CLOCK_SLACK:
                break
            after = {"after": page.data[-1].id}
        return None

    def look(self, batch_id: str) -> ServerBatch:
        """Its state now. BackendError also where the server knows no such batch."""
        import openai

        try:
            with self._errors(f"the batch {batch_id}"):
                answer = self._client.batches.with_raw_response.retrieve(batch_id)
        except BackendError as error:
            if isinstance(error.__cause__, openai.NotFoundError):
                raise BackendError(
                    f"The server knows no batch {batch_id}. Was it made with another key?"
                ) from error
            raise
        return self._read(ServerBatch, answer.text)

    def fetch(self, batch: ServerBatch) -> list[bytes]:
        """Its output and error files, as far as it has them and the server still keeps them."""
        import openai

        files = []
        for file_id in (batch.output_file_id, batch.error_file_id):
            if file_id is None:
                continue
            try:
                with self._errors():
                    files.append(self._client.files.content(file_id).content)
            except BackendError as error:
                if not isinstance(error.__cause__, openai.NotFoundError):
                    raise
        return files

    def cancel(self, batch_id: str) -> ServerBatch | None:
        """Its state then; None where the server knows no such batch. One that has ended stays as it is."""
        import openai

        try:
            with self._errors(f"the batch {batch_id}"):
                answer = self._client.batches.with_raw_response.cancel(batch_id)
        except BackendError as error:
            if isinstance(error.__cause__, openai.NotFoundError):
                return None
            raise
        return self._read(ServerBatch, answer.text)

    def close(self) -> None:
        self._client.close()

    def _upload(self, file: IO[bytes], name: str) -> str:
        with self._errors():
            answer = self._client.files.with_raw_response.create(
                file=(name, file, "application/jsonl"), purpose="batch"
            )
        return self._read(_File, answer.text).id

    def _create(self, submission_id: str, file_id: str) -> ServerBatch:
        with self._errors():
            once = self._client.with_options(max_retries=0)  # a second one would be paid for too
            answer = once.batches.with_raw_response.create(
                input_file_id=file_id,
                endpoint=cast(Any, ENDPOINT),
                completion_window="24h",
                metadata={TAG: submission_id},
            )
        return self._read(ServerBatch, answer.text)

    def _read(self, model: type[_Model], text: str) -> _Model:
        try:
            return model.model_validate_json(text)
        except ValidationError as error:
            problem = error.errors()[0]
            where = ".".join(str(part) for part in problem["loc"])
            raise UnreachableError(f"malformed answer: {where or 'body'}: {problem['msg']}") from error

    @contextmanager
    def _errors(self, what: str = "") -> Iterator[None]:
        import openai

        try:
            yield
        except openai.APIConnectionError as error:  # timeouts are of this kind
            raise UnreachableError(self._redact(str(error.__cause__ or error))) from error
        except openai.APIStatusError as error:
            line = self._redact(error.message)
            passing = error.status_code in _PASSING_STATUS or error.status_code >= 500
            if passing and error.code != "insufficient_quota":
                raise UnreachableError(line) from error
            if error.status_code == 404 and not what:
                raise BackendError(
                    f"The server has no Batch API ({line}). Leave out --batch, or give another --base-url."
                ) from error
            raise BackendError(f"The server refuses {what or 'the batch'}: {line}.") from error
        except openai.OpenAIError as error:
            raise UnreachableError(self._redact(str(error))) from error
