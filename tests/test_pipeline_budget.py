"""A command that reaches its budget: what arrived is stored, it ends with 3, and the same command goes on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from chat_servers import ChatServer, serving

from cdner.cli import run_cli

N_TYPES = 11  # of film


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ChatServer]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "CDNER_PRICES"):
        monkeypatch.delenv(name, raising=False)
    with serving() as state:
        yield state


def test_commands_go_on_where_the_budget_of_the_last_one_ended(
    server: ChatServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--store", str(tmp_path / "store.duckdb"), "describe", "--target", "film"]
    command += ["--backend", "openai", "--model", "m", "--base-url", server.url, "--max-requests", "4"]
    for n_left in (7, 3):
        assert run_cli(command) == 3
        said = capsys.readouterr().err
        assert f"{n_left} of {N_TYPES} types" in said
        assert "budget of 4 requests (--max-requests) is used up" in said
        assert "run the same command again" in said
    assert run_cli(command) == 0
    assert len(server.seen) == N_TYPES
