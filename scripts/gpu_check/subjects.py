"""What is checked: models of known shapes with random weights, models of the cache, and sentences for them.

A random model's tokenizer is made as those of the tests' models; its vocabulary is filled up to the shape's width
with pieces that no text contains, so that every token the model writes has a text of its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

from apart import results_of
from fixtures.tiny_models import byte_level_tokenizer, unigram_tokenizer, write_random_llama
from shapes import CAUSAL, FLAN_T5, SMALL_CAUSAL, SMALL_T5, LlamaShape, Shape, T5Shape, shape_of
from t5_base import write_random_t5
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerFast

from cdner.augment import model_input
from cdner.codec import encode_entities, wire_for
from cdner.config import BackboneChoice
from cdner.corpora.demo import read_demo
from cdner.files import cache_root
from cdner.models.loading import quiet
from cdner.models.vocabulary import TokenizerVocabulary
from cdner.prompts import load_domain, load_examples
from cdner.types import ReasoningChain, TrainingExample

DOMAIN = "film"
WINDOW = 2048
MOST_SMALL_BYTES = 10_000_000  # of a model of the cache that is checked with --small
LONG = 3600.0  # seconds of a process inside a part, whose own limit ends it before
N_RUNS = 6000  # pieces of text at most


@dataclass(frozen=True, slots=True)
class Subject:
    """A model's name, family and folder. A model without a folder is written when it is first used."""

    name: str
    family: str
    shape: Shape | None  # None: its work is not counted
    folder: Path
    random: bool = True

    def n_bytes(self) -> int:
        """Bytes of the weight files."""
        return sum(file.stat().st_size for file in self.folder.glob("*.safetensors"))

    def choice(self, dtype: str) -> BackboneChoice:
        return BackboneChoice.model_validate(
            {"family": self.family, "model": str(self.folder), "dtype": dtype}
        )


def random_subjects(scratch: Path, *, small: bool) -> list[Subject]:
    """The paper's two models and a decoder; with ``small``, tiny models of both families."""
    shapes: dict[str, Shape] = {"T5 tiny": SMALL_T5, "causal tiny": SMALL_CAUSAL}
    if not small:
        shapes = {f"T5-{name}": shape for name, shape in FLAN_T5.items()} | {"causal 360M": CAUSAL}
    return [
        Subject(
            name,
            "seq2seq" if isinstance(shape, T5Shape) else "causal",
            shape,
            scratch / name.replace(" ", "-"),
        )
        for name, shape in shapes.items()
    ]


def cached_subjects(*, small: bool) -> tuple[list[Subject], list[str]]:
    """Models under ``<cache_root>/models``, and one line for each folder there that is left out."""
    root = cache_root() / "models"
    found: list[Subject] = []
    left_out: list[str] = []
    for folder in sorted(path for path in root.glob("[!.]*") if path.is_dir()):
        if not (folder / "config.json").is_file() or not list(folder.glob("*.safetensors")):
            left_out.append(f"{folder.name}: no config.json with safetensors")
            continue
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        causal = any(name.endswith("ForCausalLM") for name in config.architectures or ())
        if not causal and not config.is_encoder_decoder:
            left_out.append(f"{folder.name}: writes no text ({config.model_type})")
        else:
            family = "causal" if causal else "seq2seq"
            subject = Subject(folder.name, family, shape_of(config), folder, random=False)
            if small and subject.n_bytes() > MOST_SMALL_BYTES:
                left_out.append(f"{folder.name}: too large for --small")
            else:
                found.append(subject)
    return found, left_out


def written(subject: Subject, *, dropout: float = 0.0) -> Subject:
    """The subject with its files: a random model is written once, in a process of its own."""
    if not subject.random:
        return subject
    folder = subject.folder.with_name(f"{subject.folder.name}{'-dropout' if dropout else ''}")
    if not folder.is_dir():
        results_of(lambda _tell: _write(subject, folder, dropout), seconds=LONG)
    return Subject(subject.name, subject.family, subject.shape, folder)


def _write(subject: Subject, folder: Path, dropout: float) -> None:
    shape, texts = subject.shape, list(_texts())
    unfinished = folder.with_name(f".{folder.name}")
    with quiet():
        if isinstance(shape, T5Shape):
            tokenizer = filled(unigram_tokenizer(texts, n_runs=_n_runs(shape)), shape.vocab_size)
            write_random_t5(unfinished, shape.config(), tokenizer, dropout=dropout)
        elif isinstance(shape, LlamaShape):
            tokenizer = filled(byte_level_tokenizer(texts, size=_n_runs(shape)), shape.vocab_size)
            spread = shape.hidden_size**-0.5
            write_random_llama(unfinished, shape.config(), tokenizer, window=WINDOW, spread=spread)
    unfinished.rename(folder)


def _n_runs(shape: T5Shape | LlamaShape) -> int:
    return min(N_RUNS, shape.vocab_size // 2)


def filled(tokenizer: PreTrainedTokenizerFast, size: int) -> PreTrainedTokenizerFast:
    """The tokenizer, extended to ``size`` by different pieces that no text contains."""
    table = json.loads(tokenizer.backend_tokenizer.to_str())
    model = table["model"]
    names = (f"xx{index}" for index in range(len(tokenizer), size))
    if model["type"] == "Unigram":
        least = min(score for _, score in model["vocab"])
        model["vocab"] += [[f"▁{name}", least - 20.0] for name in names]
    else:
        model["vocab"] |= {f"Ġ{name}": len(tokenizer) + index for index, name in enumerate(names)}
    special = {
        name: getattr(tokenizer, name) for name in ("unk_token", "bos_token", "eos_token", "pad_token")
    }
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(table)),
        **{name: token for name, token in special.items() if token is not None},
    )


def _texts() -> Iterator[str]:
    """What the models read and write, without the characters that T5's vocabulary lacks."""
    absent = str.maketrans(dict.fromkeys("{}<>~^\\=", " "))
    types = load_domain(DOMAIN).types
    for sentence in read_demo(DOMAIN, "train").sentences:
        for text in (f"Find all entities of types {', '.join(types)} in", sentence.text):
            yield text.translate(absent)
        yield encode_entities(sentence, types).translate(absent)
    for chain in _chains():
        yield f"Reasoning information: {chain.initial} {chain.bidirectional}".translate(absent)


def _chains() -> list[ReasoningChain]:
    """The reasoning texts of the worked examples, as an LLM should write them."""
    return [
        ReasoningChain(example.initial, " ".join(f"{step.forward} {step.backward}" for step in example.steps))
        for example in load_examples(DOMAIN)
    ]


def vocabulary(subject: Subject) -> TokenizerVocabulary:
    return TokenizerVocabulary(AutoTokenizer.from_pretrained(subject.folder, trust_remote_code=False))


def examples(subject: Subject, n: int, *, reasoning: bool = False) -> list[TrainingExample]:
    """``n`` sentences of ``film`` of different lengths, repeated if there are fewer.

    With ``reasoning`` every second input is followed by a text, as in the paper's augmented training.
    """
    wire = wire_for(vocabulary(subject))
    types = load_domain(DOMAIN).types
    chains = cycle([chain for chain in _chains() for chain in (chain, None)] if reasoning else [None])
    sentences = islice(cycle(read_demo(DOMAIN, "train").sentences), n)
    return [
        TrainingExample(
            model_input(types, sentence, chain=chain, wire=wire),
            wire.to_wire(encode_entities(sentence, types)),
        )
        for sentence, chain in zip(sentences, chains, strict=False)
    ]
