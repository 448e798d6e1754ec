"""A store with two seeds of a matrix's cell, and everything that was put into it as plain values for slow twins."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cli_stores import finish_run
from store_examples import DOMAIN, GENERATION, import_corpus

from cdner.evaluate import error_proportions, score
from cdner.store import Store
from cdner.store.llm_log import save_completions, save_reasoning, save_requests
from cdner.store.predictions import save_predictions
from cdner.store.runs import label_experiment
from cdner.store.scores import ErrorRow, ScoreRow, save_scores
from cdner.types import (
    Completion,
    Corpus,
    Entity,
    Gap,
    Message,
    Prediction,
    ReasoningChain,
    ReasoningRequest,
    Sampling,
    Sentence,
)

TYPES = DOMAIN.types
MATRIX = "matrix@cpu"
CELLS = tuple(f"{MATRIX}[target=films,seed={seed}]" for seed in (0, 1))
CELL = f"{MATRIX}[target=films]"
SETTINGS = ("without_all", "without_backward", "full", "llm_only")
N_SENTENCES = 40
Part = tuple[str, str]  # experiment, setting
Entities = tuple[Entity, ...]


@dataclass(slots=True)
class Told:
    """What the store was told."""

    store: Store
    corpus_run: str
    gold: tuple[Sentence, ...]
    predicted: dict[Part, dict[int, Entities]] = field(default_factory=dict)
    reasoned: dict[Part, dict[int, ReasoningChain | Gap]] = field(default_factory=dict)
    runs: dict[tuple[str, str], str] = field(default_factory=dict)  # (experiment, label) -> run id
    calls: dict[Part, list[Completion]] = field(default_factory=dict)  # all its score rests on


def random_entities(generator: random.Random) -> Entities:
    cuts = sorted(generator.sample(range(13), 6))
    spans = zip(cuts[::2], cuts[1::2], strict=True)
    return tuple(
        Entity(start, end, generator.choice(TYPES)) for start, end in spans if generator.random() < 0.8
    )


def guess(generator: random.Random, gold: Entities) -> Entities:
    """Now and then unrelated to the gold entities, else some of their spans, half of them with a random type."""
    if generator.random() < 0.2:
        return random_entities(generator)
    return tuple(
        Entity(e.start, e.end, generator.choice((e.type, e.type, *TYPES)))
        for e in gold
        if generator.random() < 0.8
    )


def told_store(path: Path) -> Told:
    """Two cells with four settings each; ``full`` of the first cell was run before with other settings."""
    generator = random.Random(11)
    sentences = tuple(
        Sentence(tuple(f"W{position}.{n}" for n in range(12)), random_entities(generator))
        for position in range(N_SENTENCES)
    )
    store = Store(path)
    corpus_run = import_corpus(store, Corpus("films", "test", sentences, types=TYPES))
    import_corpus(store, Corpus("films", "dev", sentences[::-1], types=TYPES))  # must not leak into joins
    told = Told(store, corpus_run, sentences)
    outdated = finish_run(store, "predict", corpus_run, seed=999)
    _predict(told, outdated, {0: (Entity(0, 12, "misc"),)})
    label_experiment(store, CELLS[0], [(outdated, "predict:full/test")])
    for seed, cell in enumerate(CELLS):
        for number, setting in enumerate(SETTINGS):
            _add_setting(told, generator, (cell, setting), seed=10 * seed + number)
    return told


def _add_setting(told: Told, generator: random.Random, part: Part, *, seed: int) -> None:
    """Its reasoning, predictions and scores; the LLM alone has predicted every second sentence only."""
    setting = part[1]
    step = "extract" if setting == "llm_only" else "predict"
    inputs = [told.corpus_run]
    if setting in ("without_backward", "full"):
        inputs.append(_reason(told, generator, part, "reason", seed=seed))
    if step == "extract":
        run_id = _reason(told, generator, part, step, seed=seed)
    else:
        run_id = finish_run(told.store, step, *inputs, seed=seed)
    kept = range(0, N_SENTENCES, 2 if step == "extract" else 1)
    told.predicted[part] = {i: guess(generator, told.gold[i].entities) for i in kept}
    _predict(told, run_id, told.predicted[part])
    evaluate = finish_run(told.store, "evaluate", run_id, told.corpus_run, seed=seed)
    _score(told, evaluate, part)
    labels = [(run_id, f"{step}:{setting}/test"), (evaluate, f"evaluate:{setting}/test")]
    label_experiment(told.store, part[0], labels)
    told.runs |= {(part[0], label): name for name, label in labels}


def _reason(told: Told, generator: random.Random, part: Part, step: str, *, seed: int) -> str:
    """A text a sentence. Both seeds ask the same: the second pays only for a retry of its own."""
    run_id = finish_run(told.store, step, told.corpus_run, seed=seed)
    requests = [
        ReasoningRequest((Message("user", f"{part[1]} {position}"),), Sampling(9))
        for position in range(N_SENTENCES)
    ]
    ids = save_requests(told.store, "scripted", "listener", requests)
    if part[0] == CELLS[0]:
        calls = [_completion(generator) for _ in ids]
        save_completions(told.store, run_id, list(zip(ids, calls, strict=True)))
    else:
        calls = list(told.calls[CELLS[0], part[1]])
        retry = ReasoningRequest(requests[0].messages, Sampling(9, seed=1))
        retried = save_requests(told.store, "scripted", "listener", [retry])
        own = _completion(generator)
        save_completions(told.store, run_id, [(retried[0], own)])
        calls.append(own)
    told.calls[part] = calls
    texts = {
        position: Gap("timeout") if position % 7 == 3 else _chain(told.gold[position], f"i {part} {position}")
        for position in range(N_SENTENCES)
    }
    told.reasoned[part] = texts  # type: ignore[assignment]
    save_reasoning(told.store, run_id, [(p, ids[p], text) for p, text in texts.items()])  # type: ignore[misc]
    told.runs[part[0], f"{step}:{part[1]}/test"] = run_id
    label_experiment(told.store, part[0], [(run_id, f"{step}:{part[1]}/test")])
    return run_id


def _chain(sentence: Sentence, begin: str) -> ReasoningChain:
    """Names what stands in the sentence's first half, in small letters; a third has no second part."""
    named = [e for e in sentence.entities if e.start < 6]
    words = [
        f"{mention(sentence, (e.start, e.end)).lower()} {TYPES[e.end % len(TYPES)].title()}" for e in named
    ]
    return ReasoningChain(" ".join((begin, *words)), "" if len(named) == 1 else "b")


def _completion(generator: random.Random) -> Completion:
    cost = generator.choice((None, generator.random()))
    return Completion("text", "stop", 50, 10, generator.randrange(1, 90), generator.random(), cost)


def _predict(told: Told, run_id: str, predicted: dict[int, Entities]) -> None:
    items = [(position, Prediction("{}", found), GENERATION) for position, found in predicted.items()]
    save_predictions(told.store, run_id, items, corpus_run_id=told.corpus_run)


def _score(told: Told, run_id: str, part: Part) -> None:
    gold, predictions = scored(told, part)
    scores = [
        ScoreRow(
            *("films", "test", row.metric, row.entity_type, row.n_gold, row.n_predicted, row.n_correct),
            *(row.precision, row.recall, row.f1),
        )
        for row in score(gold, predictions, TYPES)
    ]
    errors = [
        ErrorRow(
            *("films", "test", row.entity_type, row.n_gold, row.n_missed, row.n_boundary),
            *(row.n_misclassified, row.n_spurious),
        )
        for row in error_proportions(gold, predictions, TYPES)
    ]
    save_scores(told.store, run_id, scores, errors=errors)


def scored(told: Told, part: Part) -> tuple[list[Sentence], list[Prediction]]:
    """The sentences a setting has predicted, and what it predicted."""
    found = told.predicted[part]
    return [told.gold[i] for i in found], [Prediction("{}", entities) for entities in found.values()]


def exact(entities: Entities, span: Entity) -> str | None:
    """The type predicted for exactly this span."""
    return next((e.type for e in entities if (e.start, e.end) == (span.start, span.end)), None)


def outcome_counts(told: Told, part: Part) -> Counter[tuple[str, str]]:
    """(gold type, "wrong" or "missed") -> how many."""
    counts: Counter[tuple[str, str]] = Counter()
    for position, entities in told.predicted[part].items():
        for gold in told.gold[position].entities:
            found = exact(entities, gold)
            if found != gold.type:
                counts[gold.type, "missed" if found is None else "wrong"] += 1
    return counts


def mention(sentence: Sentence, span: Sequence[int]) -> str:
    return " ".join(sentence.tokens[span[0] : span[1]])
