"""Run ids of plans: pinned, so that a new setting or a new section leaves the runs that people have as they are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cdner import prompts
from cdner.config import parse_experiment
from cdner.experiment.plan import Plan, build_plan
from cdner.steps.context import import_spec
from cdner.store.runs import RunSpec
from cdner.types import Domain, Split

PINNED = Path(__file__).parent / "fixtures" / "planned_run_ids.json"
BEFORE_THEY_WERE_TOLD = (
    *("without_source", "without_all", "without_backward", "without_initial", "without_initial_and_backward"),
    *("full", "full_without_source", "llm_only", "fused", "full_fused"),
)
VARIANTS: dict[str, dict[str, dict[str, object]]] = {
    "plain": {},
    "rivals and a share": {"judge": {"candidates": "rivals", "share": 0.5, "encoder": "an-encoder"}},
    "the last epoch, grounded": {
        "train_augmented": {"select": "last"},
        "predict": {"decoding": "grounded"},
        "corpora": {"n_target_train": 20, "sample_seed": 3},
    },
    "chosen by F1": {
        "train_target": {"select": "dev_metric"},
        "backbone": {"family": "tagger"},
        "predict": {"tags": "each"},  # as it was before there was a choice
        "evidence": {"tags": "each"},
    },
}


class Named:
    """Identities that are names: nothing is read from a disk."""

    def corpus(self, domain: str, split: Split) -> RunSpec:
        return import_spec(domain, split, f"{domain}/{split}")

    def domain(self, name: str, role: str) -> Domain:
        labels = ("per", "org") if role == "source" else ("actor", "band", "city")
        return prompts.domain_from_labels(name, labels, "source" if role == "source" else "target")

    def template(self, name: str) -> str:
        return name

    def examples(self, domain: str, n_examples: int) -> str:
        return f"{n_examples} of {domain}"

    def model(self, family: str, model: str) -> str:
        return f"{family} {model}"


def plan_of(settings: tuple[str, ...], variant: str = "plain") -> Plan:
    sections = {"corpora": {}, **VARIANTS[variant]}
    sections["corpora"] = {"source": "coarse", "target": "fine", **sections["corpora"]}
    table: dict[str, object] = {"name": "e", "settings": settings, **sections}
    return build_plan(parse_experiment(table, where="test"), Named())


def ids(plan: Plan) -> dict[str, str]:
    return {step.label: step.spec.run_id for step in plan.steps}


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_runs_of_the_settings_that_there_were_keep_their_ids(variant):
    assert ids(plan_of(BEFORE_THEY_WERE_TOLD, variant)) == json.loads(PINNED.read_text())[variant]
