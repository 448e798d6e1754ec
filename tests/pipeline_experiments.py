"""Whole experiments of a few seconds: demo corpora in samples, tiny models, an LLM that is a function of its prompt.

The LLM ("recorded") is found by entry point, as a third party's would be. It logs every request it answers, and the
environment says where it leaves gaps or dies, so that a test can count calls across processes.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import multiprocessing
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from fixtures.tiny_models import write_tiny_bert, write_tiny_llama, write_tiny_t5

from cdner.choices import ChoiceScores, scores_text
from cdner.cli import run_cli
from cdner.config import Execution, Llm
from cdner.files import content_hash
from cdner.llm.chat.budget import Budget
from cdner.llm.scripted import ScriptedBackend, written
from cdner.store import Store
from cdner.store.runs import OUTPUT_TABLES
from cdner.types import Completion, Gap, ReasoningRequest

TESTS = Path(__file__).parent
CALLS, GAPS, DIE_AFTER, DELAY = "RECORDED_CALLS", "RECORDED_GAPS", "RECORDED_DIE_AFTER", "RECORDED_DELAY"
SETTINGS = (
    "without_source",
    "without_all",
    "without_backward",
    "without_initial",
    "without_initial_and_backward",
    "full",
)
N_TRAIN, N_DEV, N_TEST = 6, 5, 4
N_SENTENCES = N_TRAIN + N_DEV + N_TEST
N_TYPES = 11  # of film


# --- the LLM ---------------------------------------------------------------------------------------------


def open_backend(llm: Llm, _execution: Execution, _budget: Budget) -> ScriptedBackend:
    """The factory behind the entry point "recorded"."""
    return ScriptedBackend(_answer, model=llm.model)


def _answer(request: ReasoningRequest) -> Completion | Gap:
    asked = next(message.content for message in reversed(request.messages) if message.role == "user")
    time.sleep(float(os.environ.get(DELAY, "0")))
    with Path(os.environ[CALLS]).open("a", encoding="utf-8") as log:
        log.write(content_hash([message.content for message in request.messages]) + "\n")
    n_calls = len(calls())
    if n_calls > int(os.environ.get(DIE_AFTER, n_calls)):
        os.kill(os.getpid(), signal.SIGKILL)
    gaps = os.environ.get(GAPS, "")
    if gaps and any(word in asked for word in gaps.split("|")):
        return Gap("the server was busy")
    mark = content_hash(asked)[:6]
    if request.sampling.choices:
        return written(scores_text(ChoiceScores(_figures(request), "logits")))
    if request.schema is None:
        return written(f"A thing that is described as number {mark}.")
    keys = json.loads(request.schema)["properties"]
    text = json.dumps({key: f"The {key} of text {mark}." for key in keys})
    if request.on_text is not None:
        for word in text.split(" "):
            request.on_text(f"{word} ")
    return written(text)


def _figures(request: ReasoningRequest) -> tuple[float, ...]:
    """A log-probability for each choice, by the words of the question and of the choice."""
    digits = [content_hash([request.messages[-2].content, choice])[:4] for choice in request.sampling.choices]
    weights = [1 + int(digit, 16) for digit in digits]
    return tuple(math.log(weight / sum(weights)) for weight in weights)


def calls() -> list[str]:
    """One hash per request answered or refused so far."""
    path = Path(os.environ[CALLS])
    return path.read_text(encoding="utf-8").split() if path.exists() else []


# --- models and experiments ------------------------------------------------------------------------------


@cache
def shared_folder() -> Path:
    """One folder a test session: the tiny models, and the distribution that registers the LLM."""
    import tempfile

    import torch

    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp(prefix="cdner-tests-"))
    write_tiny_t5(folder / "t5")
    write_tiny_llama(folder / "llama", window=1024)
    write_tiny_bert(folder / "bert")
    distribution = folder / "site" / "recorded-1.dist-info"
    distribution.mkdir(parents=True)
    (distribution / "METADATA").write_text("Metadata-Version: 2.1\nName: recorded\nVersion: 1\n")
    (distribution / "entry_points.txt").write_text(
        "[cdner.backend]\nrecorded = pipeline_experiments:open_backend\n"
    )
    sys.path.append(str(folder / "site"))
    import atexit

    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def write_experiment(
    folder: Path, family: str = "seq2seq", *, name: str = "tiny", settings: Sequence[str] = SETTINGS
) -> Path:
    """An experiment file over samples of the demo corpora."""
    model = shared_folder() / {"seq2seq": "t5", "causal": "llama", "tagger": "bert"}[family]
    training = 'learning_rate = 1e-3\nbatch_size = 4\nselect = "dev_loss"\nmax_input_tokens = 900\n'
    target = training
    epochs = 1
    if family == "tagger":  # one that has learned next to nothing tags every word O
        epochs, target = 30, training.replace("dev_loss", "last") + "head_rate = 10.0\n"
    splits = ["dev", "test"] if family == "seq2seq" else ["test"]
    text = f"""
name = "{name}"
settings = {json.dumps(list(settings))}
splits = {json.dumps(splits)}
[corpora]
source = "newsdesk"
target = "film"
n_source_train = 6
n_source_dev = 3
n_target_train = {N_TRAIN}
n_target_dev = {N_DEV}
n_target_test = {N_TEST}
[backbone]
family = "{family}"
model = "{model}"
dtype = "float32"
[train_source]
epochs = 2
{training}[train_target]
epochs = {epochs}
{target}[train_augmented]
epochs = {epochs}
{target}[evidence]
decoding = "grounded"
max_new_tokens = 40
[predict]
decoding = "grounded"
max_new_tokens = 40
[describe]
backend = "recorded"
model = "listener"
structured = false
[reason]
backend = "recorded"
model = "listener"
n_examples = 1
"""
    path = folder / f"{name}.toml"
    path.write_text(text, encoding="utf-8")
    return path


@dataclass(frozen=True, slots=True)
class Ran:
    code: int
    out: str
    err: str

    @property
    def rows(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.out)
        return found


def cdner(store: Path, *arguments: object) -> Ran:
    """One command line in this process."""
    shared_folder()
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run_cli(["--store", str(store), *map(str, arguments)])
    return Ran(code, out.getvalue(), err.getvalue())


@cache
def finished_store(family: str) -> Path:
    """The store of a whole unbroken experiment with all six settings; copy it before changing it."""
    folder = shared_folder() / f"finished-{family}"
    folder.mkdir()
    before = os.environ.get(CALLS)
    os.environ[CALLS] = str(folder / "calls")
    try:
        ran = cdner(folder / "s.duckdb", "run", write_experiment(folder, family), "--json")
    finally:
        if before is not None:
            os.environ[CALLS] = before
    assert ran.code == 0, ran.err
    (folder / "table.json").write_text(ran.out)
    return folder / "s.duckdb"


def copy_of(store: Path, folder: Path) -> Path:
    """The store with its checkpoints in another folder."""
    shutil.copytree(store.parent, folder, dirs_exist_ok=True)
    return folder / store.name


# --- stores as values ------------------------------------------------------------------------------------

_DUMPED = (
    *OUTPUT_TABLES,
    *("run", "run_input", "sentence", "template", "request", "request_message", "prompt_text", "completion"),
)


def dump(store: Path, *, tables: Sequence[str] = _DUMPED) -> dict[str, list[tuple[Any, ...]]]:
    """Every table of results, sorted, without when and how long."""
    found = {}
    with Store(store).reading() as connection:
        for table in tables:
            columns = [row[0] for row in connection.execute(f"DESCRIBE {table}").fetchall()]
            kept = [name for name in columns if not name.endswith("_utc") and name != "seconds"]
            rows = connection.execute(f"SELECT {', '.join(kept)} FROM {table} ORDER BY ALL").fetchall()
            found[table] = rows
    return found


def sql(store: Path, statement: str) -> list[tuple[Any, ...]]:
    with Store(store).reading() as connection:
        return connection.execute(statement).fetchall()


# --- processes -------------------------------------------------------------------------------------------

_PRELOADED = (
    "duckdb",
    "transformers.models.t5.modeling_t5",
    "transformers.models.llama.modeling_llama",
    "transformers.models.auto.modeling_auto",
    "nltk.corpus",
    "openai",
    "httpx2",
    *(f"cdner.models.{name}" for name in ("seq2seq", "causal", "training")),
    *("cdner.cli.run", "cdner.cli.verbs", "cdner.experiment.execute", "cdner.experiment.own_corpora"),
    *("cdner.experiment.plan", "cdner.experiment.summary"),
)


def start_cdner(
    store: Path, *arguments: object, log: Path, patch: Callable[[], None] | None = None, **environment: str
) -> BaseProcess:
    """One command line in a process of its own (a fork of a server that has torch loaded already)."""
    environment = {CALLS: os.environ[CALLS], **environment}
    command = ["--store", str(store), *map(str, arguments)]
    process = _fork_context().Process(target=_child, args=(command, environment, log, patch, shared_folder()))
    process.start()
    return process


def ended(process: BaseProcess, seconds: float = 120) -> int:
    """Exit code; a signal's number is negative."""
    process.join(seconds)
    if process.exitcode is None:
        process.kill()
        process.join()
        raise AssertionError(f"a cdner process did not end within {seconds} seconds")
    return process.exitcode


@cache
def _fork_context() -> Any:
    paths = [str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    os.environ["OMP_NUM_THREADS"] = "1"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, *_PRELOADED])
    return context


def _child(
    command: list[str],
    environment: Mapping[str, str],
    log: Path,
    patch: Callable[[], None] | None,
    folder: Path,
) -> None:
    os.setpgid(0, 0)  # a signal to the tests' terminal is not one to this process
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.update(environment)
    sys.path.append(str(folder / "site"))
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
    if patch:
        patch()
    code = run_cli(command)
    sys.stdout.flush()
    sys.exit(code)


@dataclass(frozen=True, slots=True)
class DieAt:
    """Kill the process at the n-th call of a function: before it, or after it."""

    module: str
    function: str
    n: int = 1
    after: bool = False

    def __call__(self) -> None:
        chunks = sys.modules["cdner.steps.windows"]
        chunks.SIZE, chunks.PAUSE = 2, 0  # type: ignore[attr-defined]
        module = sys.modules[self.module]
        original = getattr(module, self.function)
        n_calls = 0

        def dying(*args: Any, **options: Any) -> Any:
            nonlocal n_calls
            n_calls += 1
            if n_calls == self.n and not self.after:
                os.kill(os.getpid(), signal.SIGKILL)
            result = original(*args, **options)
            if n_calls == self.n:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        setattr(module, self.function, dying)


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError("it did not happen in time")
        time.sleep(0.05)
