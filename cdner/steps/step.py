"""A step of an experiment: settings and inputs, hashed to a run id, and what a plan needs to make that hash."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, cast

from cdner.config import (
    BackboneChoice,
    Experiment,
    Label,
    Llm,
    Setting,
)
from cdner.files import Json, content_hash
from cdner.models.shelf import find
from cdner.store.runs import RunSpec
from cdner.types import Domain, Split

BACKBONE_ENCODER = "backbone"  # judge.encoder: the experiment's own source model finds the nearest mentions
FROM_FILE = "file"  # describe.backend and reason.backend: texts from outside; the section's model is the path


class Identities(Protocol):
    """Identities of corpora, label sets, templates and weights, which are part of run ids."""

    def corpus(self, domain: str, split: Split) -> RunSpec: ...

    def domain(self, name: str, role: str) -> Domain: ...

    def template(self, name: str) -> str:
        """Identity (hash) of a template's text."""
        ...

    def examples(self, domain: str, n_examples: int) -> str:
        """Identity of the in-context examples used."""
        ...

    def model(self, family: str, model: str) -> str:
        """Identity of weights: the checksum of a model of the shelf or a folder, else the name."""
        ...


def with_weights(settings: BackboneChoice | Llm, weights: str) -> Json:
    """The identity of the settings, with a folder named by its content, because its path may change.

    A model of the shelf has one name in identities, whichever of its names was used.
    """
    identity = dict(cast(Mapping[str, Json], settings.identity()))
    known = find(settings.model)
    identity["model"] = known.called if known else weights
    return identity


def entries_identity(domain: Domain) -> Json:
    """Identity of a label set with its explanations, which are part of the prompts."""
    names = ("name", "short", "phrase", "lemma", "synset", "definition")
    return content_hash([[getattr(entry, name) for name in names] for entry in domain.entries])


def prompt_changes(settings: Mapping[str, Json], experiment: Experiment, identities: Identities) -> list[str]:
    """The parts of the prompt that differ from those of a reason run with these settings, by name."""
    reason, corpora = experiment.reason, experiment.corpora
    now = {
        "template": identities.template(reason.template),
        "examples": identities.examples(corpora.target, reason.n_examples),
        "source_entries": entries_identity(identities.domain(corpora.source, "source")),
        "entries": entries_identity(identities.domain(corpora.target, "target")),
    }
    return [name for name, identity in now.items() if settings[name] != identity]


@dataclass(frozen=True, slots=True)
class Step:
    """One run of the plan. ``inputs`` maps the role of an input to the label of the step that makes it."""

    label: str  # "train:full", "predict:full/test"
    kind: str
    spec: RunSpec
    inputs: Mapping[str, str]
    setting: Setting | None = None

    @property
    def split(self) -> str:
        """The split that the label names; "" for a step without one."""
        return Label.of(self.label).split

    @property
    def settings(self) -> Mapping[str, Any]:
        """The settings that the run id is a hash of."""
        return cast(Mapping[str, Any], self.spec.settings)
