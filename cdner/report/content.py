"""What a report says, as rows: the pipeline fetches them, the pages and tables of this package show them.

Knows neither the store nor any format. Scores and proportions are fractions in [0, 1]; published scores are in percent,
as printed. A study is an experiment with all its cells (``figure4`` of ``figure4[n_train=20,seed=0]``); axes tell its
cells apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from cdner.matrix import axes_of
from cdner.types import Corpus, Entity, ReasoningChain

SEED_AXIS = "seed"
AVERAGE = "average"  # as a domain: the mean over all
ErrorKind = Literal["type", "boundary", "missed", "spurious"]
# As the paper's equations 4, 8, 9, 10, 11, 12 and 13 name them.
DIMENSIONS: Mapping[str, str] = {
    "v_conf": "fusion (equation 13)",
    "u_hie": "hierarchy (equation 4)",
    "u_sim": "semantic similarity (equation 8)",
    "u_iml": "implicit: hierarchy and similarity (equation 9)",
    "v_iml": "implicit, softmax over the row (equation 10)",
    "R_M": "misclassification ratio on dev (equation 11)",
    "v_exl": "explicit, softmax of it (equation 12)",
}


@dataclass(frozen=True, slots=True)
class Cell:
    """The name of an experiment taken apart."""

    experiment: str
    study: str
    axes: tuple[tuple[str, str], ...]  # (axis, value) without the seed
    seed: str  # "" where the name has none


@dataclass(frozen=True, slots=True)
class Where:
    """One line of a table: seeds share it."""

    study: str
    axes: tuple[tuple[str, str], ...]  # of the matrix, without the seed; mostly empty
    domain: str
    split: str
    setting: str


@dataclass(frozen=True, slots=True)
class Score:
    """Overall scores, means over seeds; micro average, span and type must be right unless named otherwise."""

    where: Where
    n_seeds: int
    n_gold: int
    precision: float
    recall: float
    f1: float
    deviation: float | None  # sample deviation of f1 over seeds; None for one
    span_f1: float
    macro_f1: float


@dataclass(frozen=True, slots=True)
class PublishedScore:
    """A published score beside the one of ours that least forbids comparing them. In percent, as printed."""

    domain: str
    metric: str  # "F1" or "span F1"
    method: str
    year: int | None
    setting: str
    source: str
    same_source: bool  # as ours beside it
    shots: str
    backbone: str
    llm: str
    f1: float
    comparable: bool
    why_not: str  # reasons, joined by "; "
    difference: float | None  # ours - theirs where comparable
    read_in: str


@dataclass(frozen=True, slots=True)
class Difference:
    """F1 of a setting minus that of the baseline, with its 95 % interval; paired bootstrap over sentences."""

    baseline: str
    value: float
    low: float
    high: float
    p_value: float


@dataclass(frozen=True, slots=True)
class Ablation:
    """One bar: mean F1 over seeds and the 95 % interval of resampled sentences."""

    where: Where
    n_seeds: int
    f1: float
    low: float
    high: float
    difference: Difference | None  # None: it is the baseline, or there is none


@dataclass(frozen=True, slots=True)
class ErrorShare:
    """What became of the gold entities of one type ("*" = all); counts are summed over seeds."""

    where: Where
    entity_type: str
    n_gold: int
    n_misclassified: int
    n_boundary: int
    n_not_found: int
    n_spurious: int


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """Of the types given a probability in (low, high], how many are right."""

    low: float
    high: float
    n: int
    mean_probability: float
    share_right: float


@dataclass(frozen=True, slots=True)
class Reliability:
    """How far a model's probabilities mean what they say, on gold entities whose span it found; seeds together."""

    where: Where
    error: float  # expected calibration error: mean over mentions of |share right - mean probability| of their bin
    bins: tuple[ReliabilityBin, ...]  # from low to high, filled ones only

    @property
    def n_mentions(self) -> int:
        return sum(found.n for found in self.bins)


@dataclass(frozen=True, slots=True)
class VerdictShare:
    """Who is right about judged mentions whose span is right, by gold type ("*" = all); counts summed over seeds."""

    where: Where  # of the setting whose mentions are judged
    entity_type: str
    n_mentions: int
    n_both: int
    n_backbone_only: int
    n_llm_only: int
    n_neither: int


@dataclass(frozen=True, slots=True)
class FusionWeights:
    """How a fused setting weighs both opinions: names as in the table fusion_weight; means over seeds."""

    where: Where
    n_seeds: int
    weights: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Verdict:
    """The type that an LLM finds most probable for one mention."""

    start: int
    end: int
    type: str
    probability: float


@dataclass(frozen=True, slots=True)
class ConfusionMap:
    """The confusion of one quantify run in all dimensions; row i is the gold type."""

    experiment: str
    domain: str
    run_id: str
    types: tuple[str, ...]
    prefixes: tuple[str, ...]  # short name of the source type each is mostly recognised as; "" where unknown
    scores: Mapping[str, tuple[tuple[float | None, ...], ...]]  # dimension -> (K, K), None on the diagonal
    rivals: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Usage:
    """What one run asked of one LLM."""

    experiment: str
    label: str
    run_id: str
    model: str  # backend and model
    n_requests: int
    n_calls: int
    n_reused: int
    n_input_tokens: int
    cached_share: float | None
    n_output_tokens: int
    cost_usd: float | None
    wall_seconds: float | None
    n_gaps: int
    n_parse_failures: int


@dataclass(frozen=True, slots=True)
class Provenance:
    """One run: enough to ask for it again and to check that the same came out."""

    experiment: str
    label: str
    run_id: str
    status: str
    finished_utc: str
    seconds: float | None
    checksum: str  # "weights ..." or "corpus ..."; "" for steps whose run id says it all
    settings: str  # canonical JSON


@dataclass(frozen=True, slots=True)
class Model:
    """What one predict run made of a corpus, with the reasoning it read."""

    where: Where
    experiment: str
    run_id: str
    corpus: int  # index into Report.corpora
    predicted: Mapping[int, tuple[Entity, ...]]  # by position of the sentence
    reasoning: Mapping[int, ReasoningChain]
    verdicts: Mapping[int, tuple[Verdict, ...]] = field(default_factory=dict)  # by position of the sentence


@dataclass(frozen=True, slots=True)
class PredictionError:
    model: int  # index into Report.models
    position: int
    kind: ErrorKind
    gold: str  # "" for a spurious entity
    predicted: str  # "" for a missed one
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Report:
    title: str
    version: str
    made_utc: str
    experiments: tuple[str, ...]
    scores: tuple[Score, ...]
    published: tuple[PublishedScore, ...]
    ablations: tuple[Ablation, ...]
    errors_per_type: tuple[ErrorShare, ...]
    maps: tuple[ConfusionMap, ...]
    usage: tuple[Usage, ...]
    provenance: tuple[Provenance, ...]
    corpora: tuple[Corpus, ...]
    models: tuple[Model, ...]
    errors: tuple[PredictionError, ...]
    reliability: tuple[Reliability, ...] = ()
    verdict_shares: tuple[VerdictShare, ...] = ()
    fusion_weights: tuple[FusionWeights, ...] = ()


def cell_of(experiment: str) -> Cell:
    """``figure4[n_train=20,seed=0]`` -> study figure4, axes n_train=20, seed 0; a name without cells is a study."""
    study, axes = axes_of(experiment)
    seed = axes.pop(SEED_AXIS, "")
    return Cell(experiment, study, tuple(axes.items()), seed)


def name_of(where: Where) -> str:
    """Which cells and sentences a line stands for: ``figure4 n_train=20, ai/test``."""
    axes = " ".join(f"{name}={value}" for name, value in where.axes)
    return f"{where.study}{' ' if axes else ''}{axes}, {where.domain}/{where.split}"
