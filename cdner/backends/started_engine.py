"""A vLLM server that cdner starts and stops itself, with the client that asks it.

A server that dies while it is asked is started again, and what it had not answered is asked again. Knows nothing of
prompts and of how long they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cdner.backends.chat import Budget, ChatClient, Server
from cdner.backends.prices import price_of
from cdner.backends.vllm_server import Placement, VllmInstallation, VllmServer
from cdner.config import Execution
from cdner.types import Completion, Gap, ReasoningRequest

# A server of ours is watched: one that is slow, on a CPU, is not lost, and asking again would make it slower.
PATIENCE_SECONDS = 1800.0


class StartedEngine:
    """``location``: what vLLM loads. ``served_name``: what the requests call it."""

    def __init__(
        self,
        installation: VllmInstallation,
        *,
        location: str,
        served_name: str,
        execution: Execution,
        budget: Budget,
    ) -> None:
        self._installation = installation
        self._location = location
        self._served_name = served_name
        self._execution = execution
        self._budget = budget
        self._server: VllmServer | None = None
        self._client: ChatClient | None = None
        self._arguments: tuple[str, ...] = ()

    @property
    def installation(self) -> VllmInstallation:
        return self._installation

    @property
    def n_ready(self) -> int:
        return self._client.n_ready if self._client is not None else 0

    def ensure_running(self, arguments: Sequence[str], placement: Placement) -> None:
        """Awake and answering. BackendError with the end of its log if it cannot be."""
        if self._server is not None and tuple(arguments) != self._arguments:
            self.close()
        if self._server is not None:
            self._server.ensure_running()
            return
        server = VllmServer(
            self._installation,
            model=self._location,
            served_name=self._served_name,
            sleep_level=self._execution.sleep_level,
            placement=placement,
        )
        self._server, self._arguments = server, tuple(arguments)
        server.start(("--enable-prompt-tokens-details", *arguments))  # else no answer says what was cached
        self._client = ChatClient(
            [self._address(server)],
            model=self._served_name,
            concurrency=self._execution.concurrency,
            timeout=max(self._execution.timeout_seconds, PATIENCE_SECONDS),
            budget=self._budget,
            price=price_of(self._served_name, own_server=True),
            on_unreachable=self._start_again,
        )

    def complete(self, requests: Sequence[ReasoningRequest]) -> Iterator[tuple[int, Completion | Gap]]:
        if self._client is None:
            raise RuntimeError("ensure_running comes first")
        return self._client.complete(requests)

    def rest(self) -> None:
        """Sleep, or stop where it cannot sleep."""
        if self._server is not None:
            self._server.rest(self._execution.sleep_level)

    def close(self) -> None:
        """Stop the server. ``ensure_running`` starts another."""
        client, self._client = self._client, None
        server, self._server = self._server, None
        if client is not None:
            client.close()
        if server is not None:
            server.close()

    def _start_again(self, lost: Server) -> Server | None:  # noqa: ARG002  there is one server only
        """Called while requests wait: the server took no connection."""
        if self._server is None:
            return None
        self._server.ensure_running()
        return self._address(self._server)

    def _address(self, server: VllmServer) -> Server:
        return Server(server.base_url, server.api_key)
