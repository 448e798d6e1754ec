"""The engine "ray" on a real cluster of two nodes, one of which dies in the middle: the local engine's files."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import duckdb
import psutil
import pytest
from annotating import CONCURRENCY, Counter, checkpoint_of, contents, reasoned, run, tiny_method, write_rows
from chat_servers import ChatServer, Reply, serving
from pipeline_experiments import wait_for

from cdner.annotate.worker import Workers
from cdner.errors import BackendError, InputError, UsageError

N_ROWS, N_BEFORE = 28, 10  # sentences; answers before a node dies


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes with room for one actor each, on loopback."""
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    made.add_node(num_cpus=1)
    yield made
    made.shutdown()


class Middle:
    """Answers, until it has answered so often; then holds every answer back, so that all actors are in a block."""

    def __init__(self) -> None:
        self.over = threading.Event()
        self.n_held = self._n = 0
        self._lock = threading.Lock()

    def reply(self, text: str, _: int) -> Reply:
        with self._lock:
            self._n += 1
            is_held = self._n > N_BEFORE
            self.n_held += is_held
        if is_held:
            self.over.wait(120)
        return reasoned(text)


@pytest.fixture
def replicas() -> Iterator[list[ChatServer]]:
    """Two servers of one LLM."""
    with serving() as one, serving() as other:
        for server in (one, other):
            server.reply = lambda text, _: reasoned(text)
        yield [one, other]


@pytest.mark.slow
def test_a_node_that_dies_in_the_middle_costs_no_row_and_doubles_none(
    cluster, replicas, tiny_t5, tmp_path, monkeypatch
):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    rows = write_rows(tmp_path / "rows.jsonl", N_ROWS)
    method = tiny_method(checkpoint_of(tiny_t5, tmp_path / "model"), urls=[r.url for r in replicas])
    run(rows, tmp_path / "local", method)
    n_asked = sum(len(replica.seen) for replica in replicas)
    assert all(replica.seen for replica in replicas), "replicas side by side"
    middle, unfinished = Middle(), list[str]()
    for replica in replicas:
        replica.reply = middle.reply

    def kill() -> None:
        wait_for(lambda: middle.n_held > CONCURRENCY, 300)  # more than one actor has on its way
        unfinished.extend(path.name for path in (tmp_path / "ray").glob(".answers-*"))
        cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
        middle.over.set()

    killer = threading.Thread(target=kill)
    killer.start()
    workers = Workers(n=2, address=cluster.address)
    done = run(rows, tmp_path / "ray", method, engine="ray", workers=workers)
    killer.join()
    assert (done.n_found, done.n_sentences) == (0, N_ROWS)
    assert len(unfinished) == 2, "both nodes were making a block when one died"
    assert contents(tmp_path / "ray") == contents(tmp_path / "local")
    n_asked_on_ray = sum(len(replica.seen) for replica in replicas) - n_asked
    assert n_asked <= n_asked_on_ray <= n_asked + CONCURRENCY
    again = run(rows, tmp_path / "ray", method, engine="ray", workers=workers)
    assert again.n_found == again.n_blocks


@pytest.mark.slow
def test_parquet_comes_out_as_from_the_local_engine_and_what_fails_is_one_error(cluster, tiny_t5, tmp_path):
    """On whatever the cluster has left: the node that died is not missed."""
    lines = write_rows(tmp_path / "rows.jsonl", 10)
    rows = tmp_path / "rows.parquet"
    duckdb.sql(f"COPY (SELECT * FROM '{lines}') TO '{rows}' (FORMAT parquet)")
    method = tiny_method(checkpoint_of(tiny_t5, tmp_path / "model"))
    workers = Workers(n=1, address=cluster.address)
    run(rows, tmp_path / "local", method)
    run(rows, tmp_path / "ray", method, engine="ray", workers=workers)
    assert contents(tmp_path / "ray") == contents(tmp_path / "local")
    gone = replace(method, checkpoint=tmp_path / "gone")
    with pytest.raises(InputError, match=r"no model at .*gone on this machine") as caught:
        run(rows, tmp_path / "none", gone, engine="ray", workers=workers)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_cluster_of_our_own_listens_on_loopback_alone_and_ends_with_us(tiny_t5, tmp_path):
    rows = write_rows(tmp_path / "rows.jsonl", 8)
    method = tiny_method(checkpoint_of(tiny_t5, tmp_path / "model"))
    before = set(psutil.Process().children(recursive=True))
    started: list[psutil.Process] = []
    heard: list[str] = []

    def listen() -> None:
        started.extend(set(psutil.Process().children(recursive=True)) - before)
        for process in started:
            with contextlib.suppress(psutil.NoSuchProcess):
                sockets = process.net_connections("inet")
                heard.extend(found.laddr.ip for found in sockets if found.status == psutil.CONN_LISTEN)

    run(rows, tmp_path / "ray", method, engine="ray", workers=Workers(n=1), progress=Counter(1, listen))
    assert heard
    assert all(ipaddress.ip_address(address.removeprefix("::ffff:")).is_loopback for address in heard)
    _, left = psutil.wait_procs(started, timeout=60)
    assert left == []


@pytest.mark.parametrize(
    ("execution", "told"),
    [
        ({"base_urls": ()}, "--base-url URL, one for each vLLM replica"),
        ({"max_requests": 5}, "max_requests count in one process only"),
        ({"max_cost": 1.0}, "max_requests count in one process only"),
    ],
)
def test_an_llm_that_actors_cannot_share_is_refused_before_anything_starts(tmp_path, execution, told):
    method = tiny_method(tmp_path, urls=["http://127.0.0.1:1/v1"])
    changed = method.experiment.execution.model_copy(update=execution)
    llm = method.experiment.reason.model_copy(update={"backend": "vllm"})
    experiment = method.experiment.model_copy(update={"execution": changed, "reason": llm})
    with pytest.raises(UsageError, match=told):
        run(
            write_rows(tmp_path / "rows.jsonl", 2),
            tmp_path / "out",
            replace(method, experiment=experiment),
            engine="ray",
        )


def test_a_cluster_that_cannot_start_is_one_line_and_leaves_nothing_running(tmp_path, monkeypatch):
    import ray

    (tmp_path / "file").touch()
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / "file"))
    rows = write_rows(tmp_path / "rows.jsonl", 2)
    with pytest.raises(BackendError, match=r"^Ray could not start on this machine: [^\n]+ --engine local"):
        run(rows, tmp_path / "out", tiny_method(tmp_path), engine="ray")
    assert not ray.is_initialized()


def test_without_ray_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    rows = write_rows(tmp_path / "rows.jsonl", 2)
    with pytest.raises(UsageError, match=r"pip install 'cdner\[ray\]'"):
        run(rows, tmp_path / "out", tiny_method(tmp_path), engine="ray")
