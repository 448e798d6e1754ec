"""An experiment as a list of steps with their run ids, known before anything is executed.

Reads no store and opens no model. A step's run id is the hash of its settings and of its inputs' run ids, so two
experiments that ask the same share the run, and a plan can say what is already done. The settings of a step are made
in its own file (``cdner.steps``); the builder here says which steps an experiment needs and what their inputs are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

from cdner.config import SETTINGS, Experiment, Label, Setting
from cdner.errors import UsageError
from cdner.files import Json
from cdner.prompts import checked_name
from cdner.steps import (
    crossfitting,
    describing,
    evaluating,
    extracting,
    fusing,
    judging,
    predicting,
    quantifying,
    reasoning,
    telling,
    training,
)
from cdner.steps.kinds import KINDS
from cdner.steps.step import BACKBONE_ENCODER, FROM_FILE, Identities, Step
from cdner.store.runs import run_spec
from cdner.types import Domain, Role, Split


@dataclass(frozen=True, slots=True)
class Plan:
    experiment: Experiment
    source: Domain
    target: Domain
    steps: tuple[Step, ...]  # every step after its inputs
    by_label: Mapping[str, Step] = field(default_factory=dict)

    def closure(self, labels: Sequence[str]) -> Plan:
        """The plan cut down to these steps and all they need."""
        wanted = set(labels)
        for step in reversed(self.steps):
            if step.label in wanted:
                wanted.update(step.inputs.values())
        kept = tuple(step for step in self.steps if step.label in wanted)
        return Plan(self.experiment, self.source, self.target, kept, self.by_label)


def build_plan(experiment: Experiment, identities: Identities) -> Plan:
    """All steps of an experiment, in an order in which each can be executed."""
    builder = _Builder(experiment, identities)
    asked_for = experiment.settings
    fused = [base for setting in asked_for if (base := SETTINGS[setting].fused)]
    trained = list(dict.fromkeys((*asked_for, *fused)))
    reasoned = [setting for setting in trained if SETTINGS[setting].reasoning]
    told = [setting for setting in trained if SETTINGS[setting].told]
    if "without_source" in asked_for:
        builder.add_train("without_source")
    needs_confusion = (
        bool(reasoned)
        or any(SETTINGS[setting].llm_only for setting in asked_for)
        or (bool(fused or told) and experiment.judge.candidates == "rivals")
    )
    if "without_all" in trained or told or needs_confusion:
        builder.add_train("without_all")
    if needs_confusion:
        builder.add_confusion()
    for setting in reasoned:
        builder.add_all_reasoning(cast(Setting, SETTINGS[setting].reasoning))
        builder.add_train(setting)
    for setting in told:
        builder.add_train(setting)
    for setting in asked_for:
        for split in experiment.splits:
            builder.add_evaluation(setting, split)
    steps = tuple(builder.steps.values())
    return Plan(experiment, builder.source, builder.target, steps, dict(builder.steps))


class _Builder:
    """Collects steps; a step that several others need is added once. Says which input each step has."""

    def __init__(self, experiment: Experiment, identities: Identities) -> None:
        self.experiment = experiment
        self.identities = identities
        self.source = _domain_of(experiment.corpora.source, "source", identities)
        self.target = _domain_of(experiment.corpora.target, "target", identities)
        self.steps: dict[str, Step] = {}

    def _add(
        self,
        label: str,
        settings: Mapping[str, Json],
        inputs: Mapping[str, str],
        *,
        setting: Setting | None = None,
    ) -> str:
        if label not in self.steps:
            kind = Label.of(label).kind
            run_ids = tuple(self.steps[name].spec.run_id for name in inputs.values())
            identified: dict[str, Json] = {**settings, "roles": list(inputs)}
            spec = run_spec(kind, KINDS[kind].version, identified, run_ids)
            self.steps[label] = Step(label, kind, spec, dict(inputs), setting)
        return label

    # --- corpora --------------------------------------------------------------------------------------------

    def _corpus(self, domain: str, split: Split) -> str:
        label = f"import:{domain}/{split}"
        if label not in self.steps:
            self.steps[label] = Step(label, "import", self.identities.corpus(domain, split), {})
        return label

    def _target(self, split: Split) -> str:
        return self._corpus(self.experiment.corpora.target, split)

    def _sample(self, split: Split) -> Json:
        """The part of a target split that is used, as ``corpora.sampling.chosen_positions`` takes it."""
        corpora = self.experiment.corpora
        if split == "train" and corpora.shots:
            return {"shots": corpora.shots, "unit": corpora.shot_unit, "seed": corpora.sample_seed}
        if split == "train" and corpora.sample_seed and corpora.n_target_train:
            return {"n": corpora.n_target_train, "seed": corpora.sample_seed}
        counts = (corpora.n_target_train, corpora.n_target_dev, corpora.n_target_test)
        return dict(zip(("train", "dev", "test"), counts, strict=True))[split]

    # --- models and their predictions -----------------------------------------------------------------------

    def _add_source_model(self) -> str:
        corpora = self.experiment.corpora
        inputs = {
            "train": self._corpus(corpora.source, "train"),
            "dev": self._corpus(corpora.source, "dev"),
        }
        settings = training.settings(
            self.experiment,
            self.identities,
            self.experiment.train_source,
            self.source.types,
            n_train=corpora.n_source_train,
            n_dev=corpora.n_source_dev,
        )
        return self._add("train:source", settings, inputs)

    def add_train(self, setting: Setting) -> str:
        """M_tgt (no text about a sentence) or M_aug (with the setting's texts: reasoning, or told verdicts)."""
        inputs = {"base": self._add_source_model()} if SETTINGS[setting].trains_on_source else {}
        inputs |= {"train": self._target("train"), "dev": self._target("dev")}
        chosen = self.experiment.train_target
        if texts := self._add_texts(setting, "train"):
            chosen = self.experiment.train_augmented
            inputs["train_reasoning"] = texts
            if chosen.select != "last" and (dev_texts := self._add_texts(setting, "dev")):
                inputs["dev_reasoning"] = dev_texts  # with "last", dev is not read
        settings = training.settings(
            self.experiment,
            self.identities,
            chosen,
            self.target.types,
            n_train=self._sample("train"),
            n_dev=self.experiment.corpora.n_target_dev,
        )
        return self._add(f"train:{setting}", settings, inputs, setting=setting)

    def _add_texts(self, setting: Setting, split: Split) -> str | None:
        """The step that makes the texts which the setting's model reads; None for a model that reads none."""
        parts = SETTINGS[setting]
        if parts.told:
            return self.add_telling(parts.told, split)
        return self.add_reasoning(parts.reasoning, split) if parts.reasoning else None

    def add_prediction(self, setting: Setting, split: Split) -> str:
        """Predictions of the setting's final model on a target split."""
        inputs = {"model": f"train:{setting}", "corpus": self._target(split)}
        if texts := self._add_texts(setting, split):
            inputs["reasoning"] = texts
        settings = predicting.settings(
            self.experiment, self.experiment.predict, self.target.types, n=self._sample(split)
        )
        return self._add(f"predict:{setting}/{split}", settings, inputs, setting=setting)

    def add_crossfit(self, setting: Setting) -> str:
        """Predictions on train by models trained as the setting's is, each on the other folds' sentences."""
        trained = self.steps[f"train:{setting}"]
        settings = crossfitting.settings(self.experiment, cast(Mapping[str, Json], trained.spec.settings))
        return self._add(f"crossfit:{setting}/train", settings, trained.inputs, setting=setting)

    def add_extraction(self, split: Split) -> str:
        """The LLM's own entities, asked for with the whole method's prompt (table 7)."""
        settings = extracting.settings(
            self.experiment, self.identities, source=self.source, target=self.target
        )
        inputs = {"confusion": "quantify:target", "corpus": self._target(split)}
        return self._add(
            f"extract:llm_only/{split}", {**settings, "n": self._sample(split)}, inputs, setting="llm_only"
        )

    def add_evaluation(self, setting: Setting, split: Split) -> str:
        """Scores of the setting's predictions."""
        if SETTINGS[setting].llm_only:
            predictions = self.add_extraction(split)
        elif SETTINGS[setting].fused:
            predictions = self.add_fusion(setting, split)
        else:
            predictions = self.add_prediction(setting, split)
        inputs = {"predictions": predictions, "corpus": self._target(split)}
        return self._add(f"evaluate:{setting}/{split}", evaluating.settings(split), inputs, setting=setting)

    # --- confusion and reasoning texts ----------------------------------------------------------------------

    def add_confusion(self) -> str:
        """R_H and R_M from predictions, descriptions and embeddings, then MCQM (3.2)."""
        evidence = self.experiment.evidence
        hierarchy = self._add(
            "predict:source/train",
            predicting.settings(self.experiment, evidence, self.source.types, n=self._sample("train")),
            {"model": "train:source", "corpus": self._target("train")},
        )
        describe = self._add(
            "describe:target", describing.settings(self.experiment, self.identities, self.target), {}
        )
        embed = self._add("embed:target", {}, {"model": "train:source", "descriptions": describe})
        inputs = {
            "train_predictions": hierarchy,
            "train": self._target("train"),
            "dev_predictions": self._add_dev_evidence(),
            "dev": self._target("dev"),
            "embeddings": embed,
        }
        settings = quantifying.settings(self.experiment, self.source, self.target)
        return self._add("quantify:target", settings, inputs)

    def _add_dev_evidence(self) -> str:
        """The predictions on dev that R_M is counted from; those of ``without_all`` where they are made alike."""
        evidence = self.experiment.evidence
        if evidence == self.experiment.predict:
            return self.add_prediction("without_all", "dev")
        return self._add(
            "predict:evidence/dev",
            predicting.settings(self.experiment, evidence, self.target.types, n=self._sample("dev")),
            {"model": "train:without_all", "corpus": self._target("dev")},
        )

    def add_all_reasoning(self, setting: Setting) -> None:
        """One reasoning run for each split that training or prediction needs."""
        selects = self.experiment.train_augmented.select != "last"
        wanted = ("train", *(("dev",) if selects else ()), *self.experiment.splits)
        for split in cast(list[Split], list(dict.fromkeys(wanted))):
            self.add_reasoning(setting, split)

    def add_reasoning(self, setting: Setting, split: Split) -> str:
        """A text for each sentence of a split that an LLM writes (PBRC)."""
        settings = reasoning.settings(
            self.identities,
            self.experiment.reason,
            setting,
            source=self.source,
            target=self.target,
        )
        inputs = {"confusion": "quantify:target", "corpus": self._target(split)}
        if self.experiment.reason.backend == FROM_FILE:  # no prompt, so no confusion in it
            del inputs["confusion"]
        return self._add(
            f"reason:{setting}/{split}", {**settings, "n": self._sample(split)}, inputs, setting=setting
        )

    # --- verdicts -------------------------------------------------------------------------------------------

    def add_verdicts(self, judged: Setting, split: Split) -> str:
        """The LLM's probabilities over types for every entity that a setting predicts on a split.

        On train the predictions are out of fold: the setting's own model has learned these sentences.
        """
        judge = self.experiment.judge
        out_of_fold = split == "train"
        inputs = {
            "predictions": self.add_crossfit(judged) if out_of_fold else self.add_prediction(judged, split),
            "corpus": self._target(split),
        }
        if judge.share < 1 and split != "dev":  # how unsure is unsure is learned on dev
            inputs["dev_predictions"] = self.add_prediction(judged, "dev")
        if judge.candidates == "rivals":
            inputs["confusion"] = "quantify:target"
        settings = judging.settings(self.experiment, self.identities, self.target)
        settings["n"] = self._sample(split)
        if judge.neighbours:
            inputs["train"] = self._target("train")
            settings["n_train"] = self._sample("train")
            if judge.encoder == BACKBONE_ENCODER:
                inputs["encoder"] = "train:source" if "train:source" in self.steps else f"train:{judged}"
        return self._add(f"judge:{judged}/{split}", settings, inputs, setting=judged)

    def add_telling(self, judged: Setting, split: Split) -> str:
        """A text for each sentence of a split that says the verdicts on a setting's mentions."""
        inputs = {"verdicts": self.add_verdicts(judged, split), "corpus": self._target(split)}
        settings = {**telling.settings(self.identities), "n": self._sample(split)}
        return self._add(f"tell:{judged}/{split}", settings, inputs, setting=judged)

    def add_fusion(self, setting: Setting, split: Split) -> str:
        """The predictions of the judged setting with types decided by backbone and LLM together; fitted on dev."""
        judged = cast(Setting, SETTINGS[setting].fused)
        inputs = {
            "predictions": self.add_prediction(judged, split),
            "verdicts": self.add_verdicts(judged, split),
            "corpus": self._target(split),
        }
        if split != "dev":
            inputs["dev_predictions"] = self.add_prediction(judged, "dev")
            inputs["dev_verdicts"] = self.add_verdicts(judged, "dev")
            inputs["dev"] = self._target("dev")
        settings = {**fusing.settings(self.experiment, self.target), "n": self._sample(split)}
        return self._add(f"fuse:{setting}/{split}", settings, inputs, setting=setting)


def _domain_of(name: str, role: Role, identities: Identities) -> Domain:
    """Raises UsageError if ``name`` is not a valid domain name, or if the domain's role is not ``role``."""
    domain = identities.domain(checked_name("domain", name), role)
    if domain.role != role:
        raise UsageError(f"corpora.{role} = '{name}', but '{name}' is a {domain.role} domain. Give another.")
    return domain
