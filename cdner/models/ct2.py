"""Prediction by CTranslate2: the same texts as with torch, for a fraction of the CPU time.

A checkpoint is converted once. The conversion is a folder beside it whose name contains a hash of everything it was
made from, and it appears under that name only when it is complete. Weights are read from safetensors files only.

Inputs are encoded as on the torch path. CTranslate2 has no way to restrict the next token of a row, so constrained
output is an error that names the alternative.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from cdner.errors import ModelError, UsageError
from cdner.files import content_hash, file_sha256
from cdner.models.causal import common_prefix
from cdner.models.devices import choose_device
from cdner.models.engines import INT8, check_engine
from cdner.models.generation import batches
from cdner.models.inputs import (
    SEPARATOR,
    EncodedInput,
    InputEncoder,
    causal_input,
    seq2seq_input,
    seq2seq_window,
)
from cdner.models.loading import end_ids, quiet, read_tokenizer_and_config, read_weights, refusing
from cdner.models.vocabulary import TokenizerVocabulary
from cdner.models.weights import read_card, write_folder
from cdner.types import Generation, ModelInput, TokenConstraint

_ALSO_CONVERTED = ("config.json", "tokenizer.json")  # beside the weights, whose sum the card has
_MAX_BATCH_TOKENS = 1 << 15  # rows x (input + output)


def open_converted(
    family: str, checkpoint: Path, *, device: str = "auto", compute_type: str = "int8_float32"
) -> Ct2Engine:
    """Load the conversion of a checkpoint; convert it first if needed.

    ``compute_type``: CTranslate2's name. Raises UsageError if CTranslate2 is not installed or does not run the family,
    ModelError if the checkpoint cannot be converted or loaded.
    """
    check_engine(INT8, family=family, decoding="free")
    from transformers import GenerationConfig

    folder = converted(checkpoint)
    class_name, architecture = _ARCHITECTURES[family]
    n_parallel = torch.get_num_threads()
    with refusing(str(checkpoint), family):
        tokenizer, config = read_tokenizer_and_config(str(checkpoint))
    vocabulary = TokenizerVocabulary(tokenizer)
    model = Converted(
        run=_loaded(class_name, folder, device=device, compute_type=compute_type, n_parallel=n_parallel),
        n_parallel=n_parallel,
        config=config,
        vocabulary=vocabulary,
        encoder=InputEncoder(tokenizer),
        max_input_tokens=read_card(checkpoint).settings.max_input_tokens,
        ends=end_ids(GenerationConfig.from_model_config(config), vocabulary.end_id),
        tokens=_tokens(folder),
    )
    return Ct2Engine(model, architecture(model))


class Ct2Engine:
    """``cdner.types.TextGenerator`` over a converted checkpoint."""

    def __init__(self, model: Converted, architecture: Architecture) -> None:
        self._model = model
        self._architecture = architecture

    @property
    def vocabulary(self) -> TokenizerVocabulary:
        return self._model.vocabulary

    def generate(
        self,
        inputs: Sequence[ModelInput],
        *,
        max_new_tokens: int,
        batch_size: int,
        constraints: Sequence[TokenConstraint] | None = None,
    ) -> Iterator[tuple[int, Generation]]:
        """Greedy decoding, rows of similar length together. float32 weights give torch's texts except for near-ties.

        Raises ModelError if an input does not fit, UsageError for constraints.
        """
        if constraints is not None:
            raise UsageError("CTranslate2 decodes freely. Give --decoding free, or --engine torch.")
        encoded = [
            self._architecture.encode(source, max_new_tokens, index) for index, source in enumerate(inputs)
        ]
        prefix = _shared([item.ids for item in encoded]) if self._architecture.shares_prefix else ()
        return self._outputs(encoded, prefix, max_new_tokens=max_new_tokens, batch_size=batch_size)

    def _outputs(
        self, encoded: Sequence[EncodedInput], prefix: Sequence[int], *, max_new_tokens: int, batch_size: int
    ) -> Iterator[tuple[int, Generation]]:
        """Yields batch by batch; one batch more than run at once is started, so that no thread waits for Python."""
        under_way: deque[tuple[list[int], list[Any]]] = deque()
        lengths = [len(source.ids) + max_new_tokens for source in encoded]
        for batch in batches(lengths, batch_size, _MAX_BATCH_TOKENS):
            rows = [encoded[index].ids[len(prefix) :] for index in batch]
            under_way.append((batch, self._architecture.start(rows, prefix, max_new_tokens)))
            if len(under_way) > self._model.n_parallel:
                yield from self._finished(encoded, *under_way.popleft())
        for batch, pending in under_way:
            yield from self._finished(encoded, batch, pending)

    def _finished(
        self, encoded: Sequence[EncodedInput], batch: Sequence[int], pending: Sequence[Any]
    ) -> Iterator[tuple[int, Generation]]:
        for index, row in zip(batch, pending, strict=True):
            ids = self._architecture.output_ids(row.result())
            ended = bool(ids) and ids[-1] in self._model.ends
            generation = Generation(
                text=self._model.vocabulary.decode(ids[:-1] if ended else ids),
                n_input_tokens=len(encoded[index].ids),
                n_truncated_tokens=encoded[index].n_truncated,
                n_output_tokens=len(ids),
                finish_reason="stop" if ended else "length",
            )
            yield index, generation


def _shared(rows: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """``common_prefix``, shortened so that every row keeps two tokens.

    If a row keeps a single token, CTranslate2 (4.8.5) returns the rest of the other rows' prompts as their output.
    """
    return common_prefix(rows)[: max(0, min(map(len, rows), default=0) - 2)]


@dataclass(frozen=True, slots=True)
class Converted:
    """A converted checkpoint in memory, with its tokenizer and settings."""

    run: Any  # ctranslate2.Generator or ctranslate2.Translator
    n_parallel: int  # batches at once
    config: Any  # of transformers
    vocabulary: TokenizerVocabulary
    encoder: InputEncoder
    max_input_tokens: int  # as in training
    ends: frozenset[int]
    tokens: tuple[str, ...]  # by id: CTranslate2 takes tokens, not ids

    def named(self, ids: Sequence[int]) -> list[str]:
        return [self.tokens[token] for token in ids]


class Architecture(Protocol):
    """What differs between the families."""

    def encode(self, source: ModelInput, max_new_tokens: int, index: int) -> EncodedInput: ...

    def start(self, rows: Sequence[Sequence[int]], prefix: Sequence[int], max_new_tokens: int) -> list[Any]:
        """Start a batch; for each row an object whose ``result`` waits for the output. Each row follows ``prefix``."""
        ...

    def output_ids(self, result: Any) -> list[int]:
        """Ids of the output, with its end token."""
        ...

    @property
    def shares_prefix(self) -> bool: ...


class _Causal:
    def __init__(self, model: Converted) -> None:
        self._model = model
        self._separator = model.encoder.encode_text(SEPARATOR)
        self._window = int(model.config.max_position_embeddings)

    shares_prefix = True

    def encode(self, source: ModelInput, max_new_tokens: int, index: int) -> EncodedInput:
        return causal_input(
            self._model.encoder,
            source,
            separator=self._separator,
            soft=self._model.max_input_tokens,
            room=self._window - max_new_tokens,
            index=index,
        )

    def start(self, rows: Sequence[Sequence[int]], prefix: Sequence[int], max_new_tokens: int) -> list[Any]:
        started: list[Any] = self._model.run.generate_batch(
            [self._model.named(row) for row in rows],
            static_prompt=self._model.named(prefix) or None,
            include_prompt_in_result=False,
            max_length=max_new_tokens,
            end_token=sorted(self._model.ends),
            return_end_token=True,
            asynchronous=True,
        )
        return started

    def output_ids(self, result: Any) -> list[int]:
        return list(result.sequences_ids[0])


class _Seq2Seq:
    def __init__(self, model: Converted) -> None:
        self._model = model
        self._window = seq2seq_window(model.config)
        # A padded vocabulary repeats names at its end; the first id of a name counts.
        self._ids = {token: index for index, token in reversed(list(enumerate(model.tokens)))}

    shares_prefix = False

    def encode(self, source: ModelInput, max_new_tokens: int, index: int) -> EncodedInput:  # noqa: ARG002
        return seq2seq_input(
            self._model.encoder,
            source,
            end_id=self._model.vocabulary.end_id,
            soft=self._model.max_input_tokens,
            window=self._window,
            index=index,
        )

    def start(self, rows: Sequence[Sequence[int]], prefix: Sequence[int], max_new_tokens: int) -> list[Any]:  # noqa: ARG002
        started: list[Any] = self._model.run.translate_batch(
            [self._model.named(row) for row in rows],
            beam_size=1,
            max_input_length=0,  # the input is cut already
            min_decoding_length=0,
            max_decoding_length=max_new_tokens,
            end_token=sorted(self._model.ends),
            return_end_token=True,
            asynchronous=True,
        )
        return started

    def output_ids(self, result: Any) -> list[int]:
        return [self._ids[token] for token in result.hypotheses[0]]


_ARCHITECTURES: Mapping[str, tuple[str, Callable[[Converted], Architecture]]] = {
    "causal": ("Generator", _Causal),  # family -> (class of ctranslate2, ours)
    "seq2seq": ("Translator", _Seq2Seq),
}


def _loaded(class_name: str, folder: Path, *, device: str, compute_type: str, n_parallel: int) -> Any:
    import ctranslate2

    place = choose_device(device)
    try:
        return getattr(ctranslate2, class_name)(
            str(folder),
            device=place.type,
            device_index=place.index or 0,
            compute_type=compute_type,
            inter_threads=n_parallel,  # a batch has one thread, so the sums are the same for any number
            intra_threads=1,
        )
    except (RuntimeError, ValueError) as error:
        raise ModelError(
            f"CTranslate2 cannot load {folder}: {error}. Delete the folder to have it converted again, "
            "or use --engine torch."
        ) from error


def _tokens(folder: Path) -> tuple[str, ...]:
    """The vocabulary in the converter's file, whose name depends on the architecture."""
    (path,) = folder.glob("*vocabulary.json")
    return tuple(json.loads(path.read_text(encoding="utf-8")))


def converted(checkpoint: Path) -> Path:
    """Folder of the conversion, one for all compute types; the checkpoint is converted if it does not exist.

    Raises ModelError for a folder that is not a checkpoint, and for an architecture that CTranslate2 does not support.
    """
    target = conversion_path(checkpoint)
    if not target.is_dir():
        write_folder(target, lambda folder: _convert(checkpoint, folder))
    return target


def conversion_path(checkpoint: Path) -> Path:
    """``<checkpoint>.ct2-<hash of weights, configuration, tokenizer and converter>``."""
    import ctranslate2

    sums = [file_sha256(path) for name in _ALSO_CONVERTED if (path := checkpoint / name).is_file()]
    made_of = content_hash([read_card(checkpoint).weights_sha256, *sums, ctranslate2.__version__])
    return checkpoint.with_name(f"{checkpoint.name}.ct2-{made_of}")


def _convert(checkpoint: Path, folder: Path) -> None:
    from ctranslate2.converters import TransformersConverter

    converter = TransformersConverter(str(checkpoint))
    converter.load_model = _from_safetensors
    try:
        with quiet():
            converter.convert(str(folder), force=True)  # the folder exists and is empty
    except (ValueError, KeyError, NotImplementedError) as error:
        raise ModelError(
            f"CTranslate2 cannot convert {checkpoint}: {error}. Predict with --engine torch."
        ) from error


def _from_safetensors(model_class: Any, folder: str, **settings: Any) -> Any:
    """Loads the weights for the converter, whose own function would also read pickled ones."""
    settings.pop("trust_remote_code", None)
    settings.pop("config", None)
    with refusing(folder, "a checkpoint"):
        _, config = read_tokenizer_and_config(folder)
        return read_weights(model_class, folder, config=config, whole=True, **settings)
