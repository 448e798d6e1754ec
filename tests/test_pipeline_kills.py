"""Fifty kills at random moments of real ``cdner reason`` processes that ask a real HTTP server."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from chat_servers import ChatServer, Reply, after, said, serving
from pipeline_experiments import (
    CALLS,
    cdner,
    copy_of,
    ended,
    finished_store,
    sql,
    start_cdner,
    write_experiment,
)

from cdner.config import REASONING_SETTINGS

N_KILLS, CONCURRENCY = 50, 4
Prompt = tuple[str, ...]  # the texts of a request's messages
ANSWERED = """
    SELECT list(prompt_text.text ORDER BY position) FROM completion
    JOIN request USING (request_id) JOIN request_message USING (request_id) JOIN prompt_text USING (text_id)
    WHERE model = 'm' GROUP BY request_id, attempt_n
"""


def prompt_of(body: dict[str, Any]) -> Prompt:
    return tuple(message["content"] for message in body["messages"])


def answered(store: Path) -> Counter[Prompt]:
    """Prompts of the stored completions."""
    return Counter(tuple(texts) for (texts,) in sql(store, ANSWERED))


def reply_to_all(server: ChatServer, generator: random.Random) -> None:
    def reply(_: str, __: int) -> Reply:
        parts = ("initial_reasoning", "bidirectional_reasoning", "forward_reasoning")
        body = json.loads(said("").body)
        body["choices"][0]["message"]["content"] = json.dumps({part: f"The {part}." for part in parts})
        return after(generator.uniform(0.0, 0.06), Reply(body=json.dumps(body)))

    server.reply = reply


def n_counted(log: str) -> int:
    """The most that the process has said to be done."""
    return max((int(n) for n in re.findall(r"reason:\w+/test: (\d+)/\d+", log)), default=0)


@pytest.mark.slow
def test_fifty_kills_lose_no_answer_and_send_no_stored_request_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CALLS, str(tmp_path / "calls"))
    generator, log = random.Random(11), tmp_path / "log"
    store, experiment = copy_of(finished_store("seq2seq"), tmp_path / "copy"), write_experiment(tmp_path)
    options = (
        "-e",
        experiment,
        "--split",
        "test",
        "--set",
        "corpora.n_target_test=0",
        "--concurrency",
        CONCURRENCY,
    )
    todo = list(REASONING_SETTINGS)
    n_killed = n_repeated = 0
    with serving() as server:
        reply_to_all(server, generator)
        asks = ("--set", "reason.backend=openai", "--set", "reason.model=m", "--base-url", server.url)
        while todo:
            before, n_seen = answered(store), len(server.seen)
            command = ("reason", *options, *asks, "--setting", todo[0])
            log.write_text("")  # a process killed early leaves the log as it found it
            process = start_cdner(store, *command, log=log)
            if n_killed < N_KILLS:
                n_wanted = n_seen + generator.randrange(9)
                while process.is_alive() and len(server.seen) < n_wanted:
                    time.sleep(0.02)
                time.sleep(generator.uniform(0.0, 0.08))
                with contextlib.suppress(ProcessLookupError):  # it has just ended by itself
                    os.kill(process.pid or 0, signal.SIGKILL)
            code = ended(process)
            sent = [prompt_of(body) for body in server.seen[n_seen:]]
            stored = answered(store)
            assert not before.keys() & set(sent), "a stored request was sent again"
            assert len(stored) - len(before) >= n_counted(log.read_text()), "counted, but not stored"
            assert before <= stored
            if code == 0:
                todo.pop(0)
            else:
                assert code == -signal.SIGKILL, log.read_text()
                n_killed += 1
                n_lost = len(set(sent) - stored.keys())
                assert n_lost <= CONCURRENCY, f"{n_lost} calls of {len(sent)} come again"
                n_repeated += n_lost
    assert n_killed == N_KILLS
    times_sent = Counter(prompt_of(body) for body in server.seen)
    assert times_sent.keys() == stored.keys()
    assert set(stored.values()) == {1}
    assert 0 < times_sent.total() - len(times_sent) <= n_repeated
    assert sql(store, "SELECT count(*) FROM reasoning WHERE gap_reason IS NOT NULL") == [(0,)]
    assert cdner(store, "store", "verify").code == 0
