"""A key in the environment reaches the server and nothing else: no table, no file, no log at debug, no traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from bundle_stores import parts_of
from chat_servers import ChatServer, Reply, said, serving
from pipeline_experiments import CALLS, cdner, copy_of, finished_store, write_experiment

from cdner.store import Store

KEY = "Zx9Qw7Lm2-tr0ub4dor-is-a-key"  # without the sk- by which anyone would know it
ROOT = Path(__file__).resolve().parents[1]
# What main does, with an SDK that breaks in a way nobody foresaw.
CRASHING = """
import openai.resources.chat.completions.completions as completions, sys
def broken(self, *arguments, **options):
    raise RuntimeError("nobody foresaw this")
completions.Completions.create = broken
from cdner.cli import main
main(sys.argv[1:])
"""


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with serving() as state:
        yield state


def echoing(status: int = 200, **parts: object) -> Reply:
    """A server that repeats the key wherever it can; waiting before a retry would only take time."""
    body = {"error": {"message": f"Bad key {KEY}", "code": KEY, "type": KEY, "param": KEY}} | parts
    return Reply(status, json.dumps(body), {"X-Echo": f"Bearer {KEY}", "Retry-After": "0"})


def troubled(text: str, _: int) -> Reply:
    """Another failure for each sentence, and an answer now and then."""
    kind = sum(text.encode()) % 5
    if kind == 0:
        return echoing(500)
    if kind == 1:
        return Reply(body=json.dumps({"key": KEY}), cut=4, reset=True)
    if kind == 2:
        return echoing(choices=[{"message": KEY, "finish_reason": 3}])
    if kind == 3:
        return echoing(422)
    reply = said(text, prompt_tokens=KEY)
    reply.headers["X-Echo"] = KEY
    return reply


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Everything up to the reasoning texts is done."""
    monkeypatch.setenv(CALLS, str(tmp_path / "calls"))
    return copy_of(finished_store("seq2seq"), tmp_path / "store")


def reason(store: Path, server: ChatServer, tmp_path: Path, *start: str) -> subprocess.CompletedProcess[str]:
    settings = ("reason.backend=openai", "reason.model=gpt-4o-mini", "reason.retries=0")
    return subprocess.run(
        [
            *(sys.executable, "-P", *(start or ("-m", "cdner"))),
            *("--store", str(store), "reason", "-e", str(write_experiment(tmp_path)), "--split", "train"),
            *(f"--set={setting}" for setting in settings),
            *("--base-url", server.url, "--concurrency", "2"),
        ],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OPENAI_API_KEY": KEY, "OPENAI_LOG": "debug"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def places_of_the_key(store: Path) -> list[str]:
    """Tables and files that hold it. Tables by their values: in the file they are compressed."""
    found = []
    with Store(store).reading() as connection:
        for (table,) in connection.execute("SELECT table_name FROM duckdb_tables()").fetchall():
            if KEY in repr(connection.execute(f"SELECT * FROM {table}").fetchall()):
                found.append(table)
    files = [path for path in store.parent.rglob("*") if path.is_file() and path.suffix != ".safetensors"]
    assert store in files
    return found + [path.name for path in files if KEY.encode() in path.read_bytes()]


@pytest.mark.slow
def test_a_key_is_in_no_log_no_error_no_store_and_no_bundle(
    store: Path, server: ChatServer, tmp_path: Path
) -> None:
    server.reply = troubled
    partial = reason(store, server, tmp_path)
    assert partial.returncode == 3, partial.stderr[-2000:]
    server.reply = lambda text, attempt: echoing(401)
    refused = reason(store, server, tmp_path)
    assert refused.returncode == 1, refused.stderr[-2000:]
    assert "DEBUG" in partial.stderr and "DEBUG" in refused.stderr  # the SDK does log
    assert set(server.authorizations) == {f"Bearer {KEY}"}
    for ran in (partial, refused):
        lines = [line for line in (ran.stdout + ran.stderr).splitlines() if KEY in line]
        assert lines == []
    errors = [row["error"] for row in cdner(store, "runs", "--json").rows if row["error"]]
    assert errors and places_of_the_key(store) == []
    assert cdner(store, "bundle", "pack", tmp_path / "b.zip").code == 0
    assert KEY not in repr(parts_of(tmp_path / "b.zip"))


@pytest.mark.slow
def test_a_key_is_in_no_traceback(store: Path, server: ChatServer, tmp_path: Path) -> None:
    script = tmp_path / "crashing.py"
    script.write_text(CRASHING)
    crashed = reason(store, server, tmp_path, str(script))
    assert crashed.returncode == 1
    assert "Traceback" in crashed.stderr and "nobody foresaw this" in crashed.stderr
    assert KEY not in crashed.stdout + crashed.stderr
    assert places_of_the_key(store) == []
    assert server.seen == []
