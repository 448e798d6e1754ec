"""Examines what cdner stands on here: the machine, its packages, models, keys and the store; says how to mend it.

Every finding is one line with a state and, unless it is fine, a fix. Repairs nothing, asks no network unless told
to, loads no model. Knows nothing of how findings are printed.
"""

from __future__ import annotations

from collections.abc import Iterator

from cdner.doctor.finding import Examined, Finding

__all__ = ["Examined", "Finding", "examine"]


def examine(asked: Examined) -> Iterator[Finding]:
    """All findings, in the order in which they are best mended."""
    from cdner.doctor import access, machine, models, stored

    devices = machine.ask_torch()  # a process of its own: it takes seconds, and may crash
    yield machine.python()
    yield from machine.packages()
    yield from access.key_variables()
    yield access.base_url_variable()
    yield machine.load()
    yield machine.memory()
    yield from machine.disks(asked)
    yield from models.shelf_models()
    yield from models.hub()
    yield models.wordnet(asked)
    yield models.ct2()
    yield from models.vllm(asked)
    yield from stored.store(asked)
    yield from stored.leftovers(asked)
    yield stored.corpora_folder()
    yield from machine.torch_devices(devices)
    if asked.network:
        yield from access.servers(asked)
