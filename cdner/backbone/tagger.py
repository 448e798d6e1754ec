"""Encoders with a linear head over BIO tags (BERT, MPNet, DeBERTa ...): each word gets a tag.

A word's tag is learned and read at its first sub-token. A reasoning text is read as the second segment of a pair. The
labels are in the checkpoint's config (``id2label``), as for any token classification model of transformers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cdner.backbone.embedding import Spans, mean, span_means, stacked
from cdner.backbone.generation import batches
from cdner.backbone.inputs import InputEncoder
from cdner.backbone.loading import LoadedModel, load
from cdner.backbone.packing import EncodedExample
from cdner.backbone.tag_head import TokenClassifier, head_name, replace_head, types_of
from cdner.backbone.tag_inputs import TaggerInput, TaggerInputs
from cdner.backbone.tag_probabilities import read_tags
from cdner.backbone.words import WordEncoder
from cdner.config import BackboneChoice, Training
from cdner.errors import InputError, ModelError
from cdner.spans import entities_to_bio
from cdner.types import FloatArray, ModelInput, Sentence, Tagging, TaggingExample

_MAX_BATCH_TOKENS = 1 << 14  # rows x longest, without gradients
_EMBED_ROWS = 32


class TaggerBackbone:
    """``cdner.types.Tagger``; trained by ``cdner.backbone.training.fit``."""

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
        """The types its head knows, in the order of its labels; none for a bare encoder."""
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
        """An iterator of (index into sentences, what is found); the longest sentences come first.

        How tags and the probabilities over types are read: ``cdner.backbone.tag_probabilities``.
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
        """(n, d) mean of the last hidden layer over each text's own tokens, special tokens left out.

        A text longer than the window is read in consecutive pieces; nothing is cut.
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
        """Of each row of ids without special tokens the (tokens, d) last hidden states, in batches by length."""
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
        """A new head, seeded by ``settings.seed``, unless the model has one for just these types."""
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
        """The pair's ids, and for each word the number of its tag and where that is read."""
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


class _Family:
    def open(
        self, choice: BackboneChoice, *, device: str = "auto", checkpoint: Path | None = None
    ) -> TaggerBackbone:
        return TaggerBackbone(load(choice, TokenClassifier, device=device, checkpoint=checkpoint))


FAMILY = _Family()
