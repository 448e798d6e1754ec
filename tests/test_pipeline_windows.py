"""What a step holds in memory does not grow with the corpus, and windows change no result.

Instant stand-ins for the models: what is measured is everything around them. Python's own allocations are counted;
the windows are made small, so that small corpora have many.
"""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
from codec_vocabularies import byte_level_vocabulary
from pipeline_experiments import sql
from store_examples import DOMAIN, import_corpus

from cdner.config import BackboneChoice, Execution, Experiment, Reasoning
from cdner.config import Prediction as PredictionSettings
from cdner.errors import InputTooLongError
from cdner.files import Json
from cdner.llm.scripted import ScriptedBackend, written
from cdner.models import open_backbone
from cdner.steps import asking, evaluating, predicting, reasoning
from cdner.steps.context import Context
from cdner.steps.holders import ModelHolder
from cdner.steps.kinds import KINDS
from cdner.steps.step import Step
from cdner.store import Store
from cdner.store.llm_log import load_reasoning
from cdner.store.predictions import load_predictions
from cdner.store.runs import run_spec
from cdner.types import (
    Completion,
    Corpus,
    Entity,
    Gap,
    Generation,
    Message,
    ModelInput,
    Prediction,
    ReasoningRequest,
    Sampling,
    Sentence,
    TextGenerator,
    Vocabulary,
)

Prepared = TypeVar("Prepared")
SMALL, LARGE, WINDOW = 500, 2500, 250
ROOM = 1.3  # how much more the large corpus may take: the figure demanded for a million sentences
ANSWER = '{"initial_reasoning": "It is %d.", "bidirectional_reasoning": "%s"}'


def corpus_of(n: int) -> Corpus:
    """Different sentences, every third with an entity, every tenth like one long before."""
    numbers = [number - number % 10 if number % 10 == 9 else number for number in range(n)]
    sentences = [
        Sentence(
            (f"name{number}", "plays", *(f"word{number}" for _ in range(number % 7)), "."),
            (Entity(0, 1, "actor"),) if number % 3 == 0 else (),
        )
        for number in numbers
    ]
    return Corpus("films", "test", tuple(sentences), types=("actor",))


class Silent:
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def start(self, label: str, total: int | None = None) -> None: ...

    def advance(self, n: int = 1, note: str = "") -> None: ...

    def warn(self, text: str) -> None:
        self.warnings.append(text)


@dataclass
class Instant:
    """Calls every sentence's first word an actor, in an order of its own; counts what it gets at once."""

    sizes: list[int]

    @property
    def vocabulary(self) -> Vocabulary:
        return byte_level_vocabulary()

    def generate(self, inputs: Sequence[ModelInput], **_: Any) -> Iterator[tuple[int, Generation]]:
        self.sizes.append(len(inputs))
        for index in reversed(range(len(inputs))):
            first_word = inputs[index][1].text.split()[0]
            yield index, Generation(f'{{"actor": ["{first_word}"]}}', 9, 0, 4, "stop")


def step_of(kind: str, settings: dict[str, Json], **inputs: str) -> Step:
    spec = run_spec(kind, 1, {**settings, "roles": list(inputs)}, tuple(inputs.values()))
    return Step(f"{kind}:full/test", kind, spec, {role: role for role in inputs})


def context_of(store: Store, *, execution: Execution | None = None) -> Context:
    llm = Reasoning(backend="scripted", model="m", retries=0)
    experiment = Experiment(name="e", reason=llm, execution=execution or Execution())
    return Context(store, experiment, Silent())


@pytest.fixture(autouse=True)
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predicting, "PREDICTED", WINDOW)
    monkeypatch.setattr(reasoning, "ASKED", WINDOW)
    monkeypatch.setattr(evaluating, "EVALUATED", WINDOW)
    monkeypatch.setattr(asking, "LARGEST_GROUP", WINDOW)


def peaks(
    prepare: Callable[[int, Path], Prepared], work: Callable[[Prepared], object], folder: Path
) -> tuple[int, int]:
    """Bytes that Python had allocated at most during the work on the small and on the large corpus.

    It is done once before for what stays: imports, caches, and the tuples that Python keeps for the next ones.
    """
    found = []
    for number, n in enumerate((LARGE, SMALL, LARGE)):
        (own := folder / str(number)).mkdir()
        prepared = prepare(n, own)
        gc.collect()
        gc.freeze()  # the more objects there are, the longer Python lets those in cycles lie
        if number:
            tracemalloc.start()
        work(prepared)
        found.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        gc.unfreeze()
    return found[1], found[2]


def with_corpus(n: int, folder: Path) -> tuple[Store, str]:
    """A store with a corpus of so many sentences, and its import run."""
    store = Store(folder / "s.duckdb")
    return store, import_corpus(store, corpus_of(n))


# --- the steps --------------------------------------------------------------------------------------------


def predict(
    store: Store,
    corpus_run: str,
    monkeypatch: pytest.MonkeyPatch,
    *,
    n: Json = 0,
    backbone: TextGenerator | None = None,
) -> tuple[str, list[int]]:
    """The run, and how many sentences the backbone got at a time."""
    instant = Instant([])
    monkeypatch.setattr(ModelHolder, "predictor", lambda *_: backbone or instant)
    settings: dict[str, Json] = {"n": n, "types": list(DOMAIN.types), "predict": {"max_new_tokens": 8}}
    step = step_of("predict", settings, corpus=corpus_run)
    predicting.predict(step, context_of(store))
    return step.spec.run_id, instant.sizes


def request_of(text: str) -> ReasoningRequest:
    return ReasoningRequest((Message("system", "fixed"), Message("user", text)), Sampling(9))


def answered(request: ReasoningRequest) -> Completion | Gap:
    text = request.messages[-1].content
    return Gap("busy") if text.startswith("name77 ") else written(ANSWER % (len(text), text))


def reason(store: Store, corpus_run: str, monkeypatch: pytest.MonkeyPatch, *, max_gaps: int = 2) -> Step:
    """The real step but for its prompt: that of a quantify run, which is not there."""
    monkeypatch.setattr(
        reasoning, "request_maker", lambda *_, **__: lambda texts: tuple(map(request_of, texts))
    )
    step = step_of("reason", {"n": 0, "setting": "full"}, corpus=corpus_run, confusion="none")
    context = context_of(store, execution=Execution(max_gaps=max_gaps))
    context.llms._backends["scripted", "m"] = ScriptedBackend(answered, model="m", at_hand=True)
    reasoning.reason(step, context)
    return step


def evaluate(store: Store, corpus_run: str, predictions: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(Context, "domain", lambda *_: DOMAIN)
    step = step_of("evaluate", {"split": "test"}, predictions=predictions, corpus=corpus_run)
    evaluating.evaluate(step, context_of(store))
    return step.spec.run_id


# --- memory -----------------------------------------------------------------------------------------------


def test_five_times_as_many_sentences_are_predicted_and_evaluated_in_the_same_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(prepared: tuple[Store, str]) -> None:
        run_id, _ = predict(*prepared, monkeypatch)
        evaluate(*prepared, run_id, monkeypatch)

    small, large = peaks(with_corpus, work, tmp_path)
    assert large < ROOM * small


def test_five_times_as_many_sentences_are_reasoned_about_in_the_same_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(prepared: tuple[Store, str]) -> None:
        step = reason(*prepared, monkeypatch)
        assert asking.must_ask(
            KINDS[step.kind], step, context_of(prepared[0])
        )  # the gap; it looks at windows, too

    small, large = peaks(with_corpus, work, tmp_path)
    assert large < ROOM * small


# --- results ----------------------------------------------------------------------------------------------


def test_windows_change_no_prediction_no_reasoning_and_no_score(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = []
    for size in (WINDOW, 10 * SMALL):
        store = Store(tmp_path / f"{size}.duckdb")
        corpus_run = import_corpus(store, corpus_of(SMALL))
        monkeypatch.setattr(predicting, "PREDICTED", size)
        monkeypatch.setattr(reasoning, "ASKED", size)
        monkeypatch.setattr(evaluating, "EVALUATED", size)
        run_id, sizes = predict(store, corpus_run, monkeypatch)
        assert sizes == ([WINDOW] * (SMALL // WINDOW) if size == WINDOW else [SMALL])
        asked = reason(store, corpus_run, monkeypatch)
        scored = evaluate(store, corpus_run, run_id, monkeypatch)
        scores = sql(store.path, f"SELECT * FROM score WHERE run_id = '{scored}' ORDER BY ALL")
        requests = sql(store.path, "SELECT request_id FROM completion ORDER BY ALL")
        chains = load_reasoning(store, asked.spec.run_id)
        tables.append((load_predictions(store, run_id), chains, scores, requests))
    assert tables[0] == tables[1]
    predictions, chains, scores, _ = tables[0]
    assert len(predictions) == SMALL
    assert len(chains) == SMALL - 1
    assert len(scores) > len(DOMAIN.types)


def test_a_run_cut_off_between_windows_predicts_only_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "s.duckdb")
    corpus_run = import_corpus(store, corpus_of(SMALL))
    run_id, _ = predict(store, corpus_run, monkeypatch, n=SMALL)
    whole = load_predictions(store, run_id)
    with store.transaction() as connection:
        for table in ("prediction", "predicted_entity"):
            connection.execute(f"DELETE FROM {table} WHERE position BETWEEN 200 AND 259 OR position = 499")
    again, sizes = predict(store, corpus_run, monkeypatch, n=SMALL)
    assert again == run_id
    assert sizes == [50, 11]
    assert load_predictions(store, run_id) == whole
    assert predict(store, corpus_run, monkeypatch, n=SMALL)[1] == []


def test_a_sentence_beyond_the_window_is_a_counted_prediction_of_nothing(
    tmp_path: Path, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = open_backbone(BackboneChoice(family="causal", model=str(tiny_llama), dtype="float32"))
    short, endless = corpus_of(6), Sentence(("word",) * 600)
    mixed = replace(short, sentences=(*short.sentences[:4], endless, *short.sentences[4:]))
    found = {}
    for name, corpus in (("short", short), ("mixed", mixed)):
        store = Store(tmp_path / f"{name}.duckdb")
        run_id, _ = predict(store, import_corpus(store, corpus), monkeypatch, backbone=backbone)
        found[name] = load_predictions(store, run_id)
        if name == "mixed":
            rows = sql(
                store.path, "SELECT n_truncated_tokens, n_output_tokens FROM prediction WHERE position = 4"
            )
    assert rows[0][0] > 512
    assert rows[0][1] == 0
    assert found["mixed"].pop(4) == Prediction("", (), {"too_long": 1})
    assert list(found["mixed"].values()) == list(found["short"].values())
    with pytest.raises(InputTooLongError, match="tokens that must be kept, the model takes"):
        predicting.predict_all(
            backbone,
            [endless],
            [None],
            types=DOMAIN.types,
            context=context_of(store),
            settings=PredictionSettings(max_new_tokens=8),
        )
