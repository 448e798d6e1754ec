"""The steps describe and embed: a description of every target type (eq. 5), and its encoding by the source model.

A description is the WordNet gloss, enriched by an LLM, read from a file, or the gloss itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from cdner import prompts
from cdner.config import Describing, Experiment, Llm
from cdner.confusion.descriptions import Gloss, description_text, gloss, read_descriptions
from cdner.files import Json
from cdner.reasoning import (
    description_requests,
    parse_description,
)
from cdner.steps.asking import CUT_OFF, check_llm, complete, partial_error
from cdner.steps.context import Context
from cdner.steps.predicting import check_backbone, checkpoint_of
from cdner.steps.protocol import Defects, Questions, StepKind
from cdner.steps.step import FROM_FILE, Identities, Step, entries_identity, with_weights
from cdner.store import confusion as stored_descriptions
from cdner.store.confusion import TypeDescription
from cdner.types import Completion, Domain, Gap, ReasoningRequest

DESCRIBE_TEMPLATE = "describe.v1"
NO_LLM = "none"  # describe.backend = "none": the description C_e is the gloss itself
# A missing part is worse than an end in the middle of a sentence.
MISSING_PART, ENDS_EARLY = 2, 1


def settings(experiment: Experiment, identities: Identities, target: Domain) -> dict[str, Json]:
    """What identifies the descriptions."""
    describing = experiment.describe
    family = describing.backend if describing.backend == FROM_FILE else "llm"
    weights = identities.model(family, describing.model)
    return {
        "llm": with_weights(describing, weights),
        "weights": weights,
        "template": identities.template(DESCRIBE_TEMPLATE),
        "entries": entries_identity(target),
    }


def describe(step: Step, context: Context) -> None:
    """Store the gloss C_s from WordNet and the description C_e: from the LLM (eq. 5), from a file, or C_s itself."""
    context.progress.start(step.label)
    settings = context.experiment.describe
    target = context.domain(context.experiment.corpora.target, "target")
    glosses = {entry.name: gloss(entry) for entry in target.entries}
    if settings.backend == NO_LLM:
        rows = [TypeDescription(n, c.text, c.origin, c.text, None, "gloss") for n, c in glosses.items()]
    elif settings.backend == FROM_FILE:
        texts = read_descriptions(Path(settings.model), target).texts
        rows = [TypeDescription(n, c.text, c.origin, texts[n], None, "imported") for n, c in glosses.items()]
    else:
        rows = _described(step, context, glosses)
    stored_descriptions.save_descriptions(context.store, step.spec.run_id, target.name, rows)


def _described(step: Step, context: Context, glosses: Mapping[str, Gloss]) -> list[TypeDescription]:
    settings = context.experiment.describe
    requests = description_requests_of(context)
    answers = complete(step, context, settings, requests, defects=description_defects(settings))
    rows: list[TypeDescription] = []
    gaps = []
    for (name, found), answer in zip(glosses.items(), answers, strict=True):
        if isinstance(answer.outcome, Gap):
            gaps.append(answer.outcome)
            continue
        described = description_text(_description_of(answer.outcome, settings), found)
        origin = "gloss" if described.malformed else "llm"
        rows.append(
            TypeDescription(name, found.text, found.origin, described.text, answer.request_id, origin)
        )
    if gaps:
        raise partial_error(step, gaps, f"{len(answers)} types have no description")
    return rows


def _description_of(completion: Completion, settings: Describing) -> str:
    return parse_description(completion.text) if settings.structured else completion.text


def description_defects(settings: Describing) -> Defects:
    nothing = Gloss("", "hand")

    def defects(completion: Completion) -> int:
        is_empty = bool(description_text(_description_of(completion, settings), nothing).malformed)
        return MISSING_PART * is_empty + ENDS_EARLY * (completion.finish_reason == CUT_OFF)

    return defects


def description_requests_of(context: Context) -> tuple[ReasoningRequest, ...]:
    target = context.domain(context.experiment.corpora.target, "target")
    glosses = {entry.name: gloss(entry).text for entry in target.entries}
    template = prompts.load_template(DESCRIBE_TEMPLATE)
    return description_requests(target, glosses, template=template, settings=context.experiment.describe)


def embed(step: Step, context: Context) -> None:
    """Store H-bar of eq. 6-7: the source model's encoding of the description of every target type."""
    stored = stored_descriptions.load_descriptions(context.store, context.input_run(step, "descriptions"))
    descriptions = {item.entity_type: item.description for item in stored}
    types = context.domain(context.experiment.corpora.target, "target").types
    backbone = context.models.backbone(context.experiment.backbone, checkpoint_of(step, context, "model"))
    context.progress.start(step.label, len(types))
    vectors = backbone.embed([descriptions[entity_type] for entity_type in types])
    stored_descriptions.save_embeddings(context.store, step.spec.run_id, types, vectors)


def check_describe(step: Step, context: Context) -> None:
    target = context.domain(context.experiment.corpora.target, "target")
    for entry in target.entries:
        gloss(entry)
    if context.experiment.describe.backend == FROM_FILE:
        read_descriptions(Path(context.experiment.describe.model), target)
    check_llm(KIND, step, context)


def _llm(_step: Step, context: Context) -> Llm | None:
    llm = context.experiment.describe
    return None if llm.backend in (FROM_FILE, NO_LLM) else llm


KIND = StepKind(
    "describe",
    1,
    describe,
    check=check_describe,
    asks=Questions(
        llm=_llm,
        windows=lambda _step, context: iter([description_requests_of(context)]),
        defects=lambda _step, context: description_defects(context.experiment.describe),
        n_texts=lambda _step, context: len(context.domain(context.experiment.corpora.target, "target").types),
    ),
)
EMBED = StepKind("embed", 1, embed, check=check_backbone)
