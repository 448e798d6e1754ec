"""The addresses of the service: predictions, Label Studio's, health, metrics and the OpenAPI page.

Every refusal is one line of JSON under "error".
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import json
import logging
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from cdner.api import FoundEntity, Text
from cdner.errors import CdnerError, InputError, UsageError
from cdner.files import Json
from cdner.serving.batching import Batcher, FullError, Predicted
from cdner.serving.body_limit import BodyLimit
from cdner.serving.label_studio import prediction, read_interface, text_of
from cdner.version import __version__

_log = logging.getLogger("uvicorn.error")
_OPEN = ("/health", "/")  # what needs no key


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one request. ``seconds``: until it is answered, and again for its body to arrive."""

    texts: int = 256
    characters: int = 20_000  # of one sentence
    most_bytes: int = 2_000_000
    seconds: float = 60.0


@dataclass(slots=True)
class Metrics:
    """What the service has done since it began."""

    answers: Counter[tuple[str, int]] = field(default_factory=Counter)  # (address, status)
    n_texts: int = 0
    seconds: float = 0.0

    def text(self, *, n_waiting: int) -> str:
        """In Prometheus' text format."""
        lines = ["# TYPE cdner_requests_total counter"]
        for (path, status), n in sorted(self.answers.items()):
            lines.append(f'cdner_requests_total{{path="{path}",status="{status}"}} {n}')
        for name, kind, value in (
            ("texts_total", "counter", self.n_texts),
            ("predict_seconds_total", "counter", round(self.seconds, 6)),
            ("waiting_texts", "gauge", n_waiting),
        ):
            lines += [f"# TYPE cdner_{name} {kind}", f"cdner_{name} {value}"]
        return "\n".join(lines) + "\n"


class Asked(BaseModel):
    """Sentences to predict: one of the four fields."""

    model_config = ConfigDict(extra="forbid")

    text: str | None = Field(None, description="One sentence.")
    tokens: list[str] | None = Field(None, description="One sentence, as its tokens.")
    texts: list[str] | None = Field(None, description="Several sentences.")
    token_lists: list[list[str]] | None = Field(None, description="Several sentences, each as its tokens.")

    def sentences(self) -> list[Text]:
        """Raises InputError unless exactly one field is given."""
        several: list[Sequence[Text] | None] = [
            None if self.text is None else [self.text],
            None if self.tokens is None else [self.tokens],
            self.texts,
            self.token_lists,
        ]
        given = [value for value in several if value is not None]
        if len(given) != 1:
            raise InputError("give one of text, tokens, texts, token_lists.")
        return list(given[0])


class Tasks(BaseModel):
    """What Label Studio asks."""

    model_config = ConfigDict(extra="ignore")

    tasks: list[dict[str, Any]]
    label_config: str | None = ""


class Answer(BaseModel):
    """The entities of each sentence, in the order asked."""

    model: str
    results: list[list[FoundEntity]]


@dataclass(frozen=True, slots=True)
class Service:
    """A model, and how it is served. ``key`` "": everybody may ask. ``jobs``: where training jobs are recorded."""

    batcher: Batcher
    model: str
    types: Sequence[str]
    limits: Limits = Limits()
    key: str = field(default="", repr=False)
    jobs: Path | None = None
    metrics: Metrics = field(default_factory=Metrics)
    recording: threading.Lock = field(default_factory=threading.Lock)

    async def predicted(self, sentences: Sequence[Text]) -> Predicted:
        """Raises InputError for too much, FullError if too many wait, TimeoutError."""
        if len(sentences) > self.limits.texts:
            raise InputError(f"a request has at most {self.limits.texts} sentences, not {len(sentences)}.")
        for number, sentence in enumerate(sentences):
            n = len(sentence) if isinstance(sentence, str) else sum(map(len, sentence)) + len(sentence)
            if n > self.limits.characters:
                raise InputError(
                    f"sentence {number}: a sentence has at most {self.limits.characters:,} characters, not {n:,}."
                )
            if not isinstance(sentence, str) and any(token.split() != [token] for token in sentence):
                raise InputError(f"sentence {number}: a token is empty or holds white space.")
        started = time.monotonic()
        answer = asyncio.wrap_future(self.batcher.submit(sentences))
        found = await asyncio.wait_for(answer, self.limits.seconds)
        self.metrics.n_texts += len(sentences)
        self.metrics.seconds += time.monotonic() - started
        return found

    def record(self, kind: str, body: Json) -> str:
        """Append a job to the folder's list. Raises InputError if the service keeps none."""
        if self.jobs is None:
            raise InputError("this service records no training jobs: start it with --jobs FOLDER.")
        job = f"{int(time.time() * 1000):013d}"
        line = json.dumps({"job": job, "kind": kind, "model": self.model, "asked": body}, ensure_ascii=False)
        with self.recording, (self.jobs / "jobs.jsonl").open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")
        return job


def make_app(service: Service) -> FastAPI:
    """The ASGI application."""
    app = FastAPI(title="cdner", version=__version__, description=f"Entities by {service.model}.")
    _add_refusals(app, service)
    _add_predictions(app, service)
    _add_label_studio(app, service)
    app.add_middleware(
        BodyLimit,
        most_bytes=service.limits.most_bytes,
        seconds=service.limits.seconds,
    )
    return app


def _add_predictions(app: FastAPI, service: Service) -> None:
    @app.post("/predict", summary="Entities of sentences, or of Label Studio's tasks.", response_model=None)
    async def predict(asked: Asked | Tasks) -> Answer | dict[str, Json]:
        if isinstance(asked, Tasks):
            interface = read_interface(asked.label_config or "")
            found = await service.predicted([text_of(task, interface) for task in asked.tasks])
            results: list[Json] = [prediction(entities, interface, service.model) for entities in found]
            return {"results": results, "model_version": service.model}
        found = await service.predicted(asked.sentences())
        return Answer(model=service.model, results=found)

    @app.get("/", include_in_schema=False)  # Label Studio asks here, too
    @app.get("/health", summary="Whether the service is up; needs no key.")
    async def health() -> dict[str, str | bool]:
        return {"status": "UP", "model": service.model, "model_class": "cdner", "v2": True}

    @app.get("/metrics", summary="Counts since the start, for Prometheus.", response_class=PlainTextResponse)
    async def metrics() -> str:
        return service.metrics.text(n_waiting=service.batcher.n_waiting)


def _add_label_studio(app: FastAPI, service: Service) -> None:
    @app.post("/setup", summary="Label Studio asks whether the model fits its project.")
    async def setup(asked: dict[str, Any]) -> dict[str, Any]:
        read_interface(str(asked.get("schema") or asked.get("label_config") or ""))
        return {"model_version": service.model, "labels": list(service.types)}

    @app.post("/train", summary="Record a training job.")
    async def train(asked: dict[str, Any]) -> dict[str, Any]:
        return {"job": service.record("train", asked)}

    @app.post("/webhook", summary="Record what happened in a project.")
    async def webhook(asked: dict[str, Any]) -> dict[str, Any]:
        return {"job": service.record(str(asked.get("action", "webhook"))[:80], asked)}


def _add_refusals(app: FastAPI, service: Service) -> None:
    """Key, counts and one shape for every error."""

    @app.middleware("http")
    async def counted(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
        path = request.url.path
        if service.key and path not in _OPEN and not _has_key(request, service.key):
            response: Response = _refused(401, "this service needs its key: Authorization: Bearer KEY")
            response.headers["WWW-Authenticate"] = "Bearer"
        else:
            try:
                response = await answer(request)
            except Exception as error:  # noqa: BLE001  whatever a model raises: logged, counted, and the service goes on
                _log.exception("%s %s", request.method, path)
                response = _refused(
                    500, f"the model failed ({type(error).__name__}); the log of the service says more"
                )
        known = path if any(getattr(route, "path", None) == path for route in app.routes) else "other"
        service.metrics.answers[known, response.status_code] += 1
        return response

    @app.exception_handler(RequestValidationError)
    async def invalid(_request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:])
        return _refused(422, f"{where or 'body'}: {first['msg']}")

    @app.exception_handler(CdnerError)
    async def unusable(_request: Request, error: CdnerError) -> Response:
        return _refused(422 if isinstance(error, InputError | UsageError) else 500, str(error))

    @app.exception_handler(HTTPException)
    async def unknown(_request: Request, error: HTTPException) -> Response:
        return _refused(error.status_code, str(error.detail))

    @app.exception_handler(FullError)
    async def full(_request: Request, _error: FullError) -> Response:
        response = _refused(503, "too many sentences wait: try again in a second")
        response.headers["Retry-After"] = "1"
        return response

    @app.exception_handler(TimeoutError)
    async def slow(_request: Request, _error: TimeoutError) -> Response:
        return _refused(504, f"no answer within {service.limits.seconds:g} seconds: send fewer sentences")


def _refused(status: int, reason: str) -> JSONResponse:
    return JSONResponse({"error": " ".join(reason.split())}, status_code=status)


def _has_key(request: Request, key: str) -> bool:
    """Bearer, or Basic with the key as password, which is what Label Studio sends. Compared in constant time."""
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "basic":
        try:
            given = base64.b64decode(given, validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            return False
    elif scheme.lower() != "bearer":
        return False
    return hmac.compare_digest(given.strip().encode(), key.encode())
