"""The few HTTP endpoints of a vLLM server on this machine that have nothing to do with completions.

Plain ``http.client``: no proxy, no redirect, no retry. An answer that does not come is a value, not an error.
"""

from __future__ import annotations

import http.client
import json
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlencode

from pydantic import BaseModel, ValidationError

LOOPBACK = "127.0.0.1"
_QUICK_SECONDS = 5.0
_MOVING_SECONDS = 600.0  # weights go to host memory and back, or come from a disk again


class _Model(BaseModel):
    id: str
    max_model_len: int | None = None


class _Models(BaseModel):
    data: list[_Model]


class _Sleeping(BaseModel):
    is_sleeping: bool


@dataclass(frozen=True, slots=True)
class ServedModel:
    name: str
    max_model_len: int | None  # tokens of prompt and answer together, where the server tells


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Of the server on ``port``; ``api_key`` is never in a repr."""

    port: int
    api_key: str

    def __repr__(self) -> str:
        return f"Endpoints(port={self.port})"

    def is_healthy(self) -> bool:
        return self._status("GET", "/health") == http.HTTPStatus.OK

    def models(self) -> tuple[ServedModel, ...]:
        """What is served; empty if the server does not answer, or not to this key."""
        status, body = self._ask("GET", "/v1/models")
        if status != http.HTTPStatus.OK:
            return ()
        try:
            listed = _Models.model_validate_json(body)
        except ValidationError:
            return ()
        return tuple(ServedModel(model.id, model.max_model_len) for model in listed.data)

    def is_sleeping(self) -> bool | None:
        """None if the server does not know of sleep."""
        _, body = self._ask("GET", "/is_sleeping")
        try:
            return _Sleeping.model_validate_json(body).is_sleeping
        except ValidationError:
            return None

    def sleep(self, level: Literal[1, 2]) -> bool:
        """Weights to host memory (1) or away (2), KV cache away. False if the server does not sleep now."""
        return self._moved(f"/sleep?{urlencode({'level': level})}") and self.is_sleeping() is True

    def wake(self, level: Literal[1, 2]) -> bool:
        """Undo ``sleep(level)``; after level 2 the weights are loaded again, before the KV cache takes its room."""
        if level == 1:
            done = self._moved("/wake_up")
        else:
            done = (
                self._moved("/wake_up?tags=weights")
                and self._moved("/collective_rpc", {"method": "reload_weights"})
                and self._moved("/wake_up?tags=kv_cache")
            )
        return done and self.is_sleeping() is False

    def _moved(self, path: str, body: object = None) -> bool:
        return self._status("POST", path, body, seconds=_MOVING_SECONDS) == http.HTTPStatus.OK

    def _status(self, method: str, path: str, body: object = None, *, seconds: float = _QUICK_SECONDS) -> int:
        return self._ask(method, path, body, seconds=seconds)[0]

    def _ask(
        self, method: str, path: str, body: object = None, *, seconds: float = _QUICK_SECONDS
    ) -> tuple[int, bytes]:
        """(status, body); status 0 if there is no answer."""
        connection = http.client.HTTPConnection(LOOPBACK, self.port, timeout=seconds)
        headers = {"Authorization": f"Bearer {self.api_key}", "Content-Type": "application/json"}
        try:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException):
            return 0, b""
        finally:
            connection.close()
