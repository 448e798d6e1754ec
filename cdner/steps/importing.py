"""The step import: reads a demo or CrossNER corpus, checks its checksum, and stores it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import cast

from cdner.config import Label
from cdner.corpora import crossner, demo
from cdner.errors import InputError
from cdner.files import cache_root
from cdner.steps.context import Context
from cdner.steps.protocol import StepKind
from cdner.steps.step import Step
from cdner.store import corpora as stored_corpora
from cdner.types import Corpus, Split


def import_corpus(step: Step, context: Context) -> None:
    """Import one (domain, split) with a known checksum. Own corpora are imported by ``cdner import``."""
    imported = Label.of(step.label)
    name, split = imported.subject, cast(Split, imported.split)
    context.progress.start(f"import {name}/{split}", None)
    corpus = read_known_corpus(name, split, context)
    role = "source" if name == context.experiment.corpora.source else "target"
    domain = context.domain(name, role)
    stored_corpora.save_corpus(context.store, step.spec.run_id, corpus, domain)


def read_known_corpus(domain: str, split: Split, context: Context) -> Corpus:
    """A demo corpus from the package, or a CrossNER corpus from a folder or the pinned commit."""
    if (domain, split) in demo.FILES:
        return demo.read_demo(domain, split)
    if (domain, split) not in crossner.FILES:
        raise InputError(
            f"The corpus {domain}/{split} is not in the store and cdner has no source for it. "
            f"Import it: cdner import conll FILE --domain {domain} --split {split}."
        )
    folder = crossner_folder(context.corpora_from)
    if folder is None:
        folder = cache_root() / "crossner"
        crossner.fetch([domain], folder, progress=context.progress)
    return crossner.read_folder(folder, domain=domain, split=split)


def crossner_folder(asked: Path | None) -> Path | None:
    """The folder the user named (option, then ``CDNER_CORPORA``), or None: fetch."""
    if asked:
        return asked
    named = os.environ.get("CDNER_CORPORA")
    return Path(named) if named else None


KIND = StepKind("import", 1, import_corpus)
