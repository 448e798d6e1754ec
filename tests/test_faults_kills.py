"""kill -9 at twenty moments of each command that writes: sound at once, and resumed to what an unbroken run gives."""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import re
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from chat_servers import ChatServer, Reply, after, said, serving
from fault_moments import Course, assert_sound, killed, moments_of, table_hashes, unbroken_course
from pipeline_experiments import CALLS, cdner, ended, shared_folder, write_experiment

from cdner.files import content_hash, file_sha256

N_KILLS = 20
WRITTEN = {  # command -> files it writes beside the store
    "bundle pack": ("texts.zip",),
    "report": ("page.html", "tables.md", "tables.tex"),
}
OLD = "what was written before"


@pytest.fixture(autouse=True)
def _log_of_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CALLS, str(tmp_path / "calls"))


# --- what each command starts from -----------------------------------------------------------------------


@cache
def experiment() -> Path:
    """Two settings: one without and one with reasoning texts."""
    return write_experiment(stages(), settings=("without_all", "full"))


@cache
def stages() -> Path:
    folder = shared_folder() / "stages"
    (folder / "nothing").mkdir(parents=True)
    return folder


@cache
def stage(name: str) -> Path:
    """A folder with a store in which the experiment is done up to a step; later ones are made from earlier ones."""
    order = ("nothing", "import", "embed", "quantify", "evaluate")
    folder = stages() / name
    if name != "nothing":
        shutil.copytree(stage(order[order.index(name) - 1]), folder)
        ran = cdner(folder / "s.duckdb", "run", experiment(), "--until", name)
        assert ran.code == 0, ran.err
    return folder


def chunks_of_two() -> None:
    """Predictions are stored two at a time: more moments between two chunks than with few sentences otherwise."""
    from cdner.steps import windows

    assert windows.SIZE > 2
    windows.SIZE, windows.PAUSE = 2, 0


def blocks_of_fifty() -> None:
    """An import of 600 sentences is twelve transactions."""
    from cdner.store import corpora

    assert corpora.BLOCK > 600
    corpora.BLOCK = 50


def column_files(folder: Path) -> list[Path]:
    """Two splits of 600 sentences each."""
    folder.mkdir()
    for split in ("train", "dev"):
        lines = [f"Mira\tB-person\nleft\tO\n{split}{n}\tB-place\n" for n in range(600)]
        (folder / f"{split}.txt").write_text("\n".join(lines))
    return sorted(folder.iterdir())


def answer(text: str, _: int) -> Reply:
    """Different for every text, and the same whenever it is asked."""
    mark = content_hash(text)[:6]
    parts = ("description", "initial_reasoning", "bidirectional_reasoning")
    body = json.loads(said("").body)
    body["choices"][0]["message"]["content"] = json.dumps({part: f"The {part} of {mark}." for part in parts})
    return after(random.uniform(0.0, 0.03), Reply(body=json.dumps(body)))


def course_of(name: str, work: Path, server: ChatServer) -> Course:
    """A command with the folder it starts from."""
    copy, named = work / "copy", ("-e", experiment())
    asking = ("--base-url", server.url, "--concurrency", 3)
    all_test = ("--set", "corpora.n_target_test=12", "--split", "test")
    if name == "import":
        files = column_files(work / "corpus")
        command = ("import", "conll", *files, "--domain", "harbour")
        return Course(stage("nothing"), command, work, patch=blocks_of_fifty)
    if name == "describe":
        model = ("--set", "describe.backend=openai", "--set", "describe.model=m")
        return Course(stage("import"), ("describe", *named, *model, *asking), work)
    if name == "train":
        epochs = ("--set", "train_target.epochs=3")
        return Course(stage("import"), ("train", *named, "--setting", "without_source", *epochs), work)
    if name == "quantify":
        return Course(stage("embed"), ("quantify", *named), work)
    if name == "reason":
        model = ("--set", "reason.backend=openai", "--set", "reason.model=m")
        return Course(stage("quantify"), ("reason", *named, *model, *asking, *all_test), work)
    if name == "predict":
        command = ("predict", *named, "--setting", "without_all", *all_test)
        return Course(stage("quantify"), command, work, patch=chunks_of_two)
    prepared = work / "prepared"
    shutil.copytree(stage("evaluate"), prepared)
    for file in WRITTEN[name]:
        (prepared / file).write_text(OLD)
    if name == "bundle pack":
        return Course(prepared, ("bundle", "pack", copy / "texts.zip", "--force"), work)
    page = ("--html", copy / "page.html", "--markdown", copy / "tables.md", "--latex", copy / "tables.tex")
    return Course(prepared, ("report", *page, "--resamples", 100, "--force"), work)


# --- what may not differ ---------------------------------------------------------------------------------


def everything(store: Path, files: tuple[str, ...]) -> dict[str, Any]:
    """All tables but attempts and times, all weights, all written files, and the names of all files there are."""
    folder = store.parent
    return {
        "tables": table_hashes(store),
        "weights": {path.name: file_sha256(path) for path in sorted(folder.rglob("*.safetensors"))},
        "files": {name: content(folder / name) for name in files},
        "names": sorted(
            path.relative_to(folder).as_posix()
            for path in folder.rglob("*")
            if path.suffix
            != ".wal"  # stays after a kill until somebody writes again, which a finished run does not
        ),
    }


def content(file: Path) -> str:
    """Its hash, without the minute a report was made."""
    text = re.sub(rb"\d{4}-\d\d-\d\d \d\d:\d\d", b"", file.read_bytes())
    return hashlib.sha256(text).hexdigest()


@contextlib.contextmanager
def a_server() -> Iterator[ChatServer]:
    with serving() as server:
        server.reply = answer
        yield server


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["import", "describe", "train", "quantify", "reason", "predict", "bundle pack", "report"],
)
def test_twenty_kills_leave_a_sound_store_and_the_results_of_an_unbroken_run(
    name: str, tmp_path: Path
) -> None:
    files = WRITTEN.get(name, ())
    with a_server() as server:
        course = course_of(name, tmp_path, server)
        stamps = unbroken_course(course)
        expected = everything(course.store, files)
        whole = {*expected["files"].values(), hashlib.sha256(OLD.encode()).hexdigest()}
        course.restart()
        for moment in moments_of(stamps, N_KILLS, random.Random(name)):
            at = moment
            while not killed(course, at):  # it came to its end before: resumed after the kills so far
                assert everything(course.store, files) == expected, course.said()
                course.restart()
                at = at.sooner()
            assert_sound(course.store)
            assert all(content(course.store.parent / file) in whole for file in files)
        process, _ = course.start()
        assert ended(process) == 0, course.said()
        assert everything(course.store, files) == expected
