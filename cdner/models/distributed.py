"""Training in several processes that ``accelerate launch`` or ``torchrun`` started.

Process 0, the leader, carries out the command. The others wait until it trains and then take their part of every
optimiser step; they open no store, print nothing, and write no files. While a command that does not train runs, they
wait until it has ended. Processes communicate through ``torch.distributed``: gloo between CPUs, NCCL between GPUs.
Importing this module imports no torch.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar

from cdner.errors import CdnerError, ModelError, UsageError

if TYPE_CHECKING:
    import torch

JOINING = timedelta(minutes=5)  # until all have started
PATIENCE = timedelta(days=30)  # with a living process: the leader may ask an LLM for days before it trains
_LAUNCHER = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_LED, _FAILED = (
    "cdner/led",
    "cdner/failed",
)  # keys: the leader has said why it ends; why another one has failed
T = TypeVar("T")


class LostProcessError(ModelError):
    """Another process of a shared training has ended."""


@dataclass(frozen=True, slots=True)
class Processes:
    """How many there are and which one this is."""

    rank: int = 0
    n: int = 1
    local_rank: int = 0  # on its machine: the number of its GPU
    store: Any = None  # torch's key-value store, which outlives a process as long as its launcher lives

    @property
    def leads(self) -> bool:
        return self.rank == 0


_joined = [Processes()]


def processes() -> Processes:
    """Those that ``join`` has joined; without it this one alone."""
    return _joined[0]


def several_started() -> bool:
    """Whether a launcher has started this process as one of several."""
    n = os.environ.get("WORLD_SIZE", "")
    return "RANK" in os.environ and n.isdecimal() and int(n) > 1


def alone_unawares() -> str:
    """What to tell whoever asked ``accelerate launch --cpu`` for several processes; "" where nobody did.

    It sets an address to meet at and starts one process, which nobody will meet (accelerate 1.15).
    """
    on_cpu = os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true"
    if not on_cpu or "MASTER_ADDR" not in os.environ or "RANK" in os.environ:
        return ""
    return (
        "accelerate launch --cpu starts one process, whatever --num_processes says. For several on the CPU "
        "use --multi_gpu instead of --cpu: it runs torchrun, and without GPUs the CPU is used."
    )


def run(command: Callable[[], int], take_part: Callable[[bytes], None]) -> int:
    """Execute ``command`` as the leader, or call ``take_part`` with each message of the leader until it has ended.

    Returns the exit code.
    """
    leads = os.environ["RANK"] == "0"
    # A follower leaves Ctrl-C to the leader and dies of SIGTERM without a word.
    for number, follows in ((signal.SIGINT, signal.SIG_IGN), (signal.SIGTERM, signal.SIG_DFL)):
        signal.signal(number, _interrupt if leads else follows)
    join()
    if not leads:
        return _follow(take_part)
    try:
        code = command()
    except BaseException:  # whatever it is, the caller says it
        leader_spoke()
        raise
    send(b"")
    leave()
    return code


def _interrupt(number: int, _frame: FrameType | None) -> None:
    """Once: a launcher that got a Ctrl-C, or has lost a process, sends signals to all that remain."""
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    stop = KeyboardInterrupt()
    if number == signal.SIGTERM:
        stop.add_note("The launcher ended this process; below it says which one was the first to end")
    raise stop


def _follow(take_part: Callable[[bytes], None]) -> int:
    try:
        while message := receive():
            take_part(message)
    except LostProcessError:
        if processes().rank == 1 and not has_leader_spoken():
            raise
        return 1
    except CdnerError as error:
        report_failure(str(error))
        return 1
    leave()
    return 0


def join() -> Processes:
    """Find the others, as the launcher's environment says. ModelError when they do not come.

    The environment is taken away afterwards: a program that this one starts is not one of them.
    """
    import torch
    from torch import distributed
    from torch.distributed.rendezvous import rendezvous

    try:
        store, rank, n = next(iter(rendezvous("env://", timeout=JOINING)))
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        distributed.init_process_group(backend, store=store, rank=rank, world_size=n, timeout=PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise ModelError(
            f"The processes of this training do not find each other: {_reason(error)}"
        ) from error
    _joined[0] = Processes(rank, n, int(os.environ.get("LOCAL_RANK", rank)), store)
    for name in _LAUNCHER:
        os.environ.pop(name, None)
    return processes()


def leave() -> None:
    """End the connections, after the last training."""
    from torch import distributed

    distributed.destroy_process_group()
    _joined[0] = Processes()


# --- messages -----------------------------------------------------------------------------------------------


def send(message: bytes) -> None:
    """From the leader to all others, who are in ``receive``; b"" says that there is nothing more to do."""
    import torch
    from torch import distributed

    with _connected():
        distributed.broadcast(torch.tensor([len(message)]), 0)
        if message:
            distributed.broadcast(torch.frombuffer(bytearray(message), dtype=torch.uint8), 0)


def receive() -> bytes:
    """What the leader sends next. LostProcessError when it has ended."""
    import torch
    from torch import distributed

    with _connected():
        size = torch.zeros(1, dtype=torch.long)
        distributed.broadcast(size, 0)
        message = torch.zeros(int(size), dtype=torch.uint8)
        if len(message):
            distributed.broadcast(message, 0)
        return message.numpy().tobytes()


def agree(value: str) -> None:
    """ModelError in every process unless all of them call with the same value."""
    if processes().n == 1:
        return
    import torch
    from torch import distributed

    mine = torch.frombuffer(bytearray(value.encode().ljust(64)[:64]), dtype=torch.uint8)
    leaders = mine.clone()
    differs = torch.zeros(processes().n)
    with _connected():
        distributed.broadcast(leaders, 0)
        differs[processes().rank] = float(not torch.equal(mine, leaders))
        distributed.all_reduce(differs)
    if strangers := [rank for rank, flag in enumerate(differs.tolist()) if flag]:
        raise ModelError(
            f"Process {strangers[0]} does not train what process 0 trains: other weights or another torch. "
            "All need the same files under the same paths and the same versions."
        )


def leader_spoke() -> None:
    """The leader says why it ends: nobody else need."""
    with suppress(RuntimeError):  # the store's own process may be what has ended
        processes().store.set(_LED, "1")


def has_leader_spoken() -> bool:
    """False also where the launcher, and with it the store, is gone."""
    with suppress(RuntimeError):
        return bool(processes().store.check([_LED]))
    return False


def report_failure(message: str) -> None:
    """Tell the leader why this process ends; it will find out that it has."""
    with suppress(RuntimeError):
        processes().store.set(_FAILED, f"Process {processes().rank}: {message}")


# --- sums ---------------------------------------------------------------------------------------------------


def share(batches: Sequence[list[T]]) -> list[list[T]]:
    """This process's part of the batches of one optimiser step, in batches of the same size.

    Every n-th example: they stand in order of length, so the parts take about equally long.
    """
    own = processes()
    if own.n == 1:
        return list(batches)
    size = max(map(len, batches))
    mine = [example for batch in batches for example in batch][own.rank :: own.n]
    return [mine[start : start + size] for start in range(0, len(mine), size)]


def total(value: float) -> float:
    """The sum over all processes."""
    return _sums([value])[0]


def add_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Replace each gradient by the sum over all processes; one that no process has stays None."""
    if processes().n == 1:
        return
    import torch
    from torch import distributed

    listed = list(parameters)
    n_having = _sums([float(parameter.grad is not None) for parameter in listed])
    found = [parameter for parameter, n in zip(listed, n_having, strict=True) if n]
    for parameter in found:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    with _connected():
        for work in [distributed.all_reduce(parameter.grad, async_op=True) for parameter in found]:
            work.wait()


def _sums(values: list[float]) -> list[float]:
    if processes().n == 1:
        return values
    import torch
    from torch import distributed

    summed = torch.tensor(values, dtype=torch.float64)
    with _connected():
        distributed.all_reduce(summed)
    return [float(value) for value in summed]


def own_device(kind: str, index: int | None) -> str:
    """The device of this process where the leader has one of this kind. UsageError for a GPU chosen by number."""
    if kind == "cpu":
        return kind
    if index:
        raise UsageError(
            f"--device {kind}:{index} names one GPU, but {processes().n} processes train. Leave --device out; "
            "CUDA_VISIBLE_DEVICES chooses which GPUs they take."
        )
    return f"{kind}:{processes().local_rank}"


@contextmanager
def _connected() -> Iterator[None]:
    """In here only connections can fail: the other end is gone, and says so at once."""
    try:
        yield
    except RuntimeError as error:
        with suppress(RuntimeError):
            if processes().store.check([_FAILED]):
                raise LostProcessError(processes().store.get(_FAILED).decode()) from error
        raise LostProcessError(
            f"One of the {processes().n} processes that train together has ended ({_reason(error)}). "
            "Run the same command again: it goes on after the last finished epoch."
        ) from error


def _reason(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
