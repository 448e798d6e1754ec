"""Experiment and step settings: strict, frozen, with every default either the paper's or stated as ours.

A settings object's ``identity()`` is what enters a run id. Where and how fast something runs (devices, concurrency,
timeouts, base URLs, keys) is in ``Execution`` and in no identity. TOML is read here and nowhere else.

Knows nothing of plans or runs.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from cdner.errors import UsageError
from cdner.files import Json
from cdner.foreign_settings import mark_base_urls, refuse_programs

Setting = Literal[
    "without_source",
    "without_all",
    "without_backward",
    "without_initial",
    "without_initial_and_backward",
    "full",
    "full_without_source",  # full's reasoning texts, but no training on source (figure 4)
    "llm_only",  # no backbone: the LLM's own entities (table 7)
    "fused",  # the entities of without_all, their types decided together with the LLM's verdicts
    "full_fused",  # likewise those of full
    "told",  # the LLM's verdicts on the mentions of without_all stand in the model's input as a text
    "told_fused",  # the entities of told, their types decided together with verdicts on its own mentions
]


@dataclass(frozen=True, slots=True)
class SettingParts:
    """What a setting's predictions are made from.

    At most one of ``reasoning``, ``told``, ``fused`` and ``llm_only`` is set.
    """

    trains_on_source: bool = True
    reasoning: Setting | None = None  # the setting whose reasoning texts the model reads
    told: Setting | None = (
        None  # the setting on whose mentions the verdicts are that the model reads as a text
    )
    fused: Setting | None = None  # the setting whose entities are judged and get fused types
    llm_only: bool = False  # the LLM's own entities

    @property
    def judged(self) -> Setting | None:
        """The setting on whose mentions an LLM gives verdicts."""
        return self.fused or self.told

    @property
    def reads_texts(self) -> bool:
        """Whether the setting's model reads a text about each sentence."""
        return bool(self.reasoning or self.told)

    @property
    def prediction_step(self) -> str:
        """The kind of step that makes the setting's predictions."""
        return "extract" if self.llm_only else "fuse" if self.fused else "predict"


SETTINGS: Mapping[Setting, SettingParts] = {
    "without_source": SettingParts(trains_on_source=False),
    "without_all": SettingParts(),
    "without_backward": SettingParts(reasoning="without_backward"),
    "without_initial": SettingParts(reasoning="without_initial"),
    "without_initial_and_backward": SettingParts(reasoning="without_initial_and_backward"),
    "full": SettingParts(reasoning="full"),
    "full_without_source": SettingParts(reasoning="full", trains_on_source=False),
    "llm_only": SettingParts(llm_only=True),
    "fused": SettingParts(fused="without_all"),
    "full_fused": SettingParts(fused="full"),
    "told": SettingParts(told="without_all"),
    "told_fused": SettingParts(fused="told"),
}
# Settings with reasoning texts of their own.
REASONING_SETTINGS: tuple[Setting, ...] = tuple(
    setting for setting, parts in SETTINGS.items() if parts.reasoning == setting
)
# Settings for which an LLM gives verdicts; the order is that of the help text.
JUDGED_SETTINGS: tuple[Setting, ...] = tuple(
    sorted(
        (name for name, parts in SETTINGS.items() if parts.judged), key=lambda name: not SETTINGS[name].fused
    )
)
TEXT_FAMILIES = ("causal", "seq2seq")  # backbones that write text; they have no head over tags
PREDICTION_STEPS = ("predict", "extract", "fuse")  # kinds of steps whose output is a setting's predictions


def parts_of(setting: str) -> SettingParts:
    """The parts of a setting by its name. An unknown name has those of ``without_all``."""
    return SETTINGS.get(cast(Setting, setting), SettingParts())


@dataclass(frozen=True, slots=True)
class Label:
    """The part that a run plays in an experiment: ``predict:full/test``, ``import:ai/train``, ``quantify:target``.

    ``subject``: a setting, or a domain in labels of imports. ``split``: "" in labels without one.
    """

    kind: str
    subject: str
    split: str = ""

    @classmethod
    def of(cls, text: str) -> Label:
        """Parse a label. Text that is not a label gives empty parts."""
        kind, _, rest = text.partition(":")
        subject, _, split = rest.partition("/")
        return cls(kind, subject, split)

    def __str__(self) -> str:
        return f"{self.kind}:{self.subject}" + (f"/{self.split}" if self.split else "")


PositiveInt = Annotated[int, Field(gt=0)]
NonNegativeInt = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
NonNegativeFloat = Annotated[float, Field(ge=0)]
# setting that there was -> what to do instead
REMOVED: Mapping[str, str] = {
    "execution.in_process": "vLLM runs as a server, which cdner starts and stops by itself: leave it out.",
}


class Settings(BaseModel):
    """Base of all settings: unknown keys and wrong types are refused, 1 becomes 1.0 where a float is meant."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    def identity(self) -> Json:
        return cast(Json, self.model_dump(mode="json"))


class Corpora(Settings):
    source: str = "conll2003"
    target: str = "ai"
    n_source_train: NonNegativeInt = 0  # 0 = all; otherwise a seeded sample
    n_source_dev: NonNegativeInt = 0
    n_target_train: NonNegativeInt = 0
    n_target_dev: NonNegativeInt = 0
    n_target_test: NonNegativeInt = 0
    sample_seed: NonNegativeInt = 0  # of the sample of target training sentences; all others have seed 0
    shots: NonNegativeInt = 0  # K shots of them instead of n_target_train; 0 = not few-shot
    shot_unit: Literal["mention", "sentence"] = "mention"  # K mentions of every type, or K sentences


class BackboneChoice(Settings):
    family: str = "seq2seq"
    model: str = "google/flan-t5-base"  # hub name, folder, or a name that `cdner models` lists
    revision: str = ""  # hub revision; "" = the hub's default
    dtype: Literal["auto", "bfloat16", "float32"] = (
        "auto"  # auto = bf16 where the processor has it; never fp16
    )


class Training(Settings):
    """Learning rate and batch size are the paper's (B.2); the rest is ours, the paper gives none."""

    epochs: NonNegativeInt = 10
    learning_rate: PositiveFloat = 1e-5
    batch_size: PositiveInt = 10
    gradient_accumulation: PositiveInt = 1
    warmup_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.05
    schedule: Literal["constant", "linear"] = "linear"
    weight_decay: NonNegativeFloat = 0.01
    clip_norm: PositiveFloat = 1.0
    lora_rank: NonNegativeInt = 0  # 0 = full fine-tuning
    lora_alpha: PositiveInt = 32
    select: Literal["dev_loss", "dev_metric", "last"] = "dev_loss"
    max_input_tokens: PositiveInt = 1024
    max_target_tokens: PositiveInt = 512
    seed: NonNegativeInt = 0
    # Of taggers only:
    head_rate: PositiveFloat = 1.0  # learning rate of the linear head, in multiples of learning_rate
    freeze_embeddings: bool = False  # leave the input embeddings as they are
    dropout: bool = True  # False: no dropout inside the encoder while training

    def identity(self) -> Json:
        """Without the settings of taggers at their defaults: runs made before there were taggers keep theirs."""
        dumped = self.model_dump(mode="json")
        defaults = {"head_rate": 1.0, "freeze_embeddings": False, "dropout": True}
        return cast(Json, {key: value for key, value in dumped.items() if defaults.get(key) != value})


_CT2 = "the engine 'ct2' (CTranslate2 in float32), which is gone: it was slower than torch."
_INT8 = {"ct2-int8": "int8"}  # what runs call an engine -> what it is called


class Prediction(Settings):
    decoding: Literal["free", "grounded"] = "free"
    max_new_tokens: PositiveInt = 256
    engine: Literal["torch", "int8"] = "torch"  # int8: CTranslate2; it decodes freely only
    confidence: bool = False  # also the probability of each type for every predicted entity; torch only
    # Of taggers only. sequence (auto): the most probable tags that are BIO, of a whole sentence together; each: the
    # most probable tag of each word, where an I- that continues nothing starts an entity.
    tags: Literal["auto", "sequence", "each"] = "auto"

    @classmethod
    def of_run(cls, stored: Mapping[str, Any]) -> Self:
        """From ``identity_of``: what a run does not say is what was done before there was a choice."""
        engine = stored.get("engine", "torch")
        if engine == "ct2":
            raise UsageError(f"The predictions were made with {_CT2} Make them again with --engine torch.")
        return cls.model_validate({"tags": "each", **stored, "engine": _INT8.get(engine, engine)})

    @field_validator("engine", mode="before")
    @classmethod
    def _engine_of_before(cls, engine: object) -> object:
        if engine == "ct2":
            raise ValueError(f"{_CT2} Leave it out, or say 'int8'")
        if engine == "ct2-int8":
            raise ValueError("'ct2-int8' is called 'int8' now")
        return engine

    def identity_of(self, family: str) -> Json:
        """Without ``engine`` where it is torch, ``confidence`` where there is none, ``tags`` where each is read alone.

        Runs made before there were these keep their identity. The others belong to it: int8 rounds weights. ``family``:
        of the backbone; those that write text have no tags.
        """
        dumped = self.model_dump(mode="json")
        dumped["engine"] = {now: then for then, now in _INT8.items()}.get(self.engine, self.engine)
        dumped["tags"] = "each" if family in TEXT_FAMILIES or self.tags == "each" else "sequence"
        defaults = {"engine": "torch", "confidence": False, "tags": "each"}
        return cast(Json, {key: value for key, value in dumped.items() if defaults.get(key) != value})


class Confusion(Settings):
    """alpha, beta, w0, delta: B.2. The margin of adaptive rivals is ours."""

    alpha: NonNegativeFloat = 0.5
    beta: NonNegativeFloat = 0.5
    delta: NonNegativeFloat = 1.0
    w0: PositiveFloat = 2.5
    rivals: Literal["top1", "adaptive"] = "top1"
    margin: NonNegativeFloat = 0.25  # adaptive: v_conf must exceed (1 + margin) * uniform level


class Llm(Settings):
    """Backend and model that write text; sampling is part of every request's identity."""

    backend: str = "openai"
    model: str = "gpt-4o-mini"
    max_tokens: PositiveInt = 700
    temperature: NonNegativeFloat = 0.0
    seed: NonNegativeInt = 0
    structured: bool = True  # ask for JSON by schema; False = headings
    retries: NonNegativeInt = 2  # of an answer cut off or unparsable, each with another seed

    def identity(self) -> Json:
        """Without ``retries`` when it is 0: runs made before there were retries keep their identity."""
        dumped = self.model_dump(mode="json")
        return cast(Json, {key: value for key, value in dumped.items() if (key, value) != ("retries", 0)})


class Describing(Llm):
    """A class of its own so that a ``[describe]`` table that sets one key keeps these defaults for the others."""

    max_tokens: PositiveInt = 160
    structured: bool = False


class Reasoning(Llm):
    template: str = "pbrc.v1"
    n_examples: NonNegativeInt = 10


class Extraction(Settings):
    """The LLM's own entities (setting llm_only): asked as for reasoning, which it writes before them."""

    max_tokens: NonNegativeInt = 0  # of reasoning and entities together; 0 = reason.max_tokens


_BEFORE = {"neighbours_of": "mention", "n_choosings": 1}


class Judging(Settings):
    """The LLM's verdicts: its probabilities over the types of one mention (ours, not the paper's)."""

    backend: str = ""  # "" = reason.backend
    model: str = ""  # "" = reason.model
    template: str = "judge.v1"
    definitions: bool = True  # explain the types in the prompt's fixed part
    candidates: Literal["all", "rivals"] = (
        "all"  # rivals: the predicted type and those v_conf says it is taken for
    )
    n_rivals: PositiveInt = 4
    neighbours: NonNegativeInt = (
        5  # labelled mentions or sentences of train shown with each question, nearest last
    )
    # sentence: whole sentences of train with all their mentions, the same ones for all mentions of a sentence, which is
    # shown whole: an LLM that keeps what it has read reads them once
    neighbours_of: Literal["mention", "sentence"] = "mention"
    encoder: str = "backbone"  # what finds the nearest: a model, or the source model of the experiment
    sentence_weight: NonNegativeFloat = 0.5  # cosine of mentions + this times the cosine of sentences
    words_around: PositiveInt = 20  # of the sentence, before and after the mention
    words_around_neighbour: PositiveInt = 12
    share: Annotated[float, Field(gt=0, le=1)] = (
        1.0  # of the mentions are asked about: those least sure on dev's scale
    )
    answer: Literal["name", "letter"] = "name"  # letter: for servers that give few log-probabilities
    n_choosings: PositiveInt = (
        1  # a server without log-probabilities chooses so often, at temperature 1 if repeated
    )
    seed: NonNegativeInt = 0

    @model_validator(mode="after")
    def _template_shows_sentences(self) -> Judging:
        if self.neighbours_of == "sentence" and self.template == "judge.v1":
            raise ValueError("neighbours_of = 'sentence' takes template = 'judge.v2' or a later one")
        return self

    def identity(self) -> Json:
        """What decides about the questions; the LLM and the encoder stand beside it, by their weights.

        Settings that came later are left out where they are as before, so that run ids stay what they were.
        """
        excluded = {"backend", "model", "encoder", "seed"}
        excluded |= {name for name, before in _BEFORE.items() if getattr(self, name) == before}
        return cast(Json, self.model_dump(mode="json", exclude=excluded))


class Crossfit(Settings):
    """How train is predicted by models that have not seen the sentence (ours, not the paper's)."""

    folds: Annotated[int, Field(ge=2)] = 5  # models trained; fewer where there are fewer different sentences


class Fusion(Settings):
    """How the backbone's probabilities and the verdicts become one decision; fitted on dev."""

    biases: bool = True  # one for each type
    penalty: NonNegativeFloat = 1.0  # of squared weights, per fit
    folds: Annotated[int, Field(ge=2)] = (
        5  # of dev sentences: dev itself is predicted by folds that did not see it
    )


class Capabilities(Settings):
    """How requests are put for a server that does not take all of them. In no run's identity."""

    leave_out: tuple[str, ...] = ()  # parameters, e.g. "seed"
    send: tuple[str, ...] = ()  # numbers to send instead of others, e.g. "temperature=1"
    rename: tuple[str, ...] = ()  # "max_tokens=max_completion_tokens"
    system_role: Literal["system", "developer", "user"] = (
        "system"  # user: at the head of the user's first message
    )
    response_format: Literal["json_schema", "json_object", "none"] = "json_schema"
    schema_without: tuple[str, ...] = ()  # keywords, e.g. "maxLength"
    thinking: Literal["default", "on", "off"] = "default"  # chat_template_kwargs.enable_thinking


class Execution(Settings):
    """How a run is carried out; in no run's identity."""

    device: str = "auto"
    batch_size: PositiveInt = 16  # prediction
    concurrency: PositiveInt = 8
    timeout_seconds: PositiveFloat = 120.0
    base_urls: tuple[str, ...] = ()  # OpenAI-compatible servers of the LLM, used side by side
    base_urls_from_file: bool = False  # set by cdner: such servers get no API key
    capabilities: Capabilities = Capabilities()  # beyond cdner/llm/capabilities.toml
    vllm_python: str = ""  # interpreter of the environment with vLLM; "" = this one, then the one on PATH
    vllm_args: tuple[str, ...] = ()  # handed to vLLM's server as they are
    gpu_memory: NonNegativeFloat = 0.0  # GiB for vLLM on a GPU; 0 = computed from what is free
    sleep_level: Literal[0, 1, 2] = 1  # while a backbone trains on vLLM's GPU; 0 = stop and start again
    batch: bool = False  # OpenAI's Batch API: half the price, within a day
    max_cost: NonNegativeFloat = 0.0  # US dollars one command may spend on an LLM; 0 = no limit
    max_requests: NonNegativeInt = 0  # LLM calls one command may make; 0 = no limit
    replay: bool = False  # answer every LLM request from the store; a missing one is an error
    max_gaps: NonNegativeInt = 0  # sentences an LLM may fail on for good; they stay counted as gaps


class Axis(Settings):
    """One thing that an experiment varies: each value is given to all keys at once."""

    name: str  # in the names of the cells: "table2[target=ai]"
    keys: Annotated[tuple[str, ...], Field(min_length=1)]  # "corpora.target"; several seeds may move together
    values: Annotated[tuple[str | int | float | bool | tuple[str, ...], ...], Field(min_length=1)]


class Experiment(Settings):
    name: str
    description: str = ""
    corpora: Corpora = Corpora()
    backbone: BackboneChoice = BackboneChoice()
    train_source: Training = Training()
    train_target: Training = Training()
    train_augmented: Training = Training()
    evidence: Prediction = Prediction()  # how the predictions are made that MCQM counts (R_H, R_M)
    predict: Prediction = Prediction()  # how the predictions are made that are scored
    confusion: Confusion = Confusion()
    describe: Describing = Describing()
    reason: Reasoning = Reasoning()
    extract: Extraction = Extraction()
    judge: Judging = Judging()
    crossfit: Crossfit = Crossfit()
    fuse: Fusion = Fusion()
    execution: Execution = Execution()
    settings: Annotated[tuple[Setting, ...], Field(min_length=1)] = ("without_all", "full")
    splits: Annotated[tuple[Literal["dev", "test"], ...], Field(min_length=1)] = ("dev", "test")
    vary: tuple[Axis, ...] = ()  # every combination is one cell; runs that cells share are made once

    @property
    def extracting(self) -> Reasoning:
        """How the LLM is asked for its own entities."""
        own = {"max_tokens": self.extract.max_tokens} if self.extract.max_tokens else {}
        return self.reason.model_copy(update=own)

    @property
    def judging(self) -> Llm:
        """The LLM that judges: no text is generated, so none is sampled or retried."""
        return Llm(
            backend=self.judge.backend or self.reason.backend,
            model=self.judge.model or self.reason.model,
            max_tokens=1,
            structured=False,
            retries=0,
            seed=self.judge.seed,
        )


def load_experiment(path: Path) -> Experiment:
    """Read an experiment file. ``extends = "name"`` takes the settings of name.toml beside it for what is not given.

    UsageError names the file, the line of broken TOML, or the key and the way out.
    """
    table = read_table(path)
    base = table.pop("extends", None)
    if base is not None:
        beside = path.parent / f"{base}.toml"
        if not isinstance(base, str) or beside.name != f"{base}.toml":
            raise UsageError(f"{path}: extends = {base!r} is no name of an experiment beside it.")
        extended = read_table(beside)
        if "extends" in extended:
            raise UsageError(f"{path}: extends {base}, which extends another: only one step is followed.")
        table = merged(extended, table)
    refuse_programs(table, where=str(path))
    mark_base_urls(table)
    return parse_experiment(table, where=str(path))


def read_table(path: Path) -> dict[str, object]:
    """A TOML file as it is. UsageError names the file, and the line where it is broken."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, or a NUL in its name
        raise UsageError(f"Cannot read experiment {path}: {error}.") from error
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path} is not valid TOML: {error}.") from error


def merged(base: Mapping[str, object], changes: Mapping[str, object]) -> dict[str, object]:
    """``base`` with ``changes`` on top; a section is changed key by key, everything else as a whole."""
    table = dict(base)
    for key, value in changes.items():
        below = table.get(key)
        table[key] = (
            merged(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
        )
    return table


def parse_experiment(table: dict[str, object], *, where: str) -> Experiment:
    """Validate a table as an experiment. UsageError, beginning with ``where``, for the first problem."""
    try:
        return Experiment.model_validate(_frozen(table))
    except ValidationError as error:
        raise UsageError(f"{where}: {_first_problem(error)}") from error


def _frozen(value: object) -> object:
    """TOML arrays as tuples at every depth: strict settings take no list."""
    if isinstance(value, list | tuple):
        return tuple(_frozen(part) for part in value)
    if isinstance(value, dict):
        return {key: _frozen(part) for key, part in value.items()}
    return value


def _first_problem(error: ValidationError) -> str:
    problem = error.errors()[0]
    path = [str(part) for part in problem["loc"]]
    key = ".".join(path)
    if key in REMOVED:
        return f"'{key}' is no setting any more. {REMOVED[key]}"
    if problem["type"] == "extra_forbidden":
        known = _keys_at(path[:-1])
        near = difflib.get_close_matches(path[-1], known, n=1)
        guess = f" Did you mean '{near[0]}'?" if near else ""
        return f"unknown key '{key}'.{guess} Known: {', '.join(sorted(known))}."
    if problem["type"] == "missing":  # its input is the whole table
        return f"'{key}' is missing."
    if (
        problem["type"] == "value_error"
    ):  # one of our own validators, which names the settings; its input is a table
        return f"'{key}': {problem['ctx']['error']}."
    return f"'{key}': {problem['msg']} (got {problem['input']!r})."


def _keys_at(path: list[str]) -> list[str]:
    model: type[BaseModel] = Experiment
    for part in path:
        annotation = model.model_fields[part].annotation
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        model = annotation
    return list(model.model_fields)
