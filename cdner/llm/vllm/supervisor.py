"""Ends a server process, and all it started, when the process that wanted it is gone. Run as a script.

    python supervisor.py PARENT_PID GRACE_SECONDS FOLDER COMMAND...

cdner holds the other end of stdin. Its end, however it comes (a kill -9 too), is the sign to stop: SIGTERM once, after
the grace period SIGKILL to everything. Stands alone on the standard library and knows nothing of vLLM. FOLDER, the
server's private one, is removed if the parent can do so no more. Exits with the server's code, 128 + n for signal n.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

_LOOK_SECONDS = 2.0  # a forked child of the parent may hold the pipe open: its death shows in our parent id
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_STOP = frozenset({signal.SIGTERM, signal.SIGHUP})


def main(arguments: list[str]) -> int:
    parent, grace, folder, *command = arguments
    waking = _listen_to_signals()
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)  # orphans among the server's processes become our children
    server = subprocess.Popen(  # noqa: S603
        command,
        stdin=subprocess.DEVNULL,
        process_group=0,
        preexec_fn=_end_with_parent,  # noqa: PLW1509
    )
    try:
        while server.poll() is None and _is_wanted(waking, int(parent)):
            pass
        code = _end(server, float(grace))
    finally:
        if os.getppid() != int(parent):
            shutil.rmtree(folder, ignore_errors=True)
    return code if code >= 0 else 128 - code


def _listen_to_signals() -> int:
    """File descriptor that becomes readable, with the signals' numbers, when one arrives.

    Handlers, not SIG_IGN: the server would inherit that. Ctrl-C is the parent's to answer.
    """
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing)
    for number in (signal.SIGINT, signal.SIGCHLD, *_STOP):
        signal.signal(number, lambda *_: None)
    return reading


def _is_wanted(waking: int, parent: int) -> bool:
    """Wait for something to happen; False when the server is to be ended."""
    ready, _, _ = select.select([sys.stdin, waking], [], [], _LOOK_SECONDS)
    if waking in ready and _STOP & set(os.read(waking, 64)):
        return False
    return sys.stdin not in ready and os.getppid() == parent


def _end(server: subprocess.Popen[bytes], grace: float) -> int:
    """Stop the server tidily if it lives, then kill what is left of it. Its exit code."""
    if server.poll() is None:
        server.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(grace)
    with contextlib.suppress(ProcessLookupError, PermissionError):  # an empty group, as some systems call it
        os.killpg(server.pid, signal.SIGKILL)
    code = server.wait()
    while orphans := list(_children()):
        for process in orphans:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(process, 0)
    return code


def _children() -> Iterator[int]:
    """Our children, those inherited among them; none where the system does not tell."""
    listing = Path(f"/proc/self/task/{os.getpid()}/children")
    with contextlib.suppress(OSError):
        yield from map(int, listing.read_text().split())


def _end_with_parent() -> None:
    """Between fork and exec: were this supervisor killed, the server gets SIGTERM."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
