"""The store: whether it opens, who holds it, what killed processes left, which corpora are in it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

from cdner import prompts
from cdner.corpora import crossner
from cdner.doctor.finding import Examined, Finding, ok, problem, warning
from cdner.errors import StoreError, StoreLockedError
from cdner.store import Store
from cdner.store.migrations import latest_version
from cdner.store.verify import StoreHealth, verify
from cdner.store.verify import examine as examine_store

WAIT_SECONDS = 1.0  # a transaction takes hundredths
SETTLED_SECONDS = 3600.0  # a folder that is being written is younger
SPLITS = ("train", "dev", "test")


def store(asked: Examined) -> Iterator[Finding]:
    """Opens it without migrating it; what is in it follows where it could be opened."""
    path = asked.store.resolve()
    if not path.exists():
        yield ok("store", f"none yet at {path}; the first import makes it")
        return
    try:
        health = examine_store(Store(path, wait_seconds=WAIT_SECONDS))
    except StoreLockedError as error:
        yield problem("store", _first_sentence(error), "Wait until that has finished, or end it.")
        return
    except StoreError as error:
        yield problem("store", str(error), "Name another with --store, or restore a copy of it.")
        return
    yield _schema(path, health)
    if asked.deep and health.schema_version == latest_version():
        yield _verified(path)
    yield _attempts(health)
    yield from _corpora(health)


def _schema(path: Path, health: StoreHealth) -> Finding:
    known = latest_version()
    size = path.stat().st_size / 2**20
    found = f"{path}, {size:.1f} MiB, {health.n_runs} runs, schema version {health.schema_version}"
    if health.schema_version > known:
        return problem("store", f"{found}; this cdner knows {known}", "Use a newer cdner, or another store.")
    if health.schema_version < known:
        return warning(
            "store", found, f"Nothing: the next command makes a backup and brings it to version {known}."
        )
    return ok("store", found)


def _verified(path: Path) -> Finding:
    problems = verify(Store(path))
    if not problems:
        return ok("store contents", "references, hashes and weights verified")
    first = f"{problems[0].table} {problems[0].key}: {problems[0].message}"
    return problem(
        "store contents", f"{len(problems)} problems, first: {first}", "See them all: cdner store verify"
    )


def _attempts(health: StoreHealth) -> Finding:
    if not health.abandoned:
        return ok("runs", f"{health.n_running} are being executed, none was abandoned")
    named = ", ".join(f"{step} {run_id[:8]}" for step, run_id in health.abandoned[:5])
    return warning(
        "runs",
        f"{len(health.abandoned)} were ended by a kill or crash: {named}",
        "Run the same command again: it goes on where it stopped.",
    )


def _corpora(health: StoreHealth) -> Iterator[Finding]:
    """A corpus that cdner can fetch needs no splits yet; of anyone's own all three must be there."""
    present = [domain for domain in crossner.DOMAINS if domain in health.splits]
    absent = [domain for domain in crossner.DOMAINS if domain not in health.splits]
    own = sorted(set(health.splits) - set(crossner.DOMAINS))
    found = f"CrossNER: {', '.join(present) or 'none'}; others: {', '.join(own) or 'none'}"
    if absent:
        found += f". Not imported: {', '.join(absent)} (cdner import crossner; an experiment imports what it needs)"
    yield ok("corpora", found)
    for domain in set(own) - set(prompts.domain_names()):
        missing = [split for split in SPLITS if split not in health.splits[domain]]
        if missing:
            fix = f"cdner import conll FILE --domain {domain} --split {missing[0]}"
            yield warning("corpora", f"{domain} has no {' and no '.join(missing)} split", fix)


def leftovers(asked: Examined) -> Iterator[Finding]:
    """What a killed training left beside checkpoints: its state between epochs, folders it was writing."""
    folder = asked.store.resolve().parent / "checkpoints"
    oldest = time.time() - SETTLED_SECONDS
    left = [path for path in sorted(folder.glob(".*")) if path.stat().st_mtime < oldest]
    if left:
        size = sum(file.stat().st_size for path in left for file in path.rglob("*") if file.is_file()) / 2**30
        names = ", ".join(path.name for path in left[:3])
        found = f"{len(left)} unfinished in {folder}, {size:.1f} GiB: {names}"
        fix = "Run the same command again: it uses or removes them. Deleting them loses finished epochs at most."
        yield warning("checkpoints", found, fix)
    else:
        yield ok("checkpoints", "nothing unfinished is left")


def corpora_folder() -> Finding:
    """CDNER_CORPORA, from which CrossNER is read instead of a download."""
    named = os.environ.get("CDNER_CORPORA")
    if not named:
        return ok("CDNER_CORPORA", "absent: CrossNER is fetched when it is needed")
    if not Path(named).is_dir():
        return problem(
            "CDNER_CORPORA", f"{named} is no folder", "Name the folder with the CrossNER files, or unset it."
        )
    return ok("CDNER_CORPORA", named)


def _first_sentence(error: StoreError) -> str:
    return str(error).partition(". ")[0]
