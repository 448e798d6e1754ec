"""Every error cdner raises on purpose, as one tree; each class carries the process's exit code.

    CdnerError                 1  expected failure: one line, no traceback
    ├── UsageError             2  wrong option, unknown name, invalid configuration
    ├── InputError             1  a file or a text that cannot be used (names file and line)
    ├── StoreError             1  the store cannot be opened, read or written
    │   ├── StoreLockedError   1  another process holds the store for too long
    │   └── RunBusyError       1  another process is executing this very run
    ├── BackendError           1  an LLM backend cannot work at all (a single failed request is a counted gap)
    ├── ModelError             1  a model cannot be loaded, trained or run
    │   └── InputTooLongError  1  a text is longer than the model's window
    └── PartialError           3  stored so far, incomplete: run again to resume

Malformed model output is not an error: it is a counted value (see ``cdner.codec``).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class CdnerError(Exception):
    """Root of the tree."""

    exit_code = 1


class UsageError(CdnerError):
    """The request itself is wrong; nothing was started."""

    exit_code = 2


class InputError(CdnerError):
    """Something that was read cannot be used."""


class StoreError(CdnerError):
    """The store cannot do what was asked."""


class StoreLockedError(StoreError):
    """Another process held the store's file lock for longer than we wait."""


class RunBusyError(StoreError):
    """Another live process is executing the run; it will be done, or free, later."""


class BackendError(CdnerError):
    """An LLM backend cannot work at all."""


class ModelError(CdnerError):
    """A model cannot be loaded, trained or run."""


class InputTooLongError(ModelError):
    """What must be kept of an input is longer than the model's window. ``n_tokens``: how long it is."""

    def __init__(self, message: str, *, n_tokens: int) -> None:
        super().__init__(message)
        self.n_tokens = n_tokens


class PartialError(CdnerError):
    """Part of the work is done and stored; running the same command again goes on from there."""

    exit_code = 3


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """The one sentence for every unknown name: what was asked, the nearest known name, all known names."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    guess = f" Did you mean '{near[0]}'?" if near else ""
    return UsageError(f"No {kind} named '{name}'.{guess} Known: {', '.join(names) or 'none'}.")
