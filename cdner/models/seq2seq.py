"""Encoder-decoder models (the T5 and BART kinds): the encoder reads the input, the decoder writes the target.

T5 has relative positions only, so that memory limits its input; BART has a fixed number of positions.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cdner.config import BackboneChoice, Training
from cdner.models.embedding import Spans, mean, span_means, stacked
from cdner.models.engines import check_training
from cdner.models.generation import StopRule, outputs
from cdner.models.inputs import Budget, EncodedInput, InputEncoder, WordEncoder, seq2seq_input, seq2seq_window
from cdner.models.loading import LoadedModel, end_ids, load
from cdner.models.trainable import EncodedExample, pack
from cdner.models.trees import Forest, Input, two_rounds
from cdner.models.unpadded import MODEL_TYPES, Layout, Rows, register, unpadded
from cdner.models.vocabulary import TokenizerVocabulary
from cdner.types import (
    Beginning,
    FloatArray,
    Generation,
    ModelInput,
    Sentence,
    TokenConstraint,
    TrainingExample,
)

_MAX_BATCH_TOKENS = 1 << 15  # rows x (input + output)


class Seq2SeqBackbone:
    """``cdner.types.Backbone`` for encoder-decoder models; trained by ``cdner.models.training.fit``."""

    def __init__(self, loaded: LoadedModel) -> None:
        register()
        self.model = loaded.model
        _in_one_kernel(self.model)
        self.tokenizer = loaded.tokenizer
        self.device = loaded.device
        self.dtype = loaded.dtype
        self.choice = loaded.choice
        self.head = ""
        self.max_input_tokens = loaded.max_input_tokens
        self.window = seq2seq_window(self.model.config)
        self._relative = self.model.config.model_type in MODEL_TYPES
        self._inputs = InputEncoder(self.tokenizer)
        self._words = WordEncoder(self.tokenizer)
        self._vocabulary = TokenizerVocabulary(self.tokenizer)

    @property
    def vocabulary(self) -> TokenizerVocabulary:
        return self._vocabulary

    def generate(
        self,
        inputs: Sequence[ModelInput],
        *,
        max_new_tokens: int,
        batch_size: int,
        constraints: Sequence[TokenConstraint] | None = None,
        stop: Sequence[str] = (),
    ) -> Iterator[tuple[int, Generation]]:
        """Greedy decoding. Yields (index into inputs, generation). Raises ModelError if an input does not fit."""
        encoded = [self._encode(source, index) for index, source in enumerate(inputs)]
        ends = end_ids(self.model.generation_config, self._vocabulary.end_id)
        rule = StopRule(ends, max_new_tokens, tuple(stop), self._vocabulary.decode)
        return outputs(
            lambda batch: _Seq2SeqDecoder(self, [encoded[index].ids for index in batch]),
            encoded,
            model=self.model,
            rule=rule,
            batch_size=batch_size,
            max_tokens=_MAX_BATCH_TOKENS,
            constraints=constraints,
        )

    def log_probs(
        self,
        inputs: Sequence[ModelInput],
        first: Sequence[Sequence[Beginning]],
        then: Callable[[int, Sequence[float]], Sequence[Beginning]],
        *,
        max_new_tokens: int,  # noqa: ARG002  the output takes no room from the input
    ) -> Iterator[tuple[int, tuple[float, ...]]]:
        """See ``cdner.types.TextScorer``. Each input is encoded once."""
        sources = [self._encode(source, index).ids for index, source in enumerate(inputs)]
        start = int(self.model.config.decoder_start_token_id)
        reader = _TreeReader if self._relative else _PathReader
        return two_rounds(
            [Input(start, len(source)) for source in sources],
            lambda batch: reader(self, [sources[index] for index in batch]),
            first,
            then,
            encode=self._inputs.encode_located,
            device=self.device,
        )

    def embed(self, texts: Sequence[str]) -> FloatArray:
        """(n, d) means of the last encoder layer over each text's tokens, without its end token."""
        found = [mean(self._states(self._inputs.encode_text(text))) for text in texts]
        return stacked(found, size=self.model.config.hidden_size)

    def embed_spans(
        self, sentences: Sequence[Sentence], spans: Sequence[Spans]
    ) -> tuple[FloatArray, FloatArray]:
        """As in ``cdner.types.Encoder``; one sentence at a time."""
        words = [self._words.encode(sentence.tokens) for sentence in sentences]
        hidden = (self._states(tokens.ids) for tokens in words)
        return span_means(words, hidden, spans, size=self.model.config.hidden_size)

    def _states(self, ids: Sequence[int]) -> Tensor:
        """(tokens, d) of the last encoder layer for one text, without its end token; with it for an empty text."""
        ended = torch.tensor([[*ids, self._vocabulary.end_id]], device=self.device)
        with torch.inference_mode():
            found: Tensor = self.model.get_encoder()(input_ids=ended).last_hidden_state[0]
        return found[: max(1, len(ids))]

    def prepare(self, types: Sequence[str], settings: Training) -> None:  # noqa: ARG002  types are in the texts
        """Nothing to do. UsageError for settings of taggers."""
        check_training(settings, family=self.choice.family)

    def encode_example(
        self, example: TrainingExample, *, max_input_tokens: int, max_target_tokens: int, index: int
    ) -> EncodedExample:
        """Input and target ids, each with end token, and how many tokens the budgets cut."""
        target = self._inputs.encode_text(example.target)
        kept = target[: max_target_tokens - 1]
        budget = Budget(soft=max_input_tokens - 1, hard=None if self.window is None else self.window - 1)
        source = self._inputs.encode(example.source, budget, index=index)
        return EncodedExample(
            source=(*source.ids, self._vocabulary.end_id),
            target=(*kept, self._vocabulary.end_id),
            n_truncated=source.n_truncated + len(target) - len(kept),
        )

    def microbatches(self, examples: Sequence[EncodedExample]) -> Iterator[list[EncodedExample]]:
        """Split a batch into what one forward pass takes at a time."""
        return pack(examples, max_tokens=16384 if self.device.type == "cuda" else 4096)

    def loss_sum(self, examples: Sequence[EncodedExample]) -> Tensor:
        """Summed cross-entropy of all target tokens. A T5 computes no padding; others compute no logits for it."""
        start = self.model.config.decoder_start_token_id
        shifted = [(start, *example.target[:-1]) for example in examples]
        labels = torch.tensor([token for example in examples for token in example.target], device=self.device)
        logits = (self._unpadded if self._relative else self._padded)([e.source for e in examples], shifted)
        return torch.nn.functional.cross_entropy(logits.float(), labels, reduction="sum")

    def _unpadded(self, sources: Sequence[Sequence[int]], targets: Sequence[Sequence[int]]) -> Tensor:
        """(all target tokens, vocabulary) logits."""
        (source, source_ids), (target, target_ids) = self.in_one_row(sources), self.in_one_row(targets)
        layout = Layout(source, target)
        with unpadded(self.model, layout):
            found = self.model(
                input_ids=source_ids, decoder_input_ids=target_ids, use_cache=False, layout=layout
            )
        logits: Tensor = found.logits[0]
        return logits

    def _padded(self, sources: Sequence[Sequence[int]], targets: Sequence[Sequence[int]]) -> Tensor:
        """The same for models with absolute positions, whose rows are padded."""
        ids, mask = self.padded(sources)
        shifted, real = self.padded(targets)
        with _only(self.model.get_output_embeddings(), real.bool()):
            found = self.model(input_ids=ids, attention_mask=mask, decoder_input_ids=shifted, use_cache=False)
        logits: Tensor = found.logits
        return logits

    def padded(self, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """(rows, longest) ids, right-padded, and the mask of the real tokens."""
        longest = max(map(len, rows))
        ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], device=self.device)
        lengths = torch.tensor([len(row) for row in rows], device=self.device)
        mask = torch.arange(longest, device=self.device)[None, :] < lengths[:, None]
        return ids, mask.long()

    def encoded(self, rows: Sequence[Sequence[int]]) -> tuple[Any, Tensor]:
        """The encoder's output, with (rows, longest, d) last hidden states, and the mask of the real tokens."""
        encoder = self.model.get_encoder()
        if not self._relative:
            ids, mask = self.padded(rows)
            return encoder(input_ids=ids, attention_mask=mask), mask
        stood, ids = self.in_one_row(rows)
        layout = Layout(stood, stood)
        with unpadded(self.model, layout):
            found = encoder(input_ids=ids, layout=layout)
        found.last_hidden_state = stood.padded(found.last_hidden_state[0])
        return found, stood.real.long()

    def in_one_row(self, rows: Sequence[Sequence[int]]) -> tuple[Rows, Tensor]:
        """Which row each token belongs to, and their (1, tokens) ids."""
        ids = torch.tensor([[token for row in rows for token in row]], device=self.device)
        return Rows.of([len(row) for row in rows], self.device), ids

    def _encode(self, source: ModelInput, index: int) -> EncodedInput:
        end = self._vocabulary.end_id
        return seq2seq_input(
            self._inputs, source, end_id=end, soft=self.max_input_tokens, window=self.window, index=index
        )


class _Seq2SeqDecoder:
    """A batch inside the model: encoder output, and transformers' cache of the decoder."""

    def __init__(self, backbone: Seq2SeqBackbone, sources: Sequence[Sequence[int]]) -> None:
        self._backbone = backbone
        self._sources = sources

    def start(self) -> Tensor:
        from transformers import DynamicCache, EncoderDecoderCache

        model = self._backbone.model
        self._encoded, self._mask = self._backbone.encoded(self._sources)
        self._cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        first = torch.full(
            (len(self._sources),), model.config.decoder_start_token_id, device=self._mask.device
        )
        return self.step(first)

    def step(self, tokens: Tensor) -> Tensor:
        found = self._backbone.model(
            encoder_outputs=self._encoded,
            attention_mask=self._mask,
            decoder_input_ids=tokens[:, None],
            past_key_values=self._cache,
            use_cache=True,
        )
        logits: Tensor = found.logits[:, -1]
        return logits

    def keep(self, rows: Tensor) -> None:
        self._cache.batch_select_indices(rows)
        self._encoded.last_hidden_state = self._encoded.last_hidden_state[rows]
        self._mask = self._mask[rows]


class _TreeReader:
    """Encoded inputs for a decoder with relative positions, which reads all nodes in one row."""

    def __init__(self, backbone: Seq2SeqBackbone, sources: Sequence[Sequence[int]]) -> None:
        self._backbone = backbone
        self._source, ids = backbone.in_one_row(sources)
        layout = Layout(self._source, self._source)
        with unpadded(backbone.model, layout):
            self._encoded = backbone.model.get_encoder()(input_ids=ids, layout=layout)

    def logits(self, forest: Forest) -> Tensor:
        model = self._backbone.model
        target, ids = self._backbone.in_one_row([tree.ids[: tree.n_inner] for tree in forest.trees])
        layout = Layout(self._source, target, sees=forest.sees, depths=forest.depths)
        asked = forest.asked[forest.real][None]
        with unpadded(model, layout), _only(model.get_output_embeddings(), asked):
            found = model(
                encoder_outputs=self._encoded, decoder_input_ids=ids, use_cache=False, layout=layout
            )
        logits: Tensor = found.logits
        return logits


class _PathReader:
    """Encoded inputs for a decoder with absolute positions, which reads each path as a row of its own."""

    def __init__(self, backbone: Seq2SeqBackbone, sources: Sequence[Sequence[int]]) -> None:
        self._backbone = backbone
        self._encoded, self._mask = backbone.encoded(sources)

    def logits(self, forest: Forest) -> Tensor:
        model, device = self._backbone.model, self._backbone.device
        lines = [(row, tree.line(end)) for row, tree in enumerate(forest.trees) for end in tree.ends()]
        owner = torch.tensor([row for row, _ in lines], device=device)
        ids, _ = self._backbone.padded(
            [[forest.trees[row].ids[node] for node in line] for row, line in lines]
        )
        asked = forest.asked.cpu()
        wanted = torch.zeros(ids.shape, dtype=torch.bool)
        place: dict[tuple[int, int], None] = {}  # nodes in the order of their logits
        for number, (row, line) in enumerate(lines):
            for depth, node in enumerate(line):
                if asked[row, node] and (row, node) not in place:
                    place[row, node] = None
                    wanted[number, depth] = True
        with _only(model.get_output_embeddings(), wanted.to(device)):
            found = model(
                encoder_outputs=(self._encoded.last_hidden_state[owner],),
                attention_mask=self._mask[owner],
                decoder_input_ids=ids,
                use_cache=False,
            )
        rank = {pair: number for number, pair in enumerate(place)}
        order = [rank[row, node] for row, node in asked.nonzero().tolist()]
        logits: Tensor = found.logits[torch.tensor(order, dtype=torch.long, device=device)]
        return logits


@contextlib.contextmanager
def _only(head: Any, positions: Tensor) -> Iterator[None]:
    """Compute the output layer, which is the most expensive one, for (n, d) chosen positions only."""
    hook = head.register_forward_pre_hook(lambda _module, arguments: (arguments[0][positions],))
    try:
        yield
    finally:
        hook.remove()


def _in_one_kernel(model: Any) -> None:
    """Replace T5's activation, eight operations over the widest states, by the same function in one torch kernel."""
    from transformers.activations import NewGELUActivation

    for module in model.modules():
        for name, child in module.named_children():
            if isinstance(child, NewGELUActivation):
                setattr(module, name, torch.nn.GELU(approximate="tanh"))


class _Family:
    def open(
        self, choice: BackboneChoice, *, device: str = "auto", checkpoint: Path | None = None
    ) -> Seq2SeqBackbone:
        from transformers import AutoModelForSeq2SeqLM

        return Seq2SeqBackbone(load(choice, AutoModelForSeq2SeqLM, device=device, checkpoint=checkpoint))


FAMILY = _Family()
