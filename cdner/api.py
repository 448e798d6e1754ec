"""cdner from Python: load a trained model and find entities, or train one on your own sentences.

from cdner import Recognizer

recognizer = Recognizer.load("store/cdner.duckdb", "own:fused")
for entity in recognizer.predict("Nina Simone sang in Montreux.")[0]:
    print(entity.text, entity.type, entity.score)
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from cdner.config import Execution, Experiment, parts_of
from cdner.errors import InputError, UsageError
from cdner.types import Entity, Progress, Sentence, Split

if TYPE_CHECKING:
    from cdner.annotate.method import Method
    from cdner.annotate.worker import SentencePredictor

Text = str | Sequence[str]  # a sentence, or its tokens
Labelled = Sentence | tuple[Text, Sequence[tuple[int, int, str]]]
"""A sentence with entities: ``(start, end, type)``, in characters of a text, or in tokens of a list of tokens."""


@dataclass(frozen=True, slots=True)
class FoundEntity:
    """An entity in a sentence.

    ``start`` and ``end`` count characters (Unicode code points) of the text, or of the tokens joined by single spaces;
    ``start_token`` and ``end_token`` count tokens. Both ends are exclusive. ``score`` is the probability of the type,
    in [0, 1], None where the model has none; ``runner_up`` is the most probable other type.
    """

    text: str
    type: str
    start: int
    end: int
    start_token: int
    end_token: int
    score: float | None = None
    runner_up: str | None = None


class Recognizer:
    """A trained model of a store. Loads it at the first prediction; use as a context manager to close its LLM.

    Follows scikit-learn's habits: parameters are set in the constructor and read by ``get_params``; ``fit`` returns
    the recognizer.
    """

    def __init__(
        self,
        store: str | Path = "cdner.duckdb",
        *,
        experiment: str | Path = "own",
        setting: str = "without_all",
        domain: str = "mine",
        overrides: Sequence[str] = (),
        device: str = "auto",
        batch_size: int = 16,
        progress: bool | None = None,
    ) -> None:
        """``overrides``: settings as for ``--set``, e.g. "train_target.epochs=8".

        ``progress``: show progress on stderr; None: only on a terminal.
        """
        self.store, self.experiment, self.setting, self.domain = Path(store), str(experiment), setting, domain
        self.overrides, self.device, self.batch_size = tuple(overrides), device, batch_size
        self.progress = progress
        self._method: Method | None = None
        self._predictor: SentencePredictor | None = None

    @classmethod
    def load(
        cls,
        store: str | Path,
        model: str,
        *,
        backend: str | None = None,
        llm: str | None = None,
        device: str = "auto",
        batch_size: int = 16,
        progress: bool | None = None,
    ) -> Recognizer:
        """The model of a train, predict or fuse run: ``EXPERIMENT:SETTING``, or the beginning of a run id.

        ``backend`` and ``llm``: another LLM for reasoning texts or verdicts. Raises InputError if store or model are
        missing, UsageError if ``model`` names no run.
        """
        from cdner.store import Store
        from cdner.store.find import find_model_run

        found = cls(store, device=device, batch_size=batch_size, progress=progress)
        if not found.store.exists():
            raise InputError(f"There is no store at {store}.")
        given = {name: value for name, value in (("backend", backend), ("model", llm)) if value is not None}
        found._use(find_model_run(Store(found.store), model), given)
        return found

    @classmethod
    def load_folder(
        cls, folder: str | Path, *, device: str = "auto", batch_size: int = 16, progress: bool | None = None
    ) -> Recognizer:
        """A model that ``save`` wrote. Raises InputError for another folder, ModelError for changed weights."""
        from cdner.annotate.model_folder import read_model_folder

        found = cls(device=device, batch_size=batch_size, progress=progress)
        found._method = read_model_folder(Path(folder), Execution(device=device, batch_size=batch_size))
        return found

    def save(self, folder: str | Path) -> None:
        """Write the model as a folder that needs no store: weights, types, settings, and a card (README.md).

        Raises UsageError if the folder exists, or for a setting that asks an LLM.
        """
        from cdner.annotate.model_folder import Card, read_card, write_model_folder
        from cdner.store import Store

        method = self._loaded()
        has_store = self.store.exists()
        card = read_card(Store(self.store), method.model_run) if has_store else Card((), (), ())
        write_model_folder(method, card, Path(folder))

    def get_params(self, deep: bool = True) -> dict[str, Any]:  # noqa: ARG002  scikit-learn's
        """The parameters of the constructor."""
        names = ("store", "experiment", "setting", "domain", "overrides", "device", "batch_size", "progress")
        return {name: getattr(self, name) for name in names}

    @property
    def types(self) -> tuple[str, ...]:
        """The entity types that the model knows."""
        return self._loaded().types

    # --- predicting -----------------------------------------------------------------------------------------

    def predict(
        self, texts: Text | Sequence[Text], *, batch_size: int | None = None
    ) -> list[list[FoundEntity]]:
        """The entities of each sentence, in text order.

        ``texts``: one sentence or a list of sentences, each a string or a list of tokens. A list of strings is a list
        of sentences; tokens of one sentence are given as a list of lists.
        """
        from cdner.formats.exported import sureness

        several = [texts] if isinstance(texts, str) else list(texts)
        split = [_tokenised(text) for text in several]
        sentences = [Sentence(tokens) for tokens, _ in split]
        found = self._predicted(sentences, batch_size)
        return [
            [
                _found(text, spans, entity, said)
                for entity, said in zip(prediction.entities, sureness(prediction), strict=True)
            ]
            for text, (_, spans), prediction in zip(several, split, found, strict=True)
        ]

    def _predicted(self, sentences: Sequence[Sentence], batch_size: int | None) -> list[Any]:
        empty = [index for index, sentence in enumerate(sentences) if not sentence.tokens]
        asked = [sentence for sentence in sentences if sentence.tokens]
        if batch_size is not None and batch_size != self.batch_size:
            self.close()
            self.batch_size = batch_size
        with tempfile.TemporaryDirectory() as folder:
            found = [prediction for prediction, _ in self._open().predict(asked, Path(folder) / "answers")]
        from cdner.types import Prediction

        for index in empty:
            found.insert(index, Prediction("", ()))
        return found

    def close(self) -> None:
        """Release the model and close its LLM; the next prediction opens them again."""
        if self._predictor is not None:
            self._predictor.close()
            self._predictor = None

    def __enter__(self) -> Recognizer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self) -> SentencePredictor:
        from dataclasses import replace

        from cdner.annotate.worker import SentencePredictor

        if self._predictor is None:
            method = self._loaded()
            execution = method.experiment.execution.model_copy(update={"batch_size": self.batch_size})
            experiment = method.experiment.model_copy(update={"execution": execution})
            self._predictor = SentencePredictor(
                replace(method, experiment=experiment), progress=self._progress()
            )
        return self._predictor

    def _loaded(self) -> Method:
        if self._method is None:
            raise UsageError("This recognizer has no model yet. Train it with fit, or use Recognizer.load.")
        return self._method

    def _use(self, run_id: str, llm: dict[str, str]) -> None:
        from cdner.annotate.method import load_method
        from cdner.store import Store

        self.close()
        execution = Execution(device=self.device, batch_size=self.batch_size)
        self._method = load_method(
            Store(self.store), run_id, execution, llm=llm, progress=self._progress(), confidence=False
        )

    def _progress(self) -> Progress:
        import sys

        from cdner.console.progress import StderrProgress

        return StderrProgress(quiet=not (sys.stderr.isatty() if self.progress is None else self.progress))

    # --- training -------------------------------------------------------------------------------------------

    def fit(self, train: Iterable[Labelled], dev: Iterable[Labelled] = ()) -> Recognizer:
        """Train the setting of the experiment on labelled sentences, and use the model.

        ``dev`` is needed for fused settings. Without it, training sentences stand in for it, with a warning. Finished
        steps are found in the store: fitting again on the same sentences trains nothing.
        """
        from cdner.console.experiment_options import compose_experiment
        from cdner.experiment.execute import execute, label_plan
        from cdner.experiment.plan import build_plan
        from cdner.experiment.preflight import check_plan
        from cdner.steps.context import open_context

        progress = self._progress()
        splits = {"train": [_labelled(row) for row in train], "dev": [_labelled(row) for row in dev]}
        if not splits["dev"]:
            if parts_of(self.setting).judged:
                raise UsageError(f"The setting '{self.setting}' learns weights on dev: give dev sentences.")
            progress.warn(
                "No dev sentences: training sentences stand in for them, so scores on dev mean nothing."
            )
            splits["dev"] = splits["train"]
        self._store_sentences(splits, progress)
        composed = compose_experiment(
            self.experiment, {"target": self.domain, "device": self.device}, self.overrides
        )
        changes = {"settings": (self.setting,), "splits": ("dev",)}
        experiment = Experiment.model_validate({**composed.model_dump(mode="python"), **changes})
        with open_context(self.store, experiment, progress=progress) as context:
            plan = build_plan(experiment, context)
            fused = [step for step in plan.steps if step.label == f"fuse:{self.setting}/dev"]
            last = fused[0] if fused else plan.by_label[f"train:{self.setting}"]
            needed = plan.closure([last.label])
            check_plan(needed, context)
            label_plan(needed, context, whole=False)
            execute(needed, context)
        self._use(last.spec.run_id, {})
        return self

    def _store_sentences(self, splits: dict[str, list[Sentence]], progress: Progress) -> None:
        from typing import cast

        from cdner.experiment.annotated_corpora import import_sentences
        from cdner.files import content_hash

        found: dict[Split, tuple[str, list[Sentence]]] = {
            cast(Split, split): (
                content_hash(
                    [[list(s.tokens), [[e.start, e.end, e.type] for e in s.entities]] for s in sentences]
                ),
                sentences,
            )
            for split, sentences in splits.items()
        }
        import_sentences(
            self.store, found, domain=self.domain, role="target", labels=(), repairs=(), progress=progress
        )


def _tokenised(text: Text) -> tuple[tuple[str, ...], list[tuple[int, int]]]:
    """Tokens, and the characters of each in the text."""
    from cdner.formats.annotated_text import token_spans

    if isinstance(text, str):
        spans = token_spans(text, 0, len(text))
        return tuple(text[start:end] for start, end in spans), spans
    starts = [0]
    for token in text:
        starts.append(starts[-1] + len(token) + 1)
    return tuple(text), [(start, start + len(token)) for start, token in zip(starts, text, strict=False)]


def _found(text: Text, spans: Sequence[tuple[int, int]], entity: Entity, said: Any) -> FoundEntity:
    start, end = spans[entity.start][0], spans[entity.end - 1][1]
    whole = text if isinstance(text, str) else " ".join(text)
    score, runner_up = (said.score, said.runner_up) if said else (None, None)
    return FoundEntity(whole[start:end], entity.type, start, end, entity.start, entity.end, score, runner_up)


def _labelled(row: Labelled) -> Sentence:
    """Raises InputError for entities that overlap or leave the sentence."""
    from cdner.formats.annotated_text import AnnotatedText, Mark, Repairs, sentences_of
    from cdner.spans import bio_to_entities, entities_to_bio

    if isinstance(row, Sentence):
        return row
    text, entities = row
    if isinstance(text, str):
        document = AnnotatedText(text, tuple(Mark(*entity) for entity in entities), f"'{text[:40]}'")
        return next(iter(sentences_of(document, Repairs(), whole=True)))
    try:
        tags = entities_to_bio(len(text), [Entity(*entity) for entity in entities])
    except ValueError as error:
        raise InputError(f"'{' '.join(text)[:40]}': {error}.") from error
    return Sentence(tuple(text), bio_to_entities(tags)[0])
