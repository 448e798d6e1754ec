"""What enters the run ids of a plan beside its settings: which corpora, label sets, templates and weights there are.

Knows the question (``Identities``), not the answer: ``cdner.pipeline.context`` reads it off the store and the disk.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, cast

from cdner.backbone.shelf import find
from cdner.config import BackboneChoice, Experiment, Llm
from cdner.hashing import Json, content_hash
from cdner.store.runs import RunSpec
from cdner.types import Domain, Split


class Identities(Protocol):
    """What the plan must know of the world."""

    def corpus(self, domain: str, split: Split) -> RunSpec: ...

    def domain(self, name: str, role: str) -> Domain: ...

    def template(self, name: str) -> str:
        """Identity (hash) of a template's text."""
        ...

    def examples(self, domain: str, n_examples: int) -> str:
        """Identity of the in-context examples used."""
        ...

    def model(self, family: str, model: str) -> str:
        """Identity of base weights where it is more than the name (the checksum of a model of the shelf)."""
        ...


def with_weights(settings: BackboneChoice | Llm, weights: str) -> Json:
    """The settings' identity, in which a folder is named by its content: its path may change.

    A model of the shelf has one name, whichever of its names was used.
    """
    identity = dict(cast(Mapping[str, Json], settings.identity()))
    known = find(settings.model)
    identity["model"] = known.called if known else weights
    return identity


def entries_identity(domain: Domain) -> Json:
    """Identity of a label set with its explanations (they are part of what an LLM is asked)."""
    names = ("name", "short", "phrase", "lemma", "synset", "definition")
    return content_hash([[getattr(entry, name) for name in names] for entry in domain.entries])


def prompt_changes(settings: Mapping[str, Json], experiment: Experiment, identities: Identities) -> list[str]:
    """What the prompt of this experiment is made of that was another for a reason run with these settings: names."""
    reason, corpora = experiment.reason, experiment.corpora
    now = {
        "template": identities.template(reason.template),
        "examples": identities.examples(corpora.target, reason.n_examples),
        "source_entries": entries_identity(identities.domain(corpora.source, "source")),
        "entries": entries_identity(identities.domain(corpora.target, "target")),
    }
    return [name for name, identity in now.items() if settings[name] != identity]
