"""What the tests of bulk annotation share: a method on a tiny model, no store, inputs, and folders as values."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from chat_servers import Reply, after, said

from cdner import prompts
from cdner.annotate.driver import Outcome, annotate
from cdner.annotate.method import Asking, Method
from cdner.annotate.source import open_source
from cdner.annotate.worker import Silent, Workers
from cdner.config import BackboneChoice, Corpora, Execution, Experiment, Prediction, Reasoning, Training
from cdner.files import content_hash
from cdner.models.weights import Card, write_card
from cdner.reasoning import reasoning_requests
from cdner.types import Progress

TYPES = ("person", "place", "club")
WORDS = (
    "Mira Olsen left Port Vanter for the Harbour Club " + "on Monday with Tomas Reyl of Brackwater"
).split()
CONCURRENCY = 2  # LLM requests at once, of each worker
PART = "The reasoning says"


def checkpoint_of(model: Path, folder: Path) -> Path:
    """A base model's folder as a checkpoint that training might have written."""
    shutil.copytree(model, folder)
    card = Card(base=BackboneChoice(model="tiny"), settings=Training(), best_epoch=1, weights_sha256="0" * 64)
    write_card(folder, card)
    return folder


def tiny_method(checkpoint: Path, *, urls: Sequence[str] = (), max_gaps: int = 0) -> Method:
    """Grounded decoding, so that a random model finds entities; with reasoning texts where there are servers."""
    llm = Reasoning(backend="openai", model="m", n_examples=0, retries=0)
    experiment = Experiment(
        name="annotate",
        corpora=Corpora(source="newsdesk", target="film"),
        backbone=BackboneChoice(model="tiny", dtype="float32"),
        predict=Prediction(decoding="grounded", max_new_tokens=16),
        reason=llm,
        execution=Execution(device="cpu", base_urls=tuple(urls), concurrency=CONCURRENCY, max_gaps=max_gaps),
    )
    return Method(
        model_run="0" * 24,
        checkpoint=checkpoint,
        weights_sha256="0" * 64,
        types=TYPES,
        experiment=experiment,
        asking=_asking(llm) if urls else None,
    )


def _asking(llm: Reasoning) -> Asking:
    source, target = prompts.load_domain("newsdesk"), prompts.load_domain("film")
    requests = partial(
        reasoning_requests,
        template=prompts.load_template(llm.template),
        setting="full",
        source=source,
        target=target,
        prefixes=dict.fromkeys(target.types, source.entries[0].short),
        rivals={},
        examples=(),
        settings=llm,
    )
    return Asking("full", "m", requests)


def reasoned(text: str, seconds: float = 0.0) -> Reply:
    """What a server answers: the same to the same prompt, whoever asks and when."""
    reply = after(seconds, said(""))
    body = json.loads(reply.body)
    parts = {name: f"{PART} {content_hash(text)[:4]}." for name in ("initial", "bidirectional")}
    answer = {f"{name}_reasoning": value for name, value in parts.items()}
    body["choices"][0]["message"]["content"] = json.dumps(answer)
    return Reply(body=json.dumps(body), delay=reply.delay)


def write_rows(path: Path, n: int) -> Path:
    """Rows whose sentences differ in their words and lengths."""
    rows = (
        {"id": i, "text": " ".join(WORDS[(i * step) % len(WORDS)] for step in range(1, 4 + i % 5)), "of": [i]}
        for i in range(n)
    )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run(
    rows: Path,
    output: Path,
    method: Method,
    *,
    block_size: int = 4,
    engine: str = "local",
    workers: Workers = Workers(),  # noqa: B008  immutable
    progress: Progress | None = None,
    skips_bad_rows: bool = False,
) -> Outcome:
    """``annotate`` with the defaults of these tests."""
    source = open_source(rows, None, skips_bad_rows=skips_bad_rows)
    options = {"engine": engine, "workers": workers, "block_size": block_size}
    return annotate(source, output, method, progress=progress or Silent(), **options)  # type: ignore[arg-type]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of an output folder but the lock, hidden ones too."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}


class Counter:
    """``types.Progress`` that calls ``then`` when so many sentences are done."""

    def __init__(self, n: int, then: object) -> None:
        self._left, self._then = n, then
        self.lock = threading.Lock()

    def start(self, label: str, total: int | None = None) -> None: ...

    def advance(self, n: int = 1, note: str = "") -> None:
        before, self._left = self._left, self._left - n
        if before > 0 >= self._left:
            self._then()  # type: ignore[operator]
