"""Work in a process of its own: a crash, a kill or a GPU in a broken state ends that process and nothing else.

The process is forked, so that libraries that are imported need not be imported again. Who calls this must have started
neither CUDA nor torch's threads: a fork has them in no usable state. What the work tells comes back as JSON.
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

_PATIENCE = 30  # seconds for a process to end after its last word
_inside = False
Tell = Callable[[Any], None]
Work = Callable[[Tell], None]


def run_apart(work: Work, heard: Tell, *, seconds: float) -> str:
    """``heard`` gets what ``work`` tells as it comes. One line that says why the work failed; "" if it did not."""
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


def told(work: Work, *, seconds: float) -> list[Any]:
    """Everything the work tells. RuntimeError if it fails."""
    found: list[Any] = []
    if failure := run_apart(work, found.append, seconds=seconds):
        raise RuntimeError(failure)
    return found


def _carry_out(work: Work, sender: Connection) -> None:
    """In the new process. The first one leads a group, so that all that it starts can be ended with it."""
    global _inside  # noqa: PLW0603  said to the processes that this one forks
    if not _inside:
        os.setpgid(0, 0)
    _inside = True

    def tell(kind: str, value: Any) -> None:
        sender.send_bytes(json.dumps([kind, value]).encode())

    try:
        work(lambda value: tell("told", value))
    except BaseException as error:  # noqa: BLE001  whatever it is, it is this part's failure
        traceback.print_exc(file=sys.stderr)
        tell("failed", _one_line(error))


def _one_line(error: BaseException) -> str:
    first = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {first}"


def _listen(receiver: Connection, heard: Tell, *, until: float) -> str | None:
    """The failure as one line; "" when the part has reported everything; None when its time is over."""
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
    """Wait for it a moment, then kill it and what it started."""
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
    return f"its process was ended by {name}" + (" (for want of memory?)" if name == "SIGKILL" else "")
