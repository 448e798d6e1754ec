"""The engine "ray": actors on Ray Data annotate blocks side by side, on this machine or on a cluster.

The only module that imports ray. Input, output folder and checkpoint lie on storage that every node sees under the
same path; an actor loads one model and writes its blocks itself. A block that is given out twice, because a node died
or was believed to have, is found done or written again with the same content: it is there once. No statistics are
sent; a cluster of our own has no dashboard and listens on loopback alone.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from cdner import errors
from cdner.annotate.method import Method
from cdner.annotate.source import Block
from cdner.annotate.worker import Annotator, Job, Silent, Workers
from cdner.errors import BackendError, CdnerError, UsageError
from cdner.types import Progress

MOST_TASKS = 4096  # each costs ray a millisecond or so; of more blocks, several share one
_NO_REPORTS = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "fatal"}
# Ray's own switch, whatever its name: nodes call themselves 127.0.0.1, and then every part of them binds to that alone.
_LOOPBACK_ONLY = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}


class Actor:
    """One loaded model of a worker process. What fails as expected comes back as a value: one line, no traceback."""

    def __init__(self, job: Job) -> None:
        self._annotator = Annotator(job, progress=Silent())

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Annotate a batch of one block."""
        block = Block(**{name: int(values[0]) for name, values in batch.items()})
        kind = message = ""
        try:
            self._annotator.annotate(block)
        except CdnerError as error:
            kind, message = type(error).__name__, str(error)
        return {**batch, "error_kind": [kind], "error": [message]}


def annotate_on_ray(
    job: Job, blocks: Sequence[Block], *, progress: Progress, workers: Workers
) -> Iterator[Block]:
    """Yield each block when its file is there, in any order. UsageError for an LLM that actors cannot share."""
    _check_llm(job.method)
    with _cluster(workers) as ray:
        n_actors = min(workers.n or _room(ray.cluster_resources(), workers), len(blocks))
        n_nodes = sum(bool(node["Alive"]) for node in ray.nodes())
        progress.start(f"{n_actors} actors, {n_nodes} nodes", sum(block.n_sentences for block in blocks))
        rows = ray.data.from_items(
            [asdict(block) for block in blocks], override_num_blocks=min(len(blocks), MOST_TASKS)
        ).map_batches(
            Actor,
            fn_constructor_args=(job,),
            batch_size=1,
            batch_format="numpy",
            # One task an actor: blocks take long, and what a dead node holds must wait for others to be done.
            compute=ray.data.ActorPoolStrategy(size=n_actors, max_tasks_in_flight_per_actor=1),
            num_cpus=1,
            num_gpus=workers.n_gpus,
        )
        for row in rows.iter_rows():
            if kind := row.pop("error_kind"):
                raise getattr(errors, kind)(row["error"])
            del row["error"]
            block = Block(**row)
            progress.advance(block.n_sentences)
            yield block


@contextmanager
def _cluster(workers: Workers) -> Iterator[Any]:
    """Ray, connected to the cluster at the address, or to one started on this machine that ends with us."""
    os.environ.update(_NO_REPORTS if workers.address else {**_NO_REPORTS, **_LOOPBACK_ONLY})  # read at import
    try:
        import ray
        import ray.data
    except ModuleNotFoundError as error:
        raise UsageError(
            f"--engine ray needs a package that is not installed: {error}. pip install 'cdner[ray]'."
        ) from error
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
    options = (
        {"address": workers.address} if workers.address else {"address": "local", "include_dashboard": False}
    )
    try:
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **options)
    except Exception as error:  # Ray has plain Exceptions for a node that does not start
        raise _without_cluster(workers, error) from error
    ray.data.DataContext.get_current().enable_progress_bars = False
    try:
        yield ray
    finally:
        ray.shutdown()


def _without_cluster(workers: Workers, error: Exception) -> BackendError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    if workers.address:
        return BackendError(
            f"No Ray cluster answers at '{workers.address}': {reason} "
            "Start one with 'ray start --head', or leave --ray-address off."
        )
    return BackendError(f"Ray could not start on this machine: {reason} --engine local writes the same rows.")


def _room(resources: Mapping[str, float], workers: Workers) -> int:
    """Actors that a cluster has room for."""
    n_cpus = int(resources.get("CPU", 1))
    if not workers.n_gpus:
        return max(1, n_cpus)
    return max(1, min(n_cpus, int(resources.get("GPU", 0) / workers.n_gpus)))


def _check_llm(method: Method) -> None:
    """Actors share servers; each with a server, a model or a budget of its own is what nobody wants."""
    execution = method.experiment.execution
    asked = {
        "reasoning texts": method.experiment.reason if method.asking else None,
        "verdicts": method.judge.llm if method.judge else None,
    }
    for what, llm in asked.items():
        if llm is not None and not execution.base_urls and llm.backend != "openai":
            raise UsageError(
                f"--engine ray: the {what} come from servers that all actors share: --base-url URL, one for "
                "each vLLM replica."
            )
    if any(asked.values()) and (execution.max_cost or execution.max_requests):
        raise UsageError(
            "--engine ray: execution.max_cost and execution.max_requests count in one process only."
        )
