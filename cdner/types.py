"""The nouns of cdner and the Protocols between its parts. Depends on numpy only; no method computes.

Conventions, stated once:
- an entity covers tokens ``[start, end)``, 0-based, end exclusive;
- in every ``(K, K)`` array row i is the gold type, column j the type it is taken for;
- counts start with ``n_``; a sentence's text is its tokens joined by single spaces.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
Role = Literal["source", "target"]
Split = Literal["train", "dev", "test"]


@dataclass(frozen=True, slots=True)
class TypeEntry:
    """What is known of one entity type before any model has seen it (``prompts/types/<domain>.toml``)."""

    name: str  # the corpus label, verbatim: "politicalparty"
    short: str  # the label in prompts and maps: "PER" for a source type, the name itself otherwise
    phrase: str  # as people write it: "political party"
    lemma: str  # WordNet lemma, "" when it has none
    synset: str  # pinned WordNet sense, "" when it has none
    definition: str  # our own explanation for prompts
    gloss: str = ""  # what WordNet 3.0 says of the sense; "": looked up


@dataclass(frozen=True, slots=True)
class Domain:
    """A label set in its declared order."""

    name: str
    role: Role
    entries: tuple[TypeEntry, ...]

    @property
    def types(self) -> tuple[str, ...]:
        return tuple(entry.name for entry in self.entries)


@dataclass(frozen=True, slots=True, order=True)
class Entity:
    start: int
    end: int
    type: str


@dataclass(frozen=True, slots=True)
class Sentence:
    tokens: tuple[str, ...]
    entities: tuple[Entity, ...] = ()  # sorted, disjoint

    @property
    def text(self) -> str:
        return " ".join(self.tokens)


@dataclass(frozen=True, slots=True)
class Corpus:
    domain: str
    split: Split
    sentences: tuple[Sentence, ...]
    n_repaired_tags: int = 0  # orphan I- tags read as B-
    types: tuple[str, ...] = ()  # labels in order of first appearance


# --- backbone: text to text, or tags ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of a model input. Lower ``priority`` is kept longer; 0 is never cut."""

    text: str
    priority: int = 0
    special: bool = False  # a rendered chat: special-token strings in it count; never set for corpus text


ModelInput = tuple[Segment, ...]  # read in this order; a segment equal over many inputs and first is a prefix


@dataclass(frozen=True, slots=True)
class TrainingExample:
    source: ModelInput
    target: str


@dataclass(frozen=True, slots=True)
class TaggingExample:
    """A sentence whose entities a tagger learns, and the text that it reads beside the sentence."""

    sentence: Sentence
    text: ModelInput = ()


@dataclass(frozen=True, slots=True)
class Tagging:
    """What a tagger finds in one sentence."""

    entities: tuple[Entity, ...]
    type_probabilities: tuple[Mapping[str, float], ...]  # as in ``Prediction``
    n_orphans: int  # words whose own most probable tag is an I- that continues no entity
    n_input_tokens: int
    n_truncated_tokens: int


@dataclass(frozen=True, slots=True)
class Generation:
    text: str
    n_input_tokens: int
    n_truncated_tokens: int
    n_output_tokens: int
    finish_reason: Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class EpochLog:
    epoch: int  # 1-based
    step: int  # optimiser steps so far
    train_loss: float  # mean per target token (of a tagger: per word) over the epoch
    dev_loss: float | None
    dev_metric: float | None
    seconds: float
    n_truncated_tokens: int


@dataclass(frozen=True, slots=True)
class FitResult:
    checkpoint: Path  # directory: safetensors, tokenizer, cdner.json
    epochs: tuple[EpochLog, ...]
    best_epoch: int
    weights_sha256: str


class Vocabulary(Protocol):
    """What the codec may know of a tokenizer: its pieces as text, and the round trip."""

    @property
    def pieces(self) -> Sequence[bytes | None]:
        """UTF-8 bytes each token id adds to a decoded text, indexed by id; None for special and unused ids.

        Bytes, because a byte-level piece may hold only part of a character. A sentencepiece mark of a word
        start is a space here, also where decoding drops it at the start of a text. The unknown id is None.
        """

    @property
    def unknown_id(self) -> int | None: ...

    @property
    def end_id(self) -> int: ...

    def encode(self, text: str) -> list[int]:
        """Ids without special tokens."""

    def decode(self, ids: Sequence[int]) -> str:
        """Text without special tokens."""


class TokenConstraint(Protocol):
    """One output's automaton over token ids (grounded decoding)."""

    def allowed(self) -> NDArray[np.int64]:
        """Ids that may come next; never empty, holds ``end_id`` where the output may end."""

    def advance(self, token_id: int) -> None: ...


class Progress(Protocol):
    """Where long work says how far it is, and what a user should know about its result.

    ``start`` begins a piece of work of ``total`` units (None: unknown), ``advance`` reports units done. ``warn`` says
    what was guessed, dropped or replaced; ``warnings`` are all that were said, in order.
    """

    @property
    def warnings(self) -> Sequence[str]: ...
    def start(self, label: str, total: int | None = None) -> None: ...
    def advance(self, n: int = 1, note: str = "") -> None: ...
    def warn(self, text: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Prediction:
    generated: str
    entities: tuple[Entity, ...]
    malformed: Mapping[str, int] = field(default_factory=dict)  # name of the kind -> count, zeroes left out
    # One mapping for each entity, in order: every type of the domain -> its probability for this span, sum 1.
    # Empty where the model does not say how sure it is.
    type_probabilities: tuple[Mapping[str, float], ...] = ()


@dataclass(frozen=True, slots=True, eq=False)  # arrays have no single truth value
class TransferEvidence:
    """What MCQM sees. Built by ``cdner.confusion.mcqm.transfer_evidence``, which refuses a test split."""

    source: Domain
    target: Domain
    train: Corpus
    train_predictions: tuple[Prediction, ...]  # by M_src, source types
    dev: Corpus
    dev_predictions: tuple[Prediction, ...]  # by M_tgt, target types
    description_embeddings: FloatArray  # (K, d), H-bar of eq. 7


@dataclass(frozen=True, slots=True, eq=False)
class ConfusionMatrix:
    dimension: str
    types: tuple[str, ...]
    scores: FloatArray  # (K, K); the diagonal is NaN-free and meaningless: 0

    def __post_init__(self) -> None:
        k = len(self.types)
        if self.scores.shape != (k, k):
            raise ValueError(f"{self.dimension}: scores have shape {self.scores.shape}, expected {(k, k)}")
        if not np.isfinite(self.scores).all():
            raise ValueError(f"{self.dimension}: scores must be finite")


# --- reasoning -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Message:
    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True, slots=True)
class Sampling:
    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    # Not empty: no text is written. The completion's text holds the log-probability of each choice as the next text
    # (``cdner.choices``); a last message of the assistant is continued.
    choices: tuple[str, ...] = ()
    n_choosings: int = 1  # how often a server that sends no log-probabilities is asked to choose


@dataclass(frozen=True, slots=True)
class ReasoningRequest:
    messages: tuple[Message, ...]  # everything fixed first, the sentence last
    sampling: Sampling
    schema: str | None = None  # JSON schema as canonical JSON text
    # Hears the answer piece by piece, in any thread, where the backend can tell it; from the start again if sent again.
    on_text: Callable[[str], None] | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Completion:
    text: str
    finish_reason: str  # "stop", "length", or what the backend says
    input_tokens: int
    cached_tokens: int  # of the input tokens
    output_tokens: int
    seconds: float = field(default=0.0, compare=False)  # from asking to the whole answer
    cost_usd: float | None = None  # by the price list of its day; None: no price is known
    thoughts: str = ""  # what a reasoning model wrote before its answer; never part of ``text``
    thought_tokens: int = 0  # of the output tokens, where the server says


@dataclass(frozen=True, slots=True)
class Gap:
    """A request that failed for good in this attempt; counted, stored as missing, asked again on resume."""

    reason: str


class ReasoningBackend(Protocol):
    """One LLM. ``family`` and ``model`` enter the request's identity, nothing else of a backend does."""

    @property
    def family(self) -> str: ...

    @property
    def model(self) -> str: ...

    def complete(self, requests: Sequence[ReasoningRequest]) -> Iterator[tuple[int, Completion | Gap]]:
        """Yield (index into requests, outcome) as each finishes, in any order.

        Who asks for the next outcome has stored those before it. A backend may say ``n_ready``: outcomes it yields
        next without waiting and before it sends anything more; these are stored in one transaction.
        """

    def rest(self) -> None:
        """Give up accelerator memory until the next ``complete``, which takes it again by itself."""

    def close(self) -> None:
        """Free all it holds (server processes, memory). May be called twice; nothing is asked afterwards."""


@dataclass(frozen=True, slots=True)
class ReasoningChain:
    initial: str
    bidirectional: str
    malformed: Mapping[str, int] = field(default_factory=dict)


class TextGenerator(Protocol):
    """What predicts: a text for a text. Knows nothing of entities."""

    @property
    def vocabulary(self) -> Vocabulary: ...

    def generate(
        self,
        inputs: Sequence[ModelInput],
        *,
        max_new_tokens: int,
        batch_size: int,
        constraints: Sequence[TokenConstraint] | None = None,
    ) -> Iterator[tuple[int, Generation]]:
        """Greedy. Yields (index into inputs, generation) as rows finish, in any order."""


Beginning = tuple[str, int]  # an output's text, and how many of its first characters count


class TextScorer(Protocol):
    """A generator that also says how probable it finds given texts."""

    def log_probs(
        self,
        inputs: Sequence[ModelInput],
        first: Sequence[Sequence[Beginning]],
        then: Callable[[int, Sequence[float]], Sequence[Beginning]],
        *,
        max_new_tokens: int,
    ) -> Iterator[tuple[int, tuple[float, ...]]]:
        """How probable beginnings of each input's output are, in two rounds over one reading of the input.

        ``then(index into inputs, log-probabilities of its first beginnings)`` says what is wanted; yields (index,
        log-probabilities of these), in any order. A beginning's probability is that of the tokens that end within its
        characters, after the input that ``generate`` reads with this ``max_new_tokens``; log 0 for one without a token.
        """


class Encoder(Protocol):
    """What turns texts and mentions into vectors."""

    def embed(self, texts: Sequence[str]) -> FloatArray:
        """(n, d): masked mean of the last hidden layer (eq. 6-7)."""

    def embed_spans(
        self, sentences: Sequence[Sentence], spans: Sequence[Sequence[tuple[int, int]]]
    ) -> tuple[FloatArray, FloatArray]:
        """(n_spans, d) and (n_sentences, d): masked means over each span's and over each sentence's tokens.

        ``spans[i]`` are token spans ``[start, end)`` of sentence i; their rows follow each other in this order.
        """


class Backbone(TextGenerator, Encoder, Protocol):
    """A text-to-text model that can be trained; knows nothing of entities."""


@runtime_checkable
class Tagger(Encoder, Protocol):
    """A model that finds entities by giving each word a tag. It can name no mention that is not in the sentence."""

    def tag(
        self,
        sentences: Sequence[Sentence],
        texts: Sequence[ModelInput],
        *,
        types: Sequence[str],
        each: bool,
        batch_size: int,
    ) -> Iterator[tuple[int, Tagging]]:
        """Yields (index into sentences, what it finds), in any order. ``texts[i]`` is read beside sentence i.

        The most probable tags of a whole sentence that are BIO, or with ``each`` of each word by itself.

        ModelError where it was trained for other types, InputTooLongError for a sentence longer than its window.
        """
