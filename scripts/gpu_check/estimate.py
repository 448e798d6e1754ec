"""Estimates the hours, memory and cost of an experiment with a Flan-T5 on CUDA cards, without running it.

The estimate follows from the model's dimensions, the corpora's token counts, and the assumptions below, which the
table states. Importing this file imports no torch, and nothing here uses the network.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from shapes import BACKWARD, FLAN_T5, T5Shape

from cdner.config import REASONING_SETTINGS, SETTINGS, Experiment, Prediction, Training, load_experiment
from cdner.llm.prices import SHIPPED, cost_usd, price_of

GIB = 2**30
EXPERIMENTS = Path(__file__).resolve().parents[1] / "experiments"
BEGIN, END = "# --- estimate: begin ---", "# --- estimate: end ---"


@dataclass(frozen=True, slots=True)
class Card:
    gib: int
    name: str
    tflops: float  # dense bf16, as its maker states it


CARDS = (Card(24, "A10", 125), Card(48, "A40", 150), Card(80, "A100", 312))
SHARE = 0.25  # of the card's peak, in training and in reading a prompt
# Shortest time, because a GPU waits for the host to start its kernels.
SECONDS_A_TRAINING_LAYER = 0.0015  # of a training step, for each layer of encoder and decoder
SECONDS_A_DECODER_LAYER = 0.001  # of an output token of a batch, for each layer of the decoder
LONGEST = 2  # the longest output of a batch, in mean outputs: all its rows wait for it
CONTEXT_GIB = 1.5  # CUDA's context, cuBLAS's workspace, memory that the allocator cannot use
PREDICTION_BATCH = 16  # Execution.batch_size
# Of the LLM.
REASONING_TOKENS = 420  # of an answer: the paper's four samples have 390 to 444 tokens of T5
DESCRIPTION_TOKENS = (700, 120)  # of a request and its answer
CHARACTERS_PER_TOKEN = 4  # as cdner's own forecast counts where it has no tokenizer
SECONDS_AN_ANSWER = 8.0
AT_ONCE = 8  # Execution.concurrency


@dataclass(frozen=True, slots=True)
class Split:
    """A split by T5's own tokenizer, in cdner's prompt and answer form, end tokens included."""

    n_sentences: int
    n_source: int  # tokens of all inputs without reasoning
    n_target: int
    longest: tuple[int, int]  # input and answer: mean of the ten longest of each


# Counted by scripts/gpu_check/token_counts.py; a test counts them again.
SPLITS: Mapping[tuple[str, str], Split] = {
    ("conll2003", "train"): Split(14041, 529271, 266559, (130, 118)),
    ("conll2003", "dev"): Split(3250, 128565, 66171, (162, 130)),
    ("ai", "train"): Split(100, 9143, 5255, (143, 104)),
    ("ai", "dev"): Split(350, 28257, 15050, (145, 109)),
    ("ai", "test"): Split(431, 34002, 17582, (149, 121)),
}
N_TYPES = {"ai": 14}
# Characters of a reasoning request with ten examples: mean over the sentences of ai.
PROMPT_CHARACTERS = {
    "without_backward": 16583,
    "without_initial": 16609,
    "without_initial_and_backward": 12033,
    "full": 21159,
}


@dataclass(frozen=True, slots=True)
class Step:
    label: str
    n: int  # such steps
    n_sentences: int  # of each
    gib: tuple[float, float]  # on the card, at least and at most; (0, 0) = no card is used
    seconds: tuple[float, ...]  # of each, by card
    usd: float = 0.0  # of each


def table(name: str) -> str:
    """Comment lines for ``scripts/experiments/<name>.toml``, between BEGIN and END. ValueError for another model."""
    experiment = load_experiment(EXPERIMENTS / f"{name}.toml")
    steps = list(_steps(experiment, _shape(experiment)))
    lines = textwrap.wrap(_assumptions(), 116, break_on_hyphens=False)
    head = ["step", "times", "sentences", "GiB", *(f"h {card.gib} GiB" for card in CARDS), "US$"]
    rows = [head, *(_cells(step) for step in steps), _total(steps)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for first, *rest in rows:
        cells = [first.ljust(widths[0]), *(c.rjust(w) for c, w in zip(rest, widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join([BEGIN, *(f"# {line}" for line in lines), END])


def in_file(name: str) -> str:
    """The table as the experiment's file has it; "" without one."""
    text = (EXPERIMENTS / f"{name}.toml").read_text(encoding="utf-8")
    start, end = text.find(BEGIN), text.find(END)
    return text[start : end + len(END)] if 0 <= start < end else ""


def _shape(experiment: Experiment) -> T5Shape:
    family, _, size = experiment.backbone.model.partition("flan-t5-")
    if family != "google/" or size not in FLAN_T5:
        raise ValueError(f"{experiment.name}: an estimate needs google/flan-t5-base or -large as backbone")
    if (experiment.corpora.source, experiment.corpora.target) != ("conll2003", "ai") or experiment.vary:
        raise ValueError(f"{experiment.name}: tokens are counted for conll2003 -> ai alone")
    _refuse_what_is_not_counted(experiment)
    return FLAN_T5[size]


def _refuse_what_is_not_counted(experiment: Experiment) -> None:
    """ValueError for settings whose steps have no row in the table, so that no total is too low without a word."""
    counted = ("without_all", *REASONING_SETTINGS)
    if other := [setting for setting in experiment.settings if setting not in counted]:
        raise ValueError(
            f"{experiment.name}: an estimate has no row for the LLM's verdicts and its own entities; "
            f"leave out the setting {other[0]}"
        )
    for name, settings in (("predict", experiment.predict), ("evidence", experiment.evidence)):
        for key in ("confidence", "engine", "decoding"):  # not tags: a Flan-T5 writes text
            if getattr(settings, key) != Prediction.model_fields[key].default:
                raise ValueError(f"{experiment.name}: an estimate has no row for {name}.{key}; leave it out")


def _assumptions() -> str:
    cards = ", ".join(f"{card.gib} GiB {card.name} {card.tflops:g}" for card in CARDS)
    return (
        "An estimate, not a measurement: it was not run. Assumed: bf16; "
        f"{SHARE:.0%} of the card's peak (dense bf16 TFLOP/s: {cards}); a training step takes at least "
        f"{1000 * SECONDS_A_TRAINING_LAYER:g} ms a layer and an output token {1000 * SECONDS_A_DECODER_LAYER:g} ms a "
        f"decoder layer; the longest of {PREDICTION_BATCH} outputs is {LONGEST} times the mean; GiB of a batch of "
        f"the longest, with a fused attention kernel and without (? = room only with it), {CONTEXT_GIB:g} of them for "
        f"CUDA; LLM requests without cached tokens and retries at {CHARACTERS_PER_TOKEN} characters "
        f"a token, answers of {REASONING_TOKENS} tokens and {SECONDS_AN_ANSWER:g} s, {AT_ONCE} at once, prices of "
        f"{_price_date()}. Sentences and tokens are those of all of CoNLL2003 and CrossNER ai. Hours and GiB are of "
        "each step, the last row of all. Printed by scripts/gpu-check --estimate."
    )


def _price_date() -> str:
    lines = SHIPPED.read_text(encoding="utf-8").splitlines()
    return next(line.partition("=")[2].strip(' "') for line in lines if line.startswith("date"))


# --- the steps -------------------------------------------------------------------------------------------


def _steps(experiment: Experiment, shape: T5Shape) -> Iterator[Step]:
    with_texts = [setting for setting in experiment.settings if SETTINGS[setting].reasoning]
    without = [setting for setting in experiment.settings if not SETTINGS[setting].reasoning]
    source = SPLITS["conll2003", "train"], SPLITS["conll2003", "dev"]
    target = SPLITS["ai", "train"], SPLITS["ai", "dev"]
    scored = [SPLITS["ai", split] for split in experiment.splits]
    # Where both settings are the same, the predictions on dev for MCQM are also the ones that are scored.
    family = experiment.backbone.family
    is_same = experiment.evidence.identity_of(family) == experiment.predict.identity_of(family)
    evidence = target[: 1 if is_same else 2]
    yield _training("train source", 1, experiment.train_source, source, shape=shape, n_reasoning=0)
    yield _training("train target", len(without), experiment.train_target, target, shape=shape, n_reasoning=0)
    yield _prediction("predict for MCQM", 1, evidence, shape=shape, n_reasoning=0)
    yield _describing(experiment)
    for setting in with_texts:
        yield _reasoning(setting, experiment)
    augmented = experiment.train_augmented
    yield _training(
        "train with reasoning", len(with_texts), augmented, target, shape=shape, n_reasoning=REASONING_TOKENS
    )
    yield _prediction("predict", len(without), scored, shape=shape, n_reasoning=0)
    yield _prediction(
        "predict with reasoning", len(with_texts), scored, shape=shape, n_reasoning=REASONING_TOKENS
    )


def _training(
    label: str, n: int, settings: Training, splits: tuple[Split, Split], *, shape: T5Shape, n_reasoning: int
) -> Step:
    """All epochs, each with its loss on dev."""
    train, dev = splits
    work = _flops(train, shape, n_reasoning) * (1 + BACKWARD), _flops(dev, shape, n_reasoning)
    n_steps = tuple(math.ceil(split.n_sentences / settings.batch_size) for split in splits)
    floor = 2 * shape.num_layers * SECONDS_A_TRAINING_LAYER
    seconds = tuple(
        settings.epochs
        * (
            max(work[0] / _speed(card), n_steps[0] * floor)
            + max(work[1] / _speed(card), n_steps[1] * floor / (1 + BACKWARD))
        )
        for card in CARDS
    )
    longest, answer = max(train.longest, dev.longest)
    least, most = (
        shape.training_bytes(settings.batch_size, longest + n_reasoning, answer, fused=fused) / GIB
        + CONTEXT_GIB
        for fused in (True, False)
    )
    return Step(label, n, train.n_sentences, (least, most), seconds)


def _prediction(label: str, n: int, splits: Sequence[Split], *, shape: T5Shape, n_reasoning: int) -> Step:
    n_sentences = sum(split.n_sentences for split in splits)
    n_batches = sum(math.ceil(split.n_sentences / PREDICTION_BATCH) for split in splits)
    n_target = sum(split.n_target for split in splits) / n_sentences
    work = sum(_flops(split, shape, n_reasoning) for split in splits)
    waiting = n_batches * LONGEST * n_target * shape.num_layers * SECONDS_A_DECODER_LAYER
    longest, answer = max(split.longest for split in splits)
    needed = shape.prediction_bytes(PREDICTION_BATCH, longest + n_reasoning, answer) / GIB + CONTEXT_GIB
    seconds = tuple(work / _speed(card) + waiting for card in CARDS)
    return Step(label, n, n_sentences, (needed, needed), seconds)


def _flops(split: Split, shape: T5Shape, n_reasoning: int) -> float:
    """Of one forward pass over all sentences, as if all had the mean length."""
    n = split.n_sentences
    return n * shape.flops(split.n_source / n + n_reasoning, split.n_target / n)


def _speed(card: Card) -> float:
    return card.tflops * 1e12 * SHARE


def _describing(experiment: Experiment) -> Step:
    n, (prompt, answer) = N_TYPES["ai"], DESCRIPTION_TOKENS
    return _asking("describe types", n, experiment.describe.model, n_prompt=prompt, n_answer=answer)


def _reasoning(setting: str, experiment: Experiment) -> Step:
    """About the sentences of train and of what is scored."""
    splits = dict.fromkeys(("train", "dev", *experiment.splits))
    n = sum(SPLITS["ai", split].n_sentences for split in splits)
    prompt = PROMPT_CHARACTERS[setting] / CHARACTERS_PER_TOKEN
    return _asking(
        f"reason {setting}", n, experiment.reason.model, n_prompt=prompt, n_answer=REASONING_TOKENS
    )


def _asking(label: str, n_calls: int, model: str, *, n_prompt: float, n_answer: float) -> Step:
    price = price_of(model)
    if price is None:
        raise ValueError(f"no price is known for {model}")
    usd = cost_usd(
        price,
        input_tokens=round(n_calls * n_prompt),
        cached_tokens=0,
        output_tokens=round(n_calls * n_answer),
    )
    seconds = math.ceil(n_calls / AT_ONCE) * SECONDS_AN_ANSWER
    return Step(label, 1, n_calls, (0.0, 0.0), (seconds,) * len(CARDS), usd)


# --- as text ---------------------------------------------------------------------------------------------


def _cells(step: Step) -> list[str]:
    hours = [_hours(seconds, step.gib, card) for seconds, card in zip(step.seconds, CARDS, strict=True)]
    usd = "-" if not step.usd else "<0.01" if step.usd < 0.005 else f"{step.usd:.2f}"
    return [step.label, str(step.n), f"{step.n_sentences:,}", _gib(step.gib), *hours, usd]


def _total(steps: Sequence[Step]) -> list[str]:
    gib = max(step.gib for step in steps)
    seconds = [sum(step.n * step.seconds[index] for step in steps) for index in range(len(CARDS))]
    usd = sum(step.n * step.usd for step in steps)
    hours = [_hours(each, gib, card) for each, card in zip(seconds, CARDS, strict=True)]
    return ["all", "", "", _gib(gib), *hours, f"{usd:.2f}"]


def _gib(gib: tuple[float, float]) -> str:
    least, most = (f"{each:.1f}" for each in gib)
    if most == "0.0":
        return "-"
    return most if least == most else f"{least}-{most}"


def _hours(seconds: float, gib: tuple[float, float], card: Card) -> str:
    least, most = gib
    if least > card.gib:
        return "no room"
    hours = seconds / 3600
    return ("<0.01" if hours < 0.005 else f"{hours:.2f}") + ("?" if most > card.gib else "")
