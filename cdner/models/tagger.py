"""Taggers: encoders (BERT, MPNet, DeBERTa ...) with a linear head that gives each word a BIO tag.

A word's tag is learned and read at its first sub-token. A reasoning text is read as the second segment of a pair. The
tokenizer says which special tokens surround the segments (``[CLS] a [SEP] b [SEP]``, ``<s> a </s></s> b </s>``). The
labels are in the checkpoint's config (``id2label``), as for any token classification model of transformers.

Entities come from the most probable sequence of tags that is valid BIO, in which I-t follows only B-t or I-t (Viterbi
1967). A model trained on few examples is often sure of a span and not of its type; the most probable tag of each word
alone then breaks the span where the type changes ("B-person I-researcher").

The probabilities over types of an entity: for a word w of its span and a type t, q_t(w) = P(B-t at w) + P(I-t at w);
the score of t is the mean of log q_t(w) over the words of the span; the softmax of the scores over the domain's types
is the distribution. It is conditional on the span being an entity, so P(O) has no part in it. Its most probable type
can differ from the entity's type.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cdner.config import BackboneChoice, Training
from cdner.errors import InputError, InputTooLongError, ModelError
from cdner.models.embedding import Spans, mean, span_means, stacked
from cdner.models.generation import batches
from cdner.models.inputs import LONGEST_RELATIVE, SEPARATOR, Budget, InputEncoder, WordEncoder
from cdner.models.loading import LoadedModel, load
from cdner.models.trainable import EncodedExample
from cdner.spans import bio_to_entities, entities_to_bio
from cdner.types import Entity, FloatArray, ModelInput, Sentence, Tagging, TaggingExample

Distribution = Mapping[str, float]  # every type of the domain -> probability, sum 1
_Part = tuple[tuple[int, int], ...]  # (id, token type) of each special token
OUTSIDE = "O"
_MAX_BATCH_TOKENS = 1 << 14  # rows x longest, without gradients
_EMBED_ROWS = 32


class TaggerBackbone:
    """``cdner.types.Tagger``; trained by ``cdner.models.training.fit``."""

    def __init__(self, loaded: LoadedModel) -> None:
        self.model = loaded.model
        self.tokenizer = loaded.tokenizer
        self.device = loaded.device
        self.dtype = loaded.dtype
        self.choice = loaded.choice
        self.max_input_tokens = loaded.max_input_tokens
        self.head = head_name(self.model)
        self._words = WordEncoder(self.tokenizer)
        self._inputs = TaggerInputs(self.tokenizer, self.model)

    @property
    def types(self) -> tuple[str, ...]:
        """The types of its head, in the order of its labels; empty for an encoder without a head."""
        return types_of(self.model.config)

    @property
    def window(self) -> int:
        return self._inputs.window

    # --- prediction ---------------------------------------------------------------------------------------

    def tag(
        self,
        sentences: Sequence[Sentence],
        texts: Sequence[ModelInput],
        *,
        types: Sequence[str],
        each: bool = False,
        batch_size: int,
    ) -> Iterator[tuple[int, Tagging]]:
        """Yields (index into sentences, tagging), the longest sentences first.

        The module's docstring says how tags and the probabilities over types are computed.
        """
        if set(types) != set(self.types):
            known = f"for the types {', '.join(self.types)}" if self.types else "for no types"
            raise ModelError(
                f"The tagger '{self.model.name_or_path}' is trained {known}, not for {', '.join(types)}. "
                "Train it for them first."
            )
        read = [
            self._inputs.encode(sentence, text, soft=self.max_input_tokens, index=index)
            for index, (sentence, text) in enumerate(zip(sentences, texts, strict=True))
        ]
        return self._tagged(read, types=types, each=each, batch_size=batch_size)

    def _tagged(
        self, read: Sequence[TaggerInput], *, types: Sequence[str], each: bool, batch_size: int
    ) -> Iterator[tuple[int, Tagging]]:
        labels = _labels(self.model.config)
        for batch in batches([len(one.ids) for one in read], batch_size, _MAX_BATCH_TOKENS):
            with torch.inference_mode():
                found = self._scores([read[index] for index in batch])
                scores = [rows.double().log_softmax(-1).cpu().numpy() for rows in found]
            for index, log_probabilities in zip(batch, scores, strict=True):
                entities, probabilities, n_orphans = read_tags(log_probabilities, labels, types, each=each)
                yield (
                    index,
                    Tagging(
                        entities=entities,
                        type_probabilities=probabilities,
                        n_orphans=n_orphans,
                        n_input_tokens=len(read[index].ids),
                        n_truncated_tokens=read[index].n_truncated,
                    ),
                )

    # --- embedding ----------------------------------------------------------------------------------------

    def embed(self, texts: Sequence[str]) -> FloatArray:
        """(n, d) means of the last hidden layer over each text's tokens, without special tokens.

        A text longer than the window is read in consecutive pieces; nothing is cut off.
        """
        plain = InputEncoder(self.tokenizer)
        hidden = self._hidden([plain.encode_text(text) for text in texts])
        return stacked([mean(states) for states in hidden], size=self.model.config.hidden_size)

    def embed_spans(
        self, sentences: Sequence[Sentence], spans: Sequence[Spans]
    ) -> tuple[FloatArray, FloatArray]:
        """As in ``cdner.types.Encoder``; tokens as in ``embed``."""
        words = [self._words.encode(sentence.tokens) for sentence in sentences]
        hidden = self._hidden([tokens.ids for tokens in words])
        return span_means(words, hidden, spans, size=self.model.config.hidden_size)

    def _hidden(self, rows: Sequence[Sequence[int]]) -> list[Tensor]:
        """For each row of ids without special tokens its (tokens, d) last hidden states; batches are by length."""
        pieces = [(number, piece) for number, ids in enumerate(rows) for piece in self._inputs.pieces(ids)]
        found: dict[int, Tensor] = {}
        with torch.inference_mode():
            lengths = [len(piece.ids) for _, piece in pieces]
            for batch in batches(lengths, _EMBED_ROWS, _MAX_BATCH_TOKENS):
                inputs = self._padded([pieces[index][1] for index in batch])
                states = self.model.base_model(**inputs).last_hidden_state
                for row, index in enumerate(batch):
                    found[index] = states[row, list(pieces[index][1].positions)]
        size = self.model.config.hidden_size
        joined: list[list[Tensor]] = [
            [torch.zeros(0, size, dtype=self.dtype, device=self.device)] for _ in rows
        ]
        for index, (number, _) in enumerate(pieces):
            joined[number].append(found[index])
        return [torch.cat(parts) for parts in joined]

    # --- training -----------------------------------------------------------------------------------------

    def prepare(self, types: Sequence[str], settings: Training) -> None:
        """Add a new head, seeded by ``settings.seed``, unless the model has a head for exactly these types."""
        if tuple(types) != self.types:
            replace_head(self.model, self.head, types, seed=settings.seed)
        self.model.requires_grad_(True)
        if settings.freeze_embeddings:
            self.model.get_input_embeddings().requires_grad_(False)

    def encode_example(
        self,
        example: TaggingExample,
        *,
        max_input_tokens: int,
        max_target_tokens: int,  # noqa: ARG002  a sentence has as many tags as words
        index: int,
    ) -> EncodedExample:
        """The pair's ids, and for each word the number of its tag and the position at which it is read."""
        read = self._inputs.encode(example.sentence, example.text, soft=max_input_tokens, index=index)
        numbers = self.model.config.label2id
        for entity in example.sentence.entities:
            if f"B-{entity.type}" not in numbers:
                known = ", ".join(self.types)
                raise InputError(f"Entity type '{entity.type}' is not one of: {known}.")
        tags = entities_to_bio(len(example.sentence.tokens), example.sentence.entities)
        return EncodedExample(
            source=read.ids,
            target=tuple(numbers[tag] for tag in tags),
            n_truncated=read.n_truncated,
            positions=read.positions,
            token_types=read.token_types,
        )

    def microbatches(self, examples: Sequence[EncodedExample]) -> Iterator[list[EncodedExample]]:
        """Split a batch into what one forward pass takes at a time, padding counted."""
        limit = 1 << 15 if self.device.type == "cuda" else 1 << 12
        group: list[EncodedExample] = []
        longest = 0
        for example in examples:
            longest = max(longest, len(example.source))
            if group and longest * (len(group) + 1) > limit:
                yield group
                group, longest = [], len(example.source)
            group.append(example)
        if group:
            yield group

    def loss_sum(self, examples: Sequence[EncodedExample]) -> Tensor:
        """Summed cross-entropy of all words' tags."""
        rows = [TaggerInput(one.source, one.positions, one.token_types, one.n_truncated) for one in examples]
        labels = torch.tensor([label for one in examples for label in one.target], device=self.device)
        logits = torch.cat(self._scores(rows))
        return torch.nn.functional.cross_entropy(logits.float(), labels, reduction="sum")

    # --- inside -------------------------------------------------------------------------------------------

    def _scores(self, rows: Sequence[TaggerInput]) -> list[Tensor]:
        """(words, labels) logits of each row."""
        logits = self.model(**self._padded(rows)).logits
        return [logits[number, list(row.positions)] for number, row in enumerate(rows)]

    def _padded(self, rows: Sequence[TaggerInput]) -> dict[str, Tensor]:
        longest = max(len(row.ids) for row in rows)
        pad = self.tokenizer.pad_token_id or 0

        def filled(values: Sequence[Sequence[int]], fill: int) -> Tensor:
            padded = [[*row, *[fill] * (longest - len(row))] for row in values]
            return torch.tensor(padded, device=self.device)

        found = {
            "input_ids": filled([row.ids for row in rows], pad),
            "attention_mask": filled([[1] * len(row.ids) for row in rows], 0),
        }
        if self._inputs.has_token_types:
            found["token_type_ids"] = filled([row.token_types for row in rows], 0)
        return found


def _labels(config: Any) -> list[str]:
    return [str(config.id2label[number]) for number in range(len(config.id2label))]


class TokenClassifier:
    """``AutoModelForTokenClassification`` that also opens an encoder without a head over tags."""

    @staticmethod
    def from_pretrained(folder: str, **options: Any) -> tuple[Any, dict[str, Any]]:
        """The model and transformers' report. ValueError if it has no head that can be replaced.

        A head whose weights are missing is new: its labels are not types, and the report does not name it.
        """
        from transformers import AutoModelForTokenClassification

        model, report = AutoModelForTokenClassification.from_pretrained(folder, **options)
        inside_head = f"{head_name(model)}."
        missing = [name for name in report["missing_keys"] if not name.startswith(inside_head)]
        if len(missing) < len(report["missing_keys"]):
            _name_labels(model, [f"LABEL_{number}" for number in range(model.config.num_labels)])
        return model, {**report, "missing_keys": missing}


def head_name(model: Any) -> str:
    """Name of the linear layer with one output for each label. ValueError where there is not exactly one."""
    inside = f"{model.base_model_prefix}."
    found = [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear)
        and not name.startswith(inside)
        and module.out_features == model.config.num_labels
    ]
    if len(found) != 1:
        raise ValueError(f"{type(model).__name__} has {len(found)} linear layers over labels, expected one.")
    return str(found[0])


def labels_of(types: Sequence[str]) -> list[str]:
    """O, then B- and I- of each type."""
    return [OUTSIDE, *(f"{prefix}-{name}" for name in types for prefix in "BI")]


def types_of(config: Any) -> tuple[str, ...]:
    """The types of a config's BIO labels, in label order; empty if its labels are not BIO."""
    labels = [str(config.id2label[number]) for number in sorted(config.id2label)]
    types = tuple(dict.fromkeys(label[2:] for label in labels if label[:2] in ("B-", "I-")))
    return types if sorted(labels) == sorted(labels_of(types)) else ()


def replace_head(model: Any, head: str, types: Sequence[str], *, seed: int) -> None:
    """Replace ``head`` by a new layer over the tags of ``types``, initialised as transformers does.

    Its weights depend only on ``seed`` and its shape, on every device and in every process.
    """
    labels = labels_of(types)
    parent, _, name = head.rpartition(".")
    old = model.get_submodule(head)
    new = torch.nn.Linear(old.in_features, len(labels), device="meta").to_empty(device="cpu")
    chance = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        new.weight.normal_(0.0, getattr(model.config, "initializer_range", 0.02), generator=chance)
        new.bias.zero_()
    setattr(model.get_submodule(parent), name, new.to(old.weight.device, old.weight.dtype))
    _name_labels(model, labels)


def _name_labels(model: Any, labels: Sequence[str]) -> None:
    model.num_labels = len(labels)
    model.config.id2label = dict(enumerate(labels))
    model.config.label2id = {label: number for number, label in enumerate(labels)}


@dataclass(frozen=True, slots=True)
class TaggerInput:
    ids: tuple[int, ...]
    positions: tuple[int, ...]  # of the first sub-token of each word, or of each token of a piece
    token_types: tuple[int, ...]
    n_truncated: int


@dataclass(frozen=True, slots=True)
class _Frame:
    """The special tokens around one segment, or around and between two, and the token types of the segments."""

    before: _Part
    between: _Part
    after: _Part
    types: tuple[int, int]

    @property
    def n_tokens(self) -> int:
        return len(self.before) + len(self.between) + len(self.after)

    def around(self, first: Sequence[int], second: Sequence[int] = ()) -> tuple[tuple[int, int], ...]:
        own, others = (
            [(token, kind) for token in ids] for ids, kind in zip((first, second), self.types, strict=True)
        )
        return (*self.before, *own, *self.between, *others, *self.after)


class TaggerInputs:
    """Encodes the inputs of one model."""

    def __init__(self, tokenizer: Any, model: Any) -> None:
        self._texts = InputEncoder(tokenizer)
        self._words = WordEncoder(tokenizer)
        self.has_token_types = "token_type_ids" in tokenizer.model_input_names
        self._alone = _frame(tokenizer, "a")
        self._pair = _frame(tokenizer, "a", "a")
        if not self._pair.between:
            line = tuple((token, 0) for token in self._texts.encode_text(SEPARATOR))
            self._pair = _Frame(self._pair.before, line, self._pair.after, self._pair.types)
        self.window = _window(tokenizer, model)

    def encode(self, sentence: Sentence, text: ModelInput, *, soft: int | None, index: int) -> TaggerInput:
        """The sentence whole, and as much of ``text`` as fits into the window and ``soft`` tokens.

        Raises InputTooLongError, which names ``index``, if the sentence alone is longer than the window.
        """
        words = self._words.encode(sentence.tokens)
        n_alone = len(words.ids) + self._alone.n_tokens
        if n_alone > self.window:
            raise InputTooLongError(
                f"Sentence {index} has {n_alone} tokens, the model takes {self.window}. "
                "Split it, or choose a model with a longer window.",
                n_tokens=n_alone,
            )
        limit = self.window if soft is None else min(self.window, soft)
        room = max(0, limit - len(words.ids) - self._pair.n_tokens)
        kept = self._texts.encode(text, Budget(soft=room), index=index)
        frame = self._pair if kept.ids else self._alone
        ids, token_types = zip(*frame.around(words.ids, kept.ids), strict=True)
        positions = tuple(len(frame.before) + place for place in words.first)
        return TaggerInput(ids, positions, token_types, kept.n_truncated)

    def pieces(self, ids: Sequence[int]) -> Iterator[TaggerInput]:
        """Consecutive pieces of a text that fit into the window, each with special tokens around it."""
        room, skipped = self.window - self._alone.n_tokens, len(self._alone.before)
        for start in range(0, len(ids), room):
            own = ids[start : start + room]
            framed, token_types = zip(*self._alone.around(own), strict=True)
            yield TaggerInput(framed, tuple(range(skipped, skipped + len(own))), token_types, 0)


def _frame(tokenizer: Any, *segments: str) -> _Frame:
    """The special tokens that the tokenizer adds to one or two segments."""
    told = tokenizer(*segments, return_special_tokens_mask=True, return_token_type_ids=True)
    tokens = list(zip(told["input_ids"], told["token_type_ids"], strict=True))
    own = [place for place, special in enumerate(told["special_tokens_mask"]) if not special]
    inner = range(own[0], own[-1] + 1)
    return _Frame(
        before=tuple(tokens[: own[0]]),
        between=tuple(tokens[place] for place in inner if place not in own),
        after=tuple(tokens[own[-1] + 1 :]),
        types=(tokens[own[0]][1], tokens[own[-1]][1]),
    )


def _window(tokenizer: Any, model: Any) -> int:
    """Most tokens of an input, special ones counted: by config, by tokenizer and by the table of positions.

    Models of the RoBERTa kind start counting after the padding's position, so that their table is longer.
    """
    limits = [LONGEST_RELATIVE, int(tokenizer.model_max_length)]
    limits.append(getattr(model.config, "max_position_embeddings", None) or LONGEST_RELATIVE)
    for name, module in model.base_model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, torch.nn.Embedding):
            skipped = 0 if module.padding_idx is None else module.padding_idx + 1
            limits.append(module.num_embeddings - skipped)
    return min(limits)


def read_tags(
    log_probabilities: FloatArray, labels: Sequence[str], types: Sequence[str], *, each: bool
) -> tuple[tuple[Entity, ...], tuple[Distribution, ...], int]:
    """Entities of one sentence, the distribution of each, and for how many words the best tag is an orphan I-.

    ``log_probabilities`` (words, labels): natural logarithms, each row's probabilities sum to 1. ``each``: take the
    most probable tag of each word; an orphan starts an entity (``cdner.spans.bio_to_entities``).
    """
    entities, n_orphans = bio_to_entities([labels[number] for number in log_probabilities.argmax(-1)])
    if n_orphans and not each:
        entities, _ = bio_to_entities([labels[number] for number in best_sequence(log_probabilities, labels)])
    columns = [[labels.index(f"B-{name}"), labels.index(f"I-{name}")] for name in types]
    of_types: FloatArray = np.logaddexp.reduce(log_probabilities[:, columns], axis=-1)  # (words, types)
    found = tuple(_distribution(of_types[e.start : e.end], types) for e in entities)
    return entities, found, n_orphans


def best_sequence(log_probabilities: FloatArray, labels: Sequence[str]) -> NDArray[np.int64]:
    """(words,) numbers of labels: the BIO sequence with the highest sum of (words, labels) log-probabilities.

    If sums are equal, the label that comes first in ``labels`` is taken.
    """
    n_words, n_labels = log_probabilities.shape
    follows = np.array([[_may_follow(before, label) for label in labels] for before in ("O", *labels)])
    barred = np.where(follows, 0.0, -np.inf)
    best = log_probabilities[0] + barred[0]  # a sentence begins as if after an O
    came_from: NDArray[np.int64] = np.zeros((n_words, n_labels), dtype=np.int64)
    for word in range(1, n_words):
        sums = best[:, None] + barred[1:]
        came_from[word] = sums.argmax(axis=0)
        best = sums.max(axis=0) + log_probabilities[word]
    path = np.empty(n_words, dtype=np.int64)
    path[-1] = best.argmax()
    for word in range(n_words - 1, 0, -1):
        path[word - 1] = came_from[word, path[word]]
    return path


def _may_follow(before: str, label: str) -> bool:
    return not label.startswith("I-") or before in (label, f"B-{label[2:]}")


def _distribution(of_types: FloatArray, types: Sequence[str]) -> Distribution:
    scores = of_types.mean(axis=0)
    weights = np.exp(scores - scores.max())
    return dict(zip(types, (weights / weights.sum()).tolist(), strict=True))


class _Family:
    def open(
        self, choice: BackboneChoice, *, device: str = "auto", checkpoint: Path | None = None
    ) -> TaggerBackbone:
        return TaggerBackbone(load(choice, TokenClassifier, device=device, checkpoint=checkpoint))


FAMILY = _Family()
