"""Log-probabilities of given tokens after many prompts of one causal model, in one forward pass for many prompts.

Exists for questions with given answers, by the thousand; nothing is generated. The keys and values of the prompts'
common prefix are computed once. What remains of each prompt stands in one row without padding, followed by the first
tokens of its answers as branches, so that answers that begin alike share them. Attention is computed prompt by prompt;
it is registered with transformers. Only the last hidden states that are needed are multiplied with the output matrix,
in float32: bf16 has steps of 1/8 between logits of 16 and 32.

``ContinuationEncoder`` finds the tokens of the answers. A tokenizer can merge the prompt's last characters with an
answer's first ones. All answers then begin a little earlier, after the last token that they share with the prompt.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cdner.models.vocabulary import neutralised, special_strings

PACKED = "cdner_packed"
TokenPath = tuple[int, ...]  # tokens after a prompt
Asked = Mapping[TokenPath, Sequence[int]]  # path -> ids of the tokens that may come next
Found = dict[TokenPath, dict[int, float]]  # the same with natural logarithms of probabilities
SharedPrefix = list[
    tuple[Tensor, Tensor]
]  # a layer's keys and values: (key-value heads, tokens, head size) each
# Rows of the output matrix that are converted to float32 at a time: 100 MB for 1,536 dimensions.
_VOCABULARY_STEP = 1 << 14


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt's tokens after the shared prefix, and the tokens whose probabilities are wanted."""

    own: tuple[int, ...]  # at least one
    asked: Asked

    @property
    def nodes(self) -> list[TokenPath]:
        """Every path that the wanted tokens follow, without the prompt itself, shorter ones first."""
        found = {path[:n] for path in self.asked for n in range(1, len(path) + 1)}
        return sorted(found, key=lambda path: (len(path), path))

    @property
    def n_tokens(self) -> int:
        return len(self.own) + len(self.nodes)


@dataclass(frozen=True, slots=True)
class PromptGroup:
    """Prompts with a common prefix as one question: the prefix is its prompt, the rest of each prompt a branch."""

    question: Question
    members: tuple[tuple[int, TokenPath], ...]  # (index of the prompt, its tokens after the shared ones)

    @classmethod
    def of(cls, members: Mapping[int, TokenPath], asked: Sequence[Asked]) -> PromptGroup:
        """``members``: index -> tokens of the prompt, at least one. ``asked``: for each prompt, by index."""
        n_shared = n_common(min(members.values()), max(members.values()))
        rests = tuple((index, prompt[n_shared:]) for index, prompt in members.items())
        wanted: dict[TokenPath, set[int]] = {}
        for index, rest in rests:
            for path, tokens in asked[index].items():
                wanted.setdefault(rest + path, set()).update(tokens)
        own = next(iter(members.values()))[:n_shared]
        return cls(Question(own, {path: sorted(tokens) for path, tokens in wanted.items()}), rests)

    def split(self, found: Found, asked: Sequence[Asked]) -> Iterator[tuple[int, Found, int]]:
        """(index of the prompt, its log-probabilities, how many of its tokens were read with an earlier prompt)."""
        n_shared = 0
        for index, rest in self.members:
            own = {
                path: {token: found[rest + path][token] for token in tokens}
                for path, tokens in asked[index].items()
            }
            yield index, own, n_shared
            n_shared = len(self.question.own)


def group_prompts(prompts: Sequence[TokenPath], asked: Sequence[Asked], *, most: int) -> list[PromptGroup]:
    """Groups prompts that begin alike; prompts that begin differently stay in their order.

    ``prompts``: the tokens of each, at least one. Prompts are grouped if they share at least half of the longer one's
    tokens and their question has at most ``most`` tokens.
    """
    order = sorted(range(len(prompts)), key=lambda index: prompts[index])
    groups: list[dict[int, TokenPath]] = []
    n_tokens = 0
    for index in order:
        prompt = prompts[index]
        last = next(iter(groups[-1].values())) if groups else ()
        n_shared = n_common(last, prompt)
        n_more = len(prompt) - n_shared + sum(map(len, asked[index]))
        if 2 * n_shared >= max(len(last), len(prompt), 1) and n_tokens + n_more <= most:
            groups[-1][index] = prompt
            n_tokens += n_more
        else:
            groups.append({index: prompt})
            n_tokens = len(prompt) + sum(map(len, asked[index]))
    groups.sort(key=min)
    return [PromptGroup.of(group, asked) for group in groups]


def n_common(one: TokenPath, other: TokenPath) -> int:
    """How many first tokens two sequences share."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((n for n, (a, b) in pairs if a != b), min(len(one), len(other)))


def log_probs(model: Any, questions: Sequence[Question], prefix: SharedPrefix) -> list[Found]:
    """The log-probabilities of each question, by one forward pass. ``model``: a causal language model."""
    row = PackedRow.of(questions, prefix, model.device)
    indices = torch.tensor([index for _, _, index in row.places], dtype=torch.long, device=model.device)
    usual = model.config._attn_implementation
    model.config._attn_implementation = PACKED
    try:
        with torch.inference_mode(), _exact_head(model):
            # The model's own forward method, because some models scale or cap the logits.
            out = model(
                input_ids=row.ids,
                position_ids=row.positions,
                use_cache=False,
                logits_to_keep=indices,
                packed=row,
            )
    finally:
        model.config._attn_implementation = usual
    logits = out.logits[0].float()  # (places, vocabulary)
    normalisers = logits.logsumexp(-1)
    found: list[Found] = [{} for _ in questions]
    for place, (number, path, _) in enumerate(row.places):
        tokens = list(questions[number].asked[path])
        values = (logits[place, tokens] - normalisers[place]).tolist()
        found[number][path] = dict(zip(tokens, values, strict=True))
    return found


@contextlib.contextmanager
def _exact_head(model: Any) -> Iterator[None]:
    """Let the output matrix multiply in float32, some rows at a time, in whatever format it is stored."""
    head = model.get_output_embeddings()
    if type(head) is not torch.nn.Linear or head.weight.dtype == torch.float32:
        yield
        return

    def product(hidden: Tensor) -> Tensor:
        exact = hidden.float()
        pieces = [exact @ rows.float().T for rows in torch.split(head.weight, _VOCABULARY_STEP)]
        found = torch.cat(pieces, dim=-1)
        return found if head.bias is None else found + head.bias.float()

    head.forward = product  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        head.__dict__.pop("forward", None)


def register() -> None:
    """Register ``PACKED`` with transformers. Can be called again."""
    from transformers import AttentionInterface

    AttentionInterface.register(PACKED, packed_attention)


def packed_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    _attention_mask: Tensor | None,
    scaling: float | None = None,
    *,
    packed: PackedRow,
    **_unused: object,
) -> tuple[Tensor, None]:
    """(1, T, heads, head size) outputs: each part attends to the prefix and to itself."""
    shared = packed.prefix[module.layer_idx] if packed.prefix else None
    out = query.new_empty(1, query.shape[2], query.shape[1], query.shape[3])
    for part in packed.parts:
        keys, values = key[0, :, part.start : part.end], value[0, :, part.start : part.end]
        if shared is not None:
            keys, values = torch.cat((shared[0], keys), dim=1), torch.cat((shared[1], values), dim=1)
        found = torch.nn.functional.scaled_dot_product_attention(
            query[:, :, part.start : part.end],
            keys[None],
            values[None],
            attn_mask=part.visible[None, None],
            scale=scaling,
            enable_gqa=keys.shape[0] != query.shape[1],
        )
        out[:, part.start : part.end] = found.transpose(1, 2)
    return out, None


@dataclass(frozen=True, slots=True)
class _Part:
    """The position of a question in the row, and which of its tokens attend to which."""

    start: int
    end: int
    visible: Tensor  # (n, n_prefix + n) bool


@dataclass(frozen=True, slots=True)
class PackedRow:
    """Questions in one row of T tokens, all after the shared prefix."""

    ids: Tensor  # (1, T)
    positions: Tensor  # (1, T)
    parts: tuple[_Part, ...]
    prefix: SharedPrefix
    places: tuple[
        tuple[int, TokenPath, int], ...
    ]  # (question, path, index in the row) of every wanted distribution

    @classmethod
    def of(cls, questions: Sequence[Question], prefix: SharedPrefix, device: torch.device) -> PackedRow:
        n_prefix = prefix[0][0].shape[1] if prefix else 0
        ids: list[int] = []
        positions: list[int] = []
        parts: list[_Part] = []
        places: list[tuple[int, TokenPath, int]] = []
        for number, question in enumerate(questions):
            start, n_own, nodes = len(ids), len(question.own), question.nodes
            index = {(): n_own - 1} | {path: n_own + n for n, path in enumerate(nodes)}
            ids += [*question.own, *(path[-1] for path in nodes)]
            positions += range(n_prefix, n_prefix + n_own)
            positions += (n_prefix + n_own + len(path) - 1 for path in nodes)
            visible = _visible(n_prefix, n_own, nodes, index).to(device)
            parts.append(_Part(start, len(ids), visible))
            places += ((number, path, start + index[path]) for path in question.asked)
        return cls(
            ids=torch.tensor([ids], device=device),
            positions=torch.tensor([positions], device=device),
            parts=tuple(parts),
            prefix=prefix,
            places=tuple(places),
        )


def _visible(n_prefix: int, n_own: int, nodes: Sequence[TokenPath], index: Mapping[TokenPath, int]) -> Tensor:
    """(n, n_prefix + n) bool. All attend to the prefix, branches to the prompt and their path."""
    n = n_own + len(nodes)
    seen = torch.ones(n, n, dtype=torch.bool).tril()
    if nodes:
        seen[n_own:] = False
        for path in nodes:  # shorter ones first, so that the parent's row is complete
            seen[index[path]] = seen[index[path[:-1]]]
            seen[index[path], index[path]] = True
    return torch.cat((torch.ones(n, n_prefix, dtype=torch.bool), seen), dim=1)


@dataclass(frozen=True, slots=True)
class Continuations:
    """``prompt``: the tokens before all texts; ``texts``: the tokens of each text."""

    prompt: tuple[int, ...]
    texts: tuple[tuple[int, ...], ...]


class ContinuationEncoder:
    """Encodes prompts with the texts that can follow. Results are cached by the prompt's end, which prompts share."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._specials = special_strings(tokenizer)
        self._known: dict[tuple[str, tuple[str, ...]], Continuations] = {}

    def prompt(self, rendered: str) -> list[int]:
        """Tokens of a rendered prompt alone."""
        ids: list[int] = self._tokenizer(rendered, add_special_tokens=False, verbose=False)["input_ids"]
        return ids

    def encode(self, rendered: str, texts: Sequence[str]) -> Continuations:
        """``rendered``: a chat, in which special-token strings are special tokens; in ``texts`` they are broken up."""
        ids = self.prompt(rendered)
        # No token crosses a special token: the tokens before the last one are the same with and without a text.
        cut = max((rendered.rfind(special) for special in self._specials), default=-1)
        tail = rendered[max(cut, 0) :]
        if cut < 0:
            return self._joined(rendered, texts)
        key = (tail, tuple(texts))
        if key not in self._known:
            self._known[key] = self._joined(tail, texts)
        end = self._known[key]
        own = self.prompt(tail)
        head = ids[: len(ids) - len(own)]
        if ids[len(head) :] != own:  # a tokenizer in which a token can cross a special token
            return self._joined(rendered, texts)
        return Continuations((*head, *end.prompt), end.texts)

    def _joined(self, rendered: str, texts: Sequence[str]) -> Continuations:
        harmless = [neutralised(text, self._specials) for text in texts]
        rows = [self.prompt(rendered), *(self.prompt(rendered + text) for text in harmless)]
        low, high = min(rows), max(rows)
        shortest = min(map(len, rows))
        n = next((n for n in range(shortest) if low[n] != high[n]), shortest)
        return Continuations(tuple(rows[0][:n]), tuple(tuple(row[n:]) for row in rows[1:]))
