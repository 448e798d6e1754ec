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

JOINING = timedelta(minutes=5)  # how long to wait until all processes have started
# How long to wait for a process that runs: the leader may query an LLM for days before it trains.
PATIENCE = timedelta(days=30)
_LAUNCHER = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
# Keys of torch's store: the leader reports its own error; why another process has failed.
_LED, _FAILED = "cdner/led", "cdner/failed"
T = TypeVar("T")


class LostProcessError(ModelError):
    """Another process of a shared training has ended."""


@dataclass(frozen=True, slots=True)
class Processes:
    """The number of processes, and which one this is."""

    rank: int = 0
    n: int = 1
    local_rank: int = 0  # on its machine: the index of its GPU
    store: Any = None  # torch's key-value store, which lives as long as the launcher

    @property
    def leads(self) -> bool:
        return self.rank == 0


_joined = [Processes()]


def processes() -> Processes:
    """The processes after ``join``; before it, this one alone."""
    return _joined[0]


def several_started() -> bool:
    """Whether a launcher started this process as one of several."""
    n = os.environ.get("WORLD_SIZE", "")
    return "RANK" in os.environ and n.isdecimal() and int(n) > 1


def single_process_warning() -> str:
    """A warning if this process was started by ``accelerate launch --cpu``; "" otherwise.

    That command sets the address for several processes and then starts only one (accelerate 1.15).
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
    # Other processes ignore Ctrl-C, which the leader handles, and end on SIGTERM without a message.
    for number, follows in ((signal.SIGINT, signal.SIG_IGN), (signal.SIGTERM, signal.SIG_DFL)):
        signal.signal(number, _interrupt if leads else follows)
    join()
    if not leads:
        return _follow(take_part)
    try:
        code = command()
    except BaseException:  # the caller reports it
        set_leader_reports_error()
        raise
    send(b"")
    leave()
    return code


def _interrupt(number: int, _frame: FrameType | None) -> None:
    """Stop at the first signal and ignore later ones: a launcher sends several when it stops or loses a process."""
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
        if processes().rank == 1 and not leader_reports_error():
            raise
        return 1
    except CdnerError as error:
        report_failure(str(error))
        return 1
    leave()
    return 0


def join() -> Processes:
    """Connect to the other processes that the launcher's environment names. ModelError if this fails.

    The environment variables are removed afterwards, so that a program started by this one does not try to join.
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
    """Close the connections after the last training."""
    from torch import distributed

    distributed.destroy_process_group()
    _joined[0] = Processes()


# --- messages -----------------------------------------------------------------------------------------------


def send(message: bytes) -> None:
    """Send from the leader to all others, which wait in ``receive``; b"" means that there is nothing more to do."""
    import torch
    from torch import distributed

    with _connected():
        distributed.broadcast(torch.tensor([len(message)]), 0)
        if message:
            distributed.broadcast(torch.frombuffer(bytearray(message), dtype=torch.uint8), 0)


def receive() -> bytes:
    """The leader's next message. LostProcessError if the leader has ended."""
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
    """Raises ModelError in every process unless all of them call it with the same value."""
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


def set_leader_reports_error() -> None:
    """Record that the leader reports its own error, so that no other process reports one."""
    with suppress(RuntimeError):  # the process of the store may have ended
        processes().store.set(_LED, "1")


def leader_reports_error() -> bool:
    """Whether the leader reports an error. False if the launcher, and with it the store, has ended."""
    with suppress(RuntimeError):
        return bool(processes().store.check([_LED]))
    return False


def report_failure(message: str) -> None:
    """Record why this process ends; the leader reads it when the connection fails."""
    with suppress(RuntimeError):
        processes().store.set(_FAILED, f"Process {processes().rank}: {message}")


# --- sums ---------------------------------------------------------------------------------------------------


def share(batches: Sequence[list[T]]) -> list[list[T]]:
    """This process's part of the batches of one optimiser step, in batches of the same size.

    Takes every n-th example. Examples are sorted by length, so the parts take about equally long.
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
    """Replace each gradient by its sum over all processes. A gradient that no process has stays None."""
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
    """The device of this process if the leader uses this kind. UsageError if a GPU is chosen by number."""
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
    """Turn the error of a connection whose other end has ended into LostProcessError, with its recorded reason."""
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
