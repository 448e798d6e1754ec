"""A causal language model in this process, greedy: an LLM for machines without server or network.

Hundreds of requests go to the backbone at once, which computes their common prefix (the prompt's fixed
part) a single time. A request with choices is answered with their probabilities; no text is generated for it.
The embedded SmolLM2-135M is fit for plumbing only: its reasoning is poor and repetitive. Knows nothing of
prompts. A schema is followed by masking tokens (``cdner.models.schema_grammar``).

``model`` names the weights alone. The number format is the machine's, like the device: it can change a word, but
what was written is data in the store and is found there by the same name on any machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast

from cdner.choices import ChoiceScores, scores_text
from cdner.config import BackboneChoice, Execution, Llm
from cdner.errors import BackendError
from cdner.llm.chat.budget import Budget
from cdner.llm.choice_trie import ChoiceTrie, Path, refuse_unusable_choices
from cdner.models import open_backbone
from cdner.models.schema_grammar import grammar_is_installed
from cdner.models.shelf import find, is_fetched, not_here
from cdner.models.weights import weights_identity
from cdner.types import (
    Completion,
    Gap,
    Generation,
    Message,
    ModelInput,
    ReasoningRequest,
    Sampling,
    Segment,
    TokenConstraint,
)

if TYPE_CHECKING:
    from cdner.models.next_tokens import Continuations

AT_ONCE = 512  # requests: prompts of thousands of tokens are long lists of numbers


class ChatBackbone(Protocol):
    """What this backend needs of ``cdner.models.causal.CausalBackbone``."""

    @property
    def window(self) -> int:
        """Most tokens of prompt and answer together."""
        ...

    @property
    def tokenizer(self) -> Any: ...

    def render_chat(self, messages: Sequence[Message], *, continued: bool = False) -> str: ...

    def continuations(self, rendered: str, texts: Sequence[str]) -> Continuations: ...

    def next_token_log_probs(
        self, prompts: Sequence[Sequence[int]], asked: Sequence[Mapping[Path, Sequence[int]]]
    ) -> Iterator[tuple[int, Mapping[Path, Mapping[int, float]], int]]: ...

    def schema_constraint(self, schema: str) -> TokenConstraint: ...

    def generate(
        self,
        inputs: Sequence[ModelInput],
        *,
        max_new_tokens: int,
        batch_size: int,
        constraints: Sequence[TokenConstraint] | None = None,
        stop: Sequence[str] = (),
        on_text: Callable[[str], None] | None = None,
    ) -> Iterator[tuple[int, Generation]]: ...


class LocalBackend:
    """``open_backbone`` is called at the first request, so that a run with all its completions stored loads
    nothing.
    """

    family = "local"

    def __init__(self, open_backbone: Callable[[], ChatBackbone], *, model: str, batch_size: int) -> None:
        self._open_backbone = open_backbone
        self._backbone: ChatBackbone | None = None
        self._model = model
        self._batch_size = batch_size

    @property
    def model(self) -> str:
        return self._model

    def complete(self, requests: Sequence[ReasoningRequest]) -> Iterator[tuple[int, Completion | Gap]]:
        """Yields as rows finish. A prompt beyond the model's window is a gap; if all that are read at once are, a
        BackendError.
        """
        groups: dict[tuple[Sampling, str | None], list[int]] = {}
        with_choices: list[int] = []
        for index, request in enumerate(requests):
            _refuse_sampling(request)
            if request.sampling.choices:
                refuse_unusable_choices(request)
                with_choices.append(index)
            else:
                groups.setdefault((request.sampling, request.schema), []).append(index)
        for start in range(0, len(with_choices), AT_ONCE):
            yield from self._judge(requests, with_choices[start : start + AT_ONCE])
        for (sampling, schema), indices in groups.items():
            for start in range(0, len(indices), AT_ONCE):
                yield from self._complete_group(requests, indices[start : start + AT_ONCE], sampling, schema)

    def rest(self) -> None:
        """Forget the model; the next ``complete`` loads it again."""
        self._backbone = None

    def close(self) -> None:
        self._backbone = None

    def _opened(self) -> ChatBackbone:
        if self._backbone is None:
            self._backbone = self._open_backbone()
        return self._backbone

    def _judge(
        self, requests: Sequence[ReasoningRequest], indices: list[int]
    ) -> Iterator[tuple[int, Completion | Gap]]:
        """The probabilities of each request's choices."""
        backbone = self._opened()
        asked = {index: _asked(backbone, requests[index]) for index in indices}
        lengths = {index: question.n_tokens for index, question in asked.items()}
        fitting = [index for index in indices if lengths[index] <= backbone.window]
        if not fitting:
            raise BackendError(
                f"The shortest prompt with its choices has {min(lengths.values())} tokens, but {self._model} takes "
                f"{backbone.window} in all. Show fewer examples or shorter sentences."
            )
        for index in indices:
            if lengths[index] > backbone.window:
                yield (
                    index,
                    Gap(f"prompt of {lengths[index]} tokens, the model has room for {backbone.window}"),
                )
        found = backbone.next_token_log_probs(
            [asked[index].prompt for index in fitting], [asked[index].trie.asked for index in fitting]
        )
        for position, known, n_shared in found:
            question = asked[fitting[position]]
            scores = ChoiceScores(question.trie.log_probs(known), "logits")
            yield (
                fitting[position],
                Completion(
                    text=scores_text(scores),
                    finish_reason="stop",
                    input_tokens=len(question.prompt),
                    cached_tokens=n_shared,
                    output_tokens=0,
                ),
            )

    def _complete_group(
        self,
        requests: Sequence[ReasoningRequest],
        indices: list[int],
        sampling: Sampling,
        schema: str | None,
    ) -> Iterator[tuple[int, Completion | Gap]]:
        backbone = self._opened()
        rendered = {index: backbone.render_chat(requests[index].messages) for index in indices}
        ids = {index: _chat_ids(backbone, text) for index, text in rendered.items()}
        room = backbone.window - sampling.max_tokens
        fitting = [index for index in indices if len(ids[index]) <= room]
        if not fitting:
            shortest = min(len(prompt) for prompt in ids.values())
            raise BackendError(
                f"The shortest prompt has {shortest} tokens, the answer may take {sampling.max_tokens}, but "
                f"{self._model} takes {backbone.window} in all. Lower n_examples or max_tokens."
            )
        for index in indices:
            if len(ids[index]) > room:
                yield index, Gap(f"prompt of {len(ids[index])} tokens, the model has room for {room}")
        n_shared = _common_length([ids[index] for index in fitting])
        generations = backbone.generate(
            [(Segment(rendered[index], special=True),) for index in fitting],
            max_new_tokens=sampling.max_tokens,
            batch_size=self._batch_size,
            stop=sampling.stop,
            constraints=None if schema is None else [backbone.schema_constraint(schema) for _ in fitting],
            on_text=requests[fitting[0]].on_text if len(fitting) == 1 else None,
        )
        for position, generation in generations:
            yield fitting[position], _completion(generation, n_shared if position else 0)


def open_backend(llm: Llm, execution: Execution, _budget: Budget) -> LocalBackend:
    """``llm.model``: a model of the shelf, a folder, or a hub name. BackendError for what this backend cannot do."""
    if llm.structured and not grammar_is_installed():
        raise BackendError(
            "The backend 'local' needs llguidance to write JSON by schema. Install it (pip install 'cdner[grammar]'), "
            "or set structured = false."
        )
    if llm.temperature != 0:
        raise BackendError("The backend 'local' is greedy. Set temperature = 0.")
    if llm.retries:
        raise BackendError("The backend 'local' is greedy: a retry would answer the same. Set retries = 0.")
    if (known := find(llm.model)) and not is_fetched(known):
        raise BackendError(not_here(llm.model))
    choice = BackboneChoice(family="causal", model=llm.model)

    def opened() -> ChatBackbone:
        return cast(ChatBackbone, open_backbone(choice, device=execution.device))

    return LocalBackend(opened, model=weights_identity(llm.model), batch_size=execution.batch_size)


def _refuse_sampling(request: ReasoningRequest) -> None:
    if request.sampling.temperature != 0:
        raise BackendError("The backend 'local' is greedy. Set temperature = 0.")


@dataclass(frozen=True, slots=True)
class _Question:
    """A prompt and what is asked behind it."""

    prompt: tuple[int, ...]
    trie: ChoiceTrie

    @property
    def n_tokens(self) -> int:
        """Of the prompt and the longest path behind it."""
        return len(self.prompt) + max(map(len, self.trie.asked), default=0)


def _asked(backbone: ChatBackbone, request: ReasoningRequest) -> _Question:
    choices = request.sampling.choices
    found = backbone.continuations(backbone.render_chat(request.messages, continued=True), choices)
    try:
        return _Question(found.prompt, ChoiceTrie(found.texts))
    except ValueError as error:
        raise BackendError(
            f"The model's tokenizer does not tell these choices apart: {', '.join(map(repr, choices))}. Rename one."
        ) from error


def _chat_ids(backbone: ChatBackbone, rendered: str) -> list[int]:
    ids: list[int] = backbone.tokenizer(rendered, add_special_tokens=False, verbose=False)["input_ids"]
    return ids


def _common_length(rows: Sequence[list[int]]) -> int:
    """Length of the longest common prefix; 0 for a single row, which shares with nobody."""
    if len(rows) < 2:
        return 0
    low, high = min(rows), max(rows)
    return next(
        (n for n, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), min(len(low), len(high))
    )


def _completion(generation: Generation, n_cached: int) -> Completion:
    return Completion(
        text=generation.text,
        finish_reason=generation.finish_reason,
        input_tokens=generation.n_input_tokens,
        cached_tokens=n_cached,
        output_tokens=generation.n_output_tokens,
    )
