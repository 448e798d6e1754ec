"""What enters the run ids of a plan beside its settings: which corpora, label sets, templates and weights there are.

Knows the question (``Identities``), not the answer: ``cdner.steps.context`` reads it off the store and the disk.

An experiment as a list of steps with their run ids, known before anything is executed.

Pure: reads no store, opens no model. A step's run id is the hash of what was asked and of its inputs' run ids, so
two experiments that ask the same share the run, and a plan can say what is already done.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

from cdner.config import (
    FUSED_OF,
    REASONING_OF,
    TOLD_OF,
    Experiment,
    Prediction,
    Reasoning,
    Setting,
    Training,
)
from cdner.errors import UsageError
from cdner.files import Json
from cdner.prompts import checked_name
from cdner.steps.step import (
    BACKBONE_ENCODER,
    DESCRIBE_TEMPLATE,
    EXTRACT_TEMPLATE,
    FROM_FILE,
    TELL_TEMPLATE,
    Identities,
    Step,
    entries_identity,
    with_weights,
)
from cdner.store.runs import run_spec
from cdner.types import Domain, Role, Split

# Raised when a step's result changes for the same settings.
VERSIONS = {
    "train": 1,
    "predict": 1,
    "describe": 1,
    "embed": 1,
    "quantify": 1,
    "reason": 1,
    "extract": 1,
    "judge": 1,
    "crossfit": 1,
    "tell": 1,
    "fuse": 1,
    "evaluate": 1,
}
LLM_KINDS = ("describe", "reason", "extract", "judge")  # steps that ask an LLM
KINDS = ("import", *VERSIONS, "explain")  # explain is in no plan: its sentence is in no corpus


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
    settings = experiment.settings
    bases = [FUSED_OF[setting] for setting in settings if setting in FUSED_OF]
    reasoned = [setting for setting in dict.fromkeys((*settings, *bases)) if setting in REASONING_OF]
    told = [setting for setting in dict.fromkeys((*settings, *bases)) if setting in TOLD_OF]
    if "without_source" in settings:
        builder.add_train("without_source", base=None)
    needs_confusion = (
        bool(reasoned)
        or "llm_only" in settings
        or (bool(bases or told) and experiment.judge.candidates == "rivals")
    )
    if "without_all" in (*settings, *bases) or told or needs_confusion:
        builder.add_train("without_all", base="train:source")
    if needs_confusion:
        builder.add_confusion()
    for setting in reasoned:
        builder.add_all_reasoning(REASONING_OF[setting])
        builder.add_train(setting, base=None if setting == "full_without_source" else "train:source")
    for setting in told:
        builder.add_train(setting, base="train:source")
    for setting in settings:
        for split in experiment.splits:
            if setting == "llm_only":
                predictions = builder.add_extraction(split)
            elif setting in FUSED_OF:
                predictions = builder.add_fusion(setting, split)
            else:
                predictions = builder.add_prediction(setting, split)
            builder.add_evaluation(setting, split, predictions)
    steps = tuple(builder.steps.values())
    return Plan(experiment, builder.source, builder.target, steps, dict(builder.steps))


class _Builder:
    """Collects steps; a step asked for twice is one step."""

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
            kind = label.partition(":")[0]
            run_ids = tuple(self.steps[name].spec.run_id for name in inputs.values())
            asked: dict[str, Json] = {**settings, "roles": list(inputs)}
            spec = run_spec(kind, VERSIONS[kind], asked, run_ids)
            self.steps[label] = Step(label, kind, spec, dict(inputs), setting)
        return label

    def _corpus(self, domain: str, split: Split) -> str:
        label = f"import:{domain}/{split}"
        if label not in self.steps:
            self.steps[label] = Step(label, "import", self.identities.corpus(domain, split), {})
        return label

    def _model(self) -> dict[str, Json]:
        choice = self.experiment.backbone
        weights = self.identities.model(choice.family, choice.model)
        return {"backbone": with_weights(choice, weights), "weights": weights}

    def _training(self, training: Training) -> dict[str, Json]:
        """Where an epoch is chosen by its predictions, how torch makes these decides which weights are kept."""
        settings: dict[str, Json] = {"training": training.identity()}
        if training.select == "dev_metric":
            settings["predict"] = self.experiment.predict.model_copy(
                update={"engine": "torch", "confidence": False}
            ).identity_of(self.experiment.backbone.family)
        return settings

    def _add_source_model(self) -> str:
        corpora, training = self.experiment.corpora, self.experiment.train_source
        inputs = {
            "train": self._corpus(corpora.source, "train"),
            "dev": self._corpus(corpora.source, "dev"),
        }
        settings: dict[str, Json] = {
            **self._model(),
            **self._training(training),
            "types": list(self.source.types),
            "n_train": corpora.n_source_train,
            "n_dev": corpora.n_source_dev,
        }
        return self._add("train:source", settings, inputs)

    def add_train(self, setting: Setting, *, base: str | None) -> str:
        """M_tgt (no text about a sentence) or M_aug (with the setting's texts: reasoning, or told verdicts)."""
        corpora = self.experiment.corpora
        inputs: dict[str, str] = {"base": self._add_source_model()} if base else {}
        inputs["train"] = self._corpus(corpora.target, "train")
        inputs["dev"] = self._corpus(corpora.target, "dev")
        training = self.experiment.train_target
        if texts := self._texts(setting, "train"):
            training = self.experiment.train_augmented
            inputs["train_reasoning"] = texts
            if training.select != "last" and (
                dev_texts := self._texts(setting, "dev")
            ):  # else dev is not read
                inputs["dev_reasoning"] = dev_texts
        settings: dict[str, Json] = {
            **self._model(),
            **self._training(training),
            "types": list(self.target.types),
            "n_train": self._sample("train"),
            "n_dev": corpora.n_target_dev,
        }
        return self._add(f"train:{setting}", settings, inputs, setting=setting)

    def _texts(self, setting: Setting, split: Split) -> str | None:
        """The step that makes the texts which the setting's model reads; None for a model that reads none."""
        if setting in TOLD_OF:
            return self.add_telling(TOLD_OF[setting], split)
        return self.add_reasoning(REASONING_OF[setting], split) if setting in REASONING_OF else None

    def _sample(self, split: Split) -> Json:
        """What of a target split is used, as ``corpora.sampling.chosen_positions`` takes it."""
        corpora = self.experiment.corpora
        if split == "train" and corpora.shots:
            return {"shots": corpora.shots, "unit": corpora.shot_unit, "seed": corpora.sample_seed}
        if split == "train" and corpora.sample_seed and corpora.n_target_train:
            return {"n": corpora.n_target_train, "seed": corpora.sample_seed}
        counts = (corpora.n_target_train, corpora.n_target_dev, corpora.n_target_test)
        return dict(zip(("train", "dev", "test"), counts, strict=True))[split]

    def add_prediction(self, setting: Setting, split: Split) -> str:
        """Predictions of the setting's final model on a target split."""
        inputs = {
            "model": f"train:{setting}",
            "corpus": self._corpus(self.experiment.corpora.target, split),
        }
        if texts := self._texts(setting, split):
            inputs["reasoning"] = texts
        settings = self._predict_settings(self.experiment.predict, self.target, split)
        return self._add(f"predict:{setting}/{split}", settings, inputs, setting=setting)

    def _predict_settings(self, prediction: Prediction, types: Domain, split: Split) -> dict[str, Json]:
        n = self._sample(split)
        return {
            "predict": prediction.identity_of(self.experiment.backbone.family),
            "types": list(types.types),
            "n": n,
        }

    def add_extraction(self, split: Split) -> str:
        """The LLM's own entities, asked for with the whole method's prompt (table 7)."""
        if self.experiment.reason.backend == FROM_FILE:
            raise UsageError(
                "The setting 'llm_only' asks an LLM: reason.backend = 'file' has only reasoning texts."
            )
        settings: dict[str, Json] = {
            **self._reasoning_settings("full", self.experiment.extracting),
            "template": self.identities.template(EXTRACT_TEMPLATE),
            "n": self._sample(split),
        }
        inputs = {
            "confusion": "quantify:target",
            "corpus": self._corpus(self.experiment.corpora.target, split),
        }
        return self._add(f"extract:llm_only/{split}", settings, inputs, setting="llm_only")

    def add_verdicts(self, judged: Setting, split: Split) -> str:
        """The LLM's probabilities over types for every entity that a setting predicts on a split.

        On train the predictions are out of fold: there the setting's own model would find what it has learned.
        """
        judge, llm = self.experiment.judge, self.experiment.judging
        if llm.backend == FROM_FILE:
            raise UsageError("Verdicts ask an LLM: judge.backend = 'file' has only reasoning texts.")
        weights = self.identities.model("llm", llm.model)
        out_of_fold = split == "train"
        inputs = {
            "predictions": self.add_crossfit(judged) if out_of_fold else self.add_prediction(judged, split),
            "corpus": self._corpus(self.experiment.corpora.target, split),
        }
        if judge.share < 1 and split != "dev":  # what counts as unsure is learned on dev
            inputs["dev_predictions"] = self.add_prediction(judged, "dev")
        if judge.candidates == "rivals":
            inputs["confusion"] = "quantify:target"
        settings: dict[str, Json] = {
            "llm": with_weights(llm, weights),
            "weights": weights,
            "judge": judge.identity(),
            "template": self.identities.template(judge.template),
            "entries": entries_identity(self.target),
            "n": self._sample(split),
        }
        if judge.neighbours:
            inputs["train"] = self._corpus(self.experiment.corpora.target, "train")
            settings["n_train"] = self._sample("train")
            if judge.encoder == BACKBONE_ENCODER:
                inputs["encoder"] = "train:source" if "train:source" in self.steps else f"train:{judged}"
            else:
                settings["encoder"] = self.identities.model("encoder", judge.encoder)
        return self._add(f"judge:{judged}/{split}", settings, inputs, setting=judged)

    def add_crossfit(self, setting: Setting) -> str:
        """Predictions on train by models trained as the setting's is, each on the other folds' sentences."""
        trained = self.steps[f"train:{setting}"]
        settings: dict[str, Json] = {
            **cast(Mapping[str, Json], trained.spec.settings),
            "crossfit": self.experiment.crossfit.identity(),
            "predict": self.experiment.predict.identity_of(self.experiment.backbone.family),
        }
        return self._add(f"crossfit:{setting}/train", settings, trained.inputs, setting=setting)

    def add_telling(self, judged: Setting, split: Split) -> str:
        """A text for each sentence of a split that says the verdicts on a setting's mentions."""
        inputs = {
            "verdicts": self.add_verdicts(judged, split),
            "corpus": self._corpus(self.experiment.corpora.target, split),
        }
        settings: dict[str, Json] = {
            "template": self.identities.template(TELL_TEMPLATE),
            "n": self._sample(split),
        }
        return self._add(f"tell:{judged}/{split}", settings, inputs, setting=judged)

    def add_fusion(self, setting: Setting, split: Split) -> str:
        """The predictions of the judged setting with types decided by backbone and LLM together; fitted on dev."""
        judged = FUSED_OF[setting]
        inputs = {
            "predictions": self.add_prediction(judged, split),
            "verdicts": self.add_verdicts(judged, split),
            "corpus": self._corpus(self.experiment.corpora.target, split),
        }
        if split != "dev":
            inputs["dev_predictions"] = self.add_prediction(judged, "dev")
            inputs["dev_verdicts"] = self.add_verdicts(judged, "dev")
            inputs["dev"] = self._corpus(self.experiment.corpora.target, "dev")
        settings: dict[str, Json] = {
            "fuse": self.experiment.fuse.identity(),
            "types": list(self.target.types),
            "n": self._sample(split),
        }
        return self._add(f"fuse:{setting}/{split}", settings, inputs, setting=setting)

    def add_evaluation(self, setting: Setting, split: Split, predictions: str) -> str:
        inputs = {
            "predictions": predictions,
            "corpus": self._corpus(self.experiment.corpora.target, split),
        }
        return self._add(f"evaluate:{setting}/{split}", {"split": split}, inputs, setting=setting)

    def add_confusion(self) -> str:
        """R_H and R_M from predictions, descriptions and embeddings, then MCQM (3.2)."""
        target, evidence = self.experiment.corpora.target, self.experiment.evidence
        hierarchy_inputs = {"model": "train:source", "corpus": self._corpus(target, "train")}
        hierarchy = self._add(
            "predict:source/train", self._predict_settings(evidence, self.source, "train"), hierarchy_inputs
        )
        empirical = "predict:evidence/dev"
        if evidence == self.experiment.predict:
            empirical = self.add_prediction("without_all", "dev")
        else:
            inputs = {"model": "train:without_all", "corpus": self._corpus(target, "dev")}
            self._add(empirical, self._predict_settings(evidence, self.target, "dev"), inputs)
        describing = self.experiment.describe
        family = describing.backend if describing.backend == FROM_FILE else "llm"
        weights = self.identities.model(family, describing.model)
        describe = self._add(
            "describe:target",
            {
                "llm": with_weights(describing, weights),
                "weights": weights,
                "template": self.identities.template(DESCRIBE_TEMPLATE),
                "entries": entries_identity(self.target),
            },
            {},
        )
        embed = self._add("embed:target", {}, {"model": "train:source", "descriptions": describe})
        inputs = {
            "train_predictions": hierarchy,
            "train": hierarchy_inputs["corpus"],
            "dev_predictions": empirical,
            "dev": self._corpus(target, "dev"),
            "embeddings": embed,
        }
        settings: dict[str, Json] = {
            "confusion": self.experiment.confusion.identity(),
            "source_types": list(self.source.types),
            "target_types": list(self.target.types),
        }
        return self._add("quantify:target", settings, inputs)

    def add_all_reasoning(self, setting: Setting) -> None:
        """One reasoning run per split that training or prediction needs."""
        selects = self.experiment.train_augmented.select != "last"
        wanted = ("train", *(("dev",) if selects else ()), *self.experiment.splits)
        for split in cast(list[Split], list(dict.fromkeys(wanted))):
            self.add_reasoning(setting, split)

    def add_reasoning(self, setting: Setting, split: Split) -> str:
        """A text for each sentence of a split that an LLM writes (PBRC)."""
        corpus = self._corpus(self.experiment.corpora.target, split)
        settings = {**self._reasoning_settings(setting, self.experiment.reason), "n": self._sample(split)}
        inputs = {"confusion": "quantify:target", "corpus": corpus}
        if self.experiment.reason.backend == FROM_FILE:  # no prompt, so no confusion in it
            del inputs["confusion"]
        return self._add(f"reason:{setting}/{split}", settings, inputs, setting=setting)

    def _reasoning_settings(self, setting: Setting, reason: Reasoning) -> dict[str, Json]:
        if reason.backend == FROM_FILE:
            texts = self.identities.model(FROM_FILE, reason.model)
            return {"llm": {"backend": FROM_FILE, "model": texts}, "setting": setting}
        weights = self.identities.model("llm", reason.model)
        return {
            "llm": with_weights(reason, weights),
            "weights": weights,
            "setting": setting,
            "template": self.identities.template(reason.template),
            "examples": self.identities.examples(self.target.name, reason.n_examples),
            "source_entries": entries_identity(self.source),
            "entries": entries_identity(self.target),
        }


def _domain_of(name: str, role: Role, identities: Identities) -> Domain:
    """UsageError for what is no name of a domain, and for one of the other role: the paper's two are no symmetry."""
    domain = identities.domain(checked_name("domain", name), role)
    if domain.role != role:
        raise UsageError(f"corpora.{role} = '{name}', but '{name}' is a {domain.role} domain. Give another.")
    return domain
