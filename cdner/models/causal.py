"""Decoder-only models (the Llama kind). A training example is input, newline, target, end token.

The loss counts target tokens only. Padding is recognised by length, never by id, because some of these models pad with
their end token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from cdner.config import BackboneChoice, Training
from cdner.models import next_tokens
from cdner.models.attention import RAGGED, RaggedCache, register
from cdner.models.embedding import Spans, mean, span_means, stacked
from cdner.models.engines import check_training
from cdner.models.generation import StopRule, joined_outputs
from cdner.models.inputs import SEPARATOR, Budget, EncodedInput, InputEncoder, WordEncoder, causal_input
from cdner.models.loading import LoadedModel, end_ids, load
from cdner.models.next_tokens import ContinuationEncoder, Continuations
from cdner.models.schema_grammar import SchemaConstraint, SchemaGrammar
from cdner.models.trainable import EncodedExample, pack
from cdner.models.trees import Forest, Input, TokenTree, two_rounds
from cdner.models.unpadded import Rows
from cdner.models.vocabulary import TokenizerVocabulary, neutralised, special_strings
from cdner.types import (
    Beginning,
    FloatArray,
    Generation,
    Message,
    ModelInput,
    Sentence,
    TokenConstraint,
    TrainingExample,
)

MIN_SHARED_PREFIX = 16  # tokens; for a shorter prefix sharing costs more than it saves
_MAX_BATCH_TOKENS = 1 << 16  # rows x (own input + output): 3 GB of keys and values for SmolLM2 in bf16
# Tokens of one pass of ``next_token_log_probs``. On a CPU larger passes are not faster, and a kill loses a whole pass.
_PASS_TOKENS = {"cpu": 2048, "cuda": 16384}


class CausalBackbone:
    """``cdner.types.Backbone`` for decoder-only models; trained by ``cdner.models.training.fit``."""

    def __init__(self, loaded: LoadedModel) -> None:
        register()
        next_tokens.register()
        self.model = loaded.model
        self.tokenizer = loaded.tokenizer
        self.device = loaded.device
        self.dtype = loaded.dtype
        self.choice = loaded.choice
        self.head = ""
        self.max_input_tokens = loaded.max_input_tokens
        self.window = int(self.model.config.max_position_embeddings)
        self._inputs = InputEncoder(self.tokenizer)
        self._words = WordEncoder(self.tokenizer)
        self._vocabulary = TokenizerVocabulary(self.tokenizer)
        self._separator = self._inputs.encode_text(SEPARATOR)
        self._continuations = ContinuationEncoder(self.tokenizer)
        self._grammar: SchemaGrammar | None = None

    @property
    def vocabulary(self) -> TokenizerVocabulary:
        return self._vocabulary

    # --- generation ---------------------------------------------------------------------------------------

    def generate(
        self,
        inputs: Sequence[ModelInput],
        *,
        max_new_tokens: int,
        batch_size: int,
        constraints: Sequence[TokenConstraint] | None = None,
        stop: Sequence[str] = (),
        on_text: Callable[[str], None] | None = None,
    ) -> Iterator[tuple[int, Generation]]:
        """Greedy decoding. Yields (index into inputs, generation) as rows finish.

        ``on_text``, for a single input, is called with each new piece of the output. The longest common token prefix
        of all inputs is computed once per call, so pass all inputs at once. A rendered chat (``Segment.special``) is
        not followed by a separator. Raises ModelError if an input does not fit.
        """
        encoded = [self._encode(source, max_new_tokens, index) for index, source in enumerate(inputs)]
        rule = StopRule(self._ends, max_new_tokens, tuple(stop), self._vocabulary.decode, on_text)
        prefix = common_prefix([item.ids for item in encoded])
        rests = [item.ids[len(prefix) :] for item in encoded]
        with torch.inference_mode():
            shared = self._prefill(prefix) if prefix else []
        return joined_outputs(
            lambda batch: _CausalDecoder(self, rests, batch, shared, max_new_tokens),
            encoded,
            model=self.model,
            lengths=[len(rest) for rest in rests],
            rule=rule,
            batch_size=batch_size,
            max_tokens=_MAX_BATCH_TOKENS,
            constraints=constraints,
        )

    def schema_constraint(self, schema: str) -> SchemaConstraint:
        """A constraint for ``generate``: the output is JSON of ``schema``. Needs the extra ``grammar``."""
        if self._grammar is None:
            self._grammar = SchemaGrammar(self.tokenizer, self._ends)
        return self._grammar.constraint(schema)

    # --- probabilities ------------------------------------------------------------------------------------

    def log_probs(
        self,
        inputs: Sequence[ModelInput],
        first: Sequence[Sequence[Beginning]],
        then: Callable[[int, Sequence[float]], Sequence[Beginning]],
        *,
        max_new_tokens: int,
    ) -> Iterator[tuple[int, tuple[float, ...]]]:
        """See ``cdner.types.TextScorer``. The longest common token prefix of all inputs is computed once per call."""
        encoded = [self._encode(source, max_new_tokens, index).ids for index, source in enumerate(inputs)]
        prefix = common_prefix(encoded)
        rests = [ids[len(prefix) : -1] for ids in encoded]
        with torch.inference_mode():
            shared = self._prefill(prefix) if prefix else []
        return two_rounds(
            [Input(ids[-1], len(rest)) for ids, rest in zip(encoded, rests, strict=True)],
            lambda batch: _CausalReader(self, [rests[index] for index in batch], shared),
            first,
            then,
            encode=self._inputs.encode_located,
            device=self.device,
        )

    def continuations(self, rendered: str, texts: Sequence[str]) -> Continuations:
        """The tokens of each text as the one that follows a rendered chat."""
        return self._continuations.encode(rendered, texts)

    def next_token_log_probs(
        self, prompts: Sequence[Sequence[int]], asked: Sequence[next_tokens.Asked]
    ) -> Iterator[tuple[int, next_tokens.Found, int]]:
        """Yields (index into prompts, path -> token id -> natural logarithm of its probability, number of the prompt's
        first tokens that were read with another prompt), pass by pass.

        ``asked``: for each prompt the paths of tokens after it (``()``: the prompt itself), and for each path the ids
        of the next tokens whose probability is wanted. A prompt with its longest path must fit into ``window``. The
        longest common token prefix of all prompts is computed once per call, and a longer prefix that some of them
        share is computed once for these, so pass all prompts at once.
        """
        prefix = common_prefix([tuple(prompt) for prompt in prompts])
        own = [tuple(prompt[len(prefix) :]) for prompt in prompts]
        room = _PASS_TOKENS[self.device.type]
        groups = next_tokens.group_prompts(own, asked, most=room)
        with torch.inference_mode():
            shared = self._prefill(prefix) if prefix else []
        for batch in _passes([group.question.n_tokens for group in groups], room):
            found = next_tokens.log_probs(self.model, [groups[number].question for number in batch], shared)
            for number, values in zip(batch, found, strict=True):
                for index, of_prompt, n_shared in groups[number].split(values, asked):
                    yield index, of_prompt, (len(prefix) if index else 0) + n_shared

    def render_chat(self, messages: Sequence[Message], *, continued: bool = False) -> str:
        """The chat as text by the model's template; pass it to ``generate`` as ``Segment(text, special=True)``.

        Special-token strings inside messages are broken up first, so that no text from a corpus can end a turn or
        begin another. Without a template each message is headed by its role. A generation prompt follows; with
        ``continued`` a last message of the assistant is left open instead.
        """
        specials = special_strings(self.tokenizer)
        turns = [{"role": turn.role, "content": neutralised(turn.content, specials)} for turn in messages]
        is_open = continued and bool(turns) and turns[-1]["role"] == "assistant"
        if not self.tokenizer.chat_template:
            headed = "".join(f"{turn['role']}: {turn['content']}\n" for turn in turns)
            return headed[:-1] if is_open else f"{headed}assistant:"
        return str(
            self.tokenizer.apply_chat_template(
                turns, tokenize=False, add_generation_prompt=not is_open, continue_final_message=is_open
            )
        )

    def embed(self, texts: Sequence[str]) -> FloatArray:
        """(n, d) means of the last hidden states over each text's tokens; one text at a time, without padding."""
        found = [mean(self._states(self._inputs.encode_text(text))) for text in texts]
        return stacked(found, size=self.model.config.hidden_size)

    def embed_spans(
        self, sentences: Sequence[Sentence], spans: Sequence[Spans]
    ) -> tuple[FloatArray, FloatArray]:
        """As in ``cdner.types.Encoder``; one sentence at a time."""
        words = [self._words.encode(sentence.tokens) for sentence in sentences]
        hidden = (self._states(tokens.ids) for tokens in words)
        return span_means(words, hidden, spans, size=self.model.config.hidden_size)

    # --- training -----------------------------------------------------------------------------------------

    def prepare(self, types: Sequence[str], settings: Training) -> None:  # noqa: ARG002  types are in the texts
        """Nothing to do. UsageError for settings of taggers."""
        check_training(settings, family=self.choice.family)

    def encode_example(
        self, example: TrainingExample, *, max_input_tokens: int, max_target_tokens: int, index: int
    ) -> EncodedExample:
        """Input ids with separator, target ids with end token, and how many tokens the budgets cut."""
        target = self._inputs.encode_text(example.target)
        kept = target[: max_target_tokens - 1]
        hard = self.window - len(kept) - 1 - len(self._separator)
        source = self._inputs.encode(example.source, Budget(soft=max_input_tokens, hard=hard), index=index)
        return EncodedExample(
            source=(*source.ids, *self._separator),
            target=(*kept, self._vocabulary.end_id),
            n_truncated=source.n_truncated + len(target) - len(kept),
        )

    def microbatches(self, examples: Sequence[EncodedExample]) -> Iterator[list[EncodedExample]]:
        """Split a batch into what one forward pass takes at a time."""
        return pack(examples, max_tokens=4096 if self.device.type == "cuda" else 512)

    def loss_sum(self, examples: Sequence[EncodedExample]) -> Tensor:
        """Summed cross-entropy of all target tokens.

        All examples stand in one row after their common prefix, without padding; each attends to the prefix and to
        itself. The prefix is computed once, gradients included. Logits are computed at target positions only.
        """
        prefix = common_prefix([example.source[:-1] for example in examples])
        layout = _Layout(prefix, examples, self.device)
        hidden = self.model.model(
            input_ids=layout.ids, position_ids=layout.positions, attention_mask=layout.mask, use_cache=False
        ).last_hidden_state[0]
        logits = self.model.lm_head(hidden[layout.predicting])
        return torch.nn.functional.cross_entropy(logits.float(), layout.labels, reduction="sum")

    # --- inside -------------------------------------------------------------------------------------------

    @property
    def _ends(self) -> frozenset[int]:
        return end_ids(self.model.generation_config, self._vocabulary.end_id)

    def _states(self, ids: Sequence[int]) -> Tensor:
        """(tokens, d) last hidden states of one text."""
        with torch.inference_mode():
            found: Tensor = self.model.model(
                input_ids=torch.tensor([ids], device=self.device), use_cache=False
            ).last_hidden_state[0]
        return found

    def _encode(self, source: ModelInput, max_new_tokens: int, index: int) -> EncodedInput:
        room = self.window - max_new_tokens
        return causal_input(
            self._inputs,
            source,
            separator=self._separator,
            soft=self.max_input_tokens,
            room=room,
            index=index,
        )

    def _prefill(self, prefix: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
        cache = RaggedCache(
            capacity=len(prefix), lengths=torch.zeros(1, dtype=torch.long, device=self.device)
        )
        self.hidden(torch.tensor([prefix], device=self.device), cache)
        cache.advance(torch.tensor([len(prefix)], device=self.device))
        return cache.as_prefix()

    def hidden(self, ids: Tensor, cache: RaggedCache, depths: Tensor | None = None) -> Tensor:
        """(rows, n_new, d) last hidden states of new tokens that follow the contents of ``cache``.

        ``depths``, if the tokens of all rows stand in one row: (1, n_new) positions, counted from ``cache.n_prefix``.
        """
        if depths is None:
            depths = cache.lengths[:, None] + torch.arange(ids.shape[1], device=self.device)[None, :]
        positions = cache.n_prefix + depths
        usual = self.model.config._attn_implementation
        self.model.config._attn_implementation = RAGGED
        try:
            out = self.model.model(input_ids=ids, position_ids=positions, use_cache=False, ragged=cache)
        finally:
            self.model.config._attn_implementation = usual
        found: Tensor = out.last_hidden_state
        return found


class _CausalDecoder:
    """A batch of one ``generate`` call. ``rests``: all inputs without the shared prefix; ``batch``: the first rows."""

    def __init__(
        self,
        backbone: CausalBackbone,
        rests: Sequence[Sequence[int]],
        batch: Sequence[int],
        shared: list[tuple[Tensor, Tensor]],
        max_new_tokens: int,
    ) -> None:
        self._backbone = backbone
        self._rests = rests
        self._batch = batch
        self._shared = shared
        self._device = backbone.device
        longest = max(len(rests[index]) for index in batch)
        self._cache = self._new_cache(len(batch), longest + max_new_tokens)

    def start(self) -> Tensor:
        return self._read(self._batch, self._cache)

    def join(self, places: Sequence[int], inputs: Sequence[int]) -> Tensor:
        longest = max(len(self._rests[index]) for index in inputs)
        new = self._new_cache(len(inputs), longest + 1)
        logits = self._read(inputs, new)
        self._cache.replace(torch.tensor(places, device=self._device), new)
        return logits

    def step(self, tokens: Tensor) -> Tensor:
        hidden = self._backbone.hidden(tokens[:, None], self._cache)
        self._cache.advance(torch.ones_like(tokens))
        return self._logits(hidden[:, 0])

    def keep(self, rows: Tensor) -> None:
        self._cache.keep(rows)

    def _new_cache(self, n_rows: int, capacity: int) -> RaggedCache:
        lengths = torch.zeros(n_rows, dtype=torch.long, device=self._device)
        return RaggedCache(capacity=capacity, lengths=lengths, prefix=self._shared)

    def _read(self, inputs: Sequence[int], cache: RaggedCache) -> Tensor:
        """Read inputs into a new cache; the logits of the token that follows each."""
        rests = [self._rests[index] for index in inputs]
        lengths = torch.tensor([len(rest) for rest in rests], device=self._device)
        longest = int(lengths.max())
        padded = [[*rest, *[0] * (longest - len(rest))] for rest in rests]
        hidden = self._backbone.hidden(torch.tensor(padded, device=self._device), cache)
        cache.advance(lengths)
        last = hidden[torch.arange(len(padded), device=self._device), lengths - 1]
        return self._logits(last)

    def _logits(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self._backbone.model.lm_head(hidden)
        return logits


class _CausalReader:
    """A batch of inputs without the last token of each, stored in the cache after the call's shared prefix."""

    def __init__(
        self, backbone: CausalBackbone, rests: Sequence[Sequence[int]], shared: list[tuple[Tensor, Tensor]]
    ) -> None:
        self._backbone = backbone
        lengths = torch.zeros(len(rests), dtype=torch.long, device=backbone.device)
        self._cache = RaggedCache(capacity=0, lengths=lengths, prefix=shared)
        if any(rests):
            chains = Forest.of([TokenTree.of(rest, []) for rest in rests], backbone.device)
            self._cache, _ = self._read(chains)
            self._cache.advance(torch.tensor([len(rest) for rest in rests], device=backbone.device))

    def logits(self, forest: Forest) -> Tensor:
        hidden = self._read(forest)[1]
        logits: Tensor = self._backbone.model.lm_head(hidden[forest.asked[forest.real]])
        return logits

    def _read(self, forest: Forest) -> tuple[RaggedCache, Tensor]:
        """The cache with the forest's nodes added, and the (nodes, d) hidden states of these."""
        cache = self._cache.widened(forest.ids.shape[1])
        cache.rows = Rows(forest.real.flatten().nonzero()[:, 0], forest.real)
        cache.sees = forest.sees
        ids = forest.ids[forest.real][None]
        depths = (cache.lengths[:, None] + forest.depths)[forest.real][None]
        return cache, self._backbone.hidden(ids, cache, depths)[0]


class _Layout:
    """The examples of a batch in one row of T tokens after their common prefix."""

    def __init__(
        self, prefix: Sequence[int], examples: Sequence[EncodedExample], device: torch.device
    ) -> None:
        n = len(prefix)
        ids, positions, owner = list(prefix), list(range(n)), [-1] * n
        predicting: list[int] = []
        labels: list[int] = []
        for number, example in enumerate(examples):
            # The last target token is only predicted, never read.
            own = [*example.source[n:], *example.target[:-1]]
            first = len(ids) + len(example.source) - n - 1
            predicting += range(first, first + len(example.target))
            labels += example.target
            positions += range(n, n + len(own))
            owner += [number] * len(own)
            ids += own
        who = torch.tensor(owner, device=device)
        order = torch.arange(len(ids), device=device)
        same = (who[:, None] == who[None, :]) | (who[None, :] == -1)
        self.ids = torch.tensor([ids], device=device)  # (1, T)
        self.positions = torch.tensor([positions], device=device)  # (1, T)
        # (1, 1, T, T); None for a single example, where plain causal attention is the same and faster
        self.mask = None if len(examples) == 1 else (same & (order[None, :] <= order[:, None]))[None, None]
        self.predicting = torch.tensor(predicting, device=device)
        self.labels = torch.tensor(labels, device=device)


def _passes(lengths: Sequence[int], max_tokens: int) -> Iterator[list[int]]:
    """Consecutive indices whose lengths sum to at most ``max_tokens``; a longer one forms a pass of its own."""
    group: list[int] = []
    total = 0
    for index, length in enumerate(lengths):
        if group and total + length > max_tokens:
            yield group
            group, total = [], 0
        group.append(index)
        total += length
    if group:
        yield group


def common_prefix(rows: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """Longest common prefix that leaves each row at least one token; empty if it is short or if there is one row."""
    if len(rows) < 2:
        return ()
    low, high = min(rows), max(rows)
    longest = min(len(row) for row in rows) - 1
    n = 0
    while n < longest and low[n] == high[n]:
        n += 1
    return tuple(low[:n]) if n >= MIN_SHARED_PREFIX else ()


class _Family:
    def open(
        self, choice: BackboneChoice, *, device: str = "auto", checkpoint: Path | None = None
    ) -> CausalBackbone:
        from transformers import AutoModelForCausalLM

        return CausalBackbone(load(choice, AutoModelForCausalLM, device=device, checkpoint=checkpoint))


FAMILY = _Family()
