"""Runs work in a process of its own, so that a crash, a kill, or a broken state of the GPU ends only that process.

The process is forked, so that libraries need not be imported again. The caller must not have started CUDA or torch's
threads, because they are unusable after a fork. The values that the work reports are sent back as JSON.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

_PATIENCE = 30  # seconds in which a process must end after its last report
_inside = False
Tell = Callable[[Any], None]
Work = Callable[[Tell], None]


def run_apart(work: Work, heard: Tell, *, seconds: float) -> str:
    """Calls ``heard`` with each value that ``work`` reports. Returns one line with the failure, "" if there is none."""
    forking = multiprocessing.get_context("fork")
    receiver, sender = forking.Pipe(duplex=False)
    process = forking.Process(target=_carry_out, args=(work, sender))
    process.start()
    sender.close()
    failure = None
    try:
        failure = _listen(receiver, heard, until=time.monotonic() + seconds)
    finally:
        _end(process, patient=failure is not None)
    if failure is None:
        return f"stopped after {seconds:.0f} seconds"
    return failure or _way_it_ended(process.exitcode)


def results_of(work: Work, *, seconds: float) -> list[Any]:
    """All values that the work reports. RuntimeError if it fails."""
    found: list[Any] = []
    if failure := run_apart(work, found.append, seconds=seconds):
        raise RuntimeError(failure)
    return found


def _carry_out(work: Work, sender: Connection) -> None:
    """Runs in the new process. The first process leads a group, so that it can be killed with all that it starts."""
    global _inside  # noqa: PLW0603  inherited by the processes that this one forks
    if not _inside:
        os.setpgid(0, 0)
    _inside = True

    def tell(kind: str, value: Any) -> None:
        sender.send_bytes(json.dumps([kind, value]).encode())

    try:
        work(lambda value: tell("told", value))
    except BaseException as error:  # noqa: BLE001  any error is this part's failure
        traceback.print_exc(file=sys.stderr)
        tell("failed", _one_line(error))


def _one_line(error: BaseException) -> str:
    first = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {first}"


def _listen(receiver: Connection, heard: Tell, *, until: float) -> str | None:
    """The failure as one line; "" if the part has reported everything; None if its time is over."""
    while receiver.poll(max(0.0, until - time.monotonic())):
        try:
            kind, value = json.loads(receiver.recv_bytes())
        except EOFError:
            return ""
        if kind == "failed":
            return str(value)
        heard(value)
    return None


def _end(process: Any, *, patient: bool) -> None:
    """If ``patient``, wait for the process to end; then kill it and all that it started."""
    process.join(_PATIENCE if patient else 0)
    if process.exitcode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.join()


def _way_it_ended(code: int | None) -> str:
    if not code:
        return ""
    if code > 0:
        return f"its process ended with exit code {code}"
    name = signal.Signals(-code).name
    return f"its process was ended by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
