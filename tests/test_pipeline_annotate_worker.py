"""Blocks once each: whatever is killed or fails in between, the folder ends up as if nothing had happened."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from annotating import PART, checkpoint_of, contents, reasoned, run, tiny_method, write_rows
from chat_servers import ChatServer, failed, serving

from cdner.annotate import worker
from cdner.errors import InputError, PartialError
from cdner.store.connection import Store

N_ROWS, BLOCK_SIZE = 18, 4
N_BLOCKS = 5


@pytest.fixture(scope="module")
def checkpoint(tiny_t5: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint_of(tiny_t5, tmp_path_factory.mktemp("annotating") / "model")


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "rows.jsonl", N_ROWS)


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with serving() as started:
        started.reply = lambda text, _: reasoned(text)
        yield started


def read(folder: Path) -> list[dict[str, object]]:
    """All rows, in the order of blocks."""
    files = sorted(folder.glob("block-*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def killed(moment: str, n: int, rows: Path, output: Path, method: object) -> int:
    """Annotate in a child that is killed at its n-th call of a function of the worker; its exit code."""
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        return os.waitstatus_to_exitcode(status)
    try:  # the child leaves by a signal or by _exit: nothing of pytest runs in it
        torch.set_num_threads(
            1
        )  # torch's other threads are not in a fork: it would wait for them without end
        original, n_calls = getattr(worker, moment), 0

        def dying(*args: object, **options: object) -> object:
            nonlocal n_calls
            n_calls += 1
            if n_calls == n:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*args, **options)

        setattr(worker, moment, dying)
        run(rows, output, method)  # type: ignore[arg-type]
    finally:
        os._exit(9)
    raise AssertionError("unreachable")


@pytest.mark.parametrize(
    ("moment", "n"),
    [("read_block", 1), ("predict_all", 3), ("write_block", 1), ("write_block", 4), ("block_file", 5)],
)
def test_a_killed_process_leaves_whole_blocks_and_the_next_one_makes_the_others(
    checkpoint, rows, tmp_path, moment, n
):
    method = tiny_method(checkpoint)
    run(rows, tmp_path / "whole", method)
    assert killed(moment, n, rows, tmp_path / "out", method) == -signal.SIGKILL
    before = {name: made for name, made in contents(tmp_path / "out").items() if name.startswith("block-")}
    assert not json.loads((tmp_path / "out" / "_manifest.json").read_text())["is_complete"]
    whole = contents(tmp_path / "whole")
    assert before.items() <= whole.items()
    done = run(rows, tmp_path / "out", method)
    assert (done.n_found, done.n_blocks) == (len(before), N_BLOCKS)
    assert contents(tmp_path / "out") == whole
    assert [row["id"] for row in read(tmp_path / "out")] == list(range(N_ROWS))


def test_a_kill_in_the_middle_of_a_file_leaves_no_file(checkpoint, rows, tmp_path, monkeypatch):
    """As the process sees it: everything of the block is written, its name is not there yet."""
    method = tiny_method(checkpoint)
    run(rows, tmp_path / "whole", method)
    original, n_calls = Path.replace, 0

    def stopping(path: Path, target: Path) -> Path:
        nonlocal n_calls
        n_calls += Path(target).name.startswith("block-")
        if n_calls == 3:
            raise KeyboardInterrupt
        return original(path, target)

    monkeypatch.setattr(Path, "replace", stopping)
    with pytest.raises(KeyboardInterrupt):
        run(rows, tmp_path / "out", method)
    monkeypatch.undo()
    assert len(list((tmp_path / "out").glob("block-*"))) == 2
    run(rows, tmp_path / "out", method)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_block_size_changes_the_files_and_no_row(checkpoint, rows, tmp_path):
    method = tiny_method(checkpoint)
    for size in (1, 5, 100):
        run(rows, tmp_path / str(size), method, block_size=size)
    first, *others = (read(tmp_path / str(size)) for size in (1, 5, 100))
    assert others == [first, first]
    assert any(row["predicted"] for row in first)


def test_a_worker_opens_no_store(checkpoint, rows, tmp_path, monkeypatch):
    def refused(*_: object, **__: object) -> None:
        raise AssertionError("a store was opened")

    for name in ("reading", "transaction", "_open"):
        monkeypatch.setattr(Store, name, refused)
    run(rows, tmp_path / "out", tiny_method(checkpoint))
    assert len(read(tmp_path / "out")) == N_ROWS


def test_a_model_that_is_not_there_is_one_line(rows, tmp_path):
    with pytest.raises(InputError, match="There is no model at"):
        run(rows, tmp_path / "out", tiny_method(tmp_path / "gone"))


# --- reasoning -------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def test_reasoning_texts_are_written_beside_the_entities_and_answers_do_not_stay(
    checkpoint, rows, server, tmp_path
):
    run(rows, tmp_path / "out", tiny_method(checkpoint, urls=[server.url]))
    found = read(tmp_path / "out")
    assert all(str(row["initial_reasoning"]).startswith(PART) for row in found)
    assert len(server.seen) == len({row["text"] for row in found}) <= N_ROWS
    assert not list((tmp_path / "out").glob(".answers-*"))


def test_what_a_killed_process_was_told_is_not_asked_again(checkpoint, rows, server, tmp_path):
    method = tiny_method(checkpoint, urls=[server.url])
    assert killed("predict_all", 2, rows, tmp_path / "out", method) == -signal.SIGKILL
    n_before = len(server.seen)
    assert n_before >= BLOCK_SIZE
    run(rows, tmp_path / "out", method)
    asked = [body["messages"][-1]["content"] for body in server.seen]
    by_block: list[set[str]] = [
        {str(row["text"]) for row in read(tmp_path / "out")[start : start + BLOCK_SIZE]}
        for start in range(0, N_ROWS, BLOCK_SIZE)
    ]
    assert len(asked) == sum(map(len, by_block))
    assert n_before == len(by_block[0]) + len(by_block[1])


def test_an_answer_that_a_kill_has_cut_off_is_asked_again_and_takes_no_other_with_it(
    checkpoint, rows, server, tmp_path
):
    method = tiny_method(checkpoint, urls=[server.url])
    assert killed("predict_all", 1, rows, tmp_path / "out", method) == -signal.SIGKILL
    (log,) = (tmp_path / "out").glob(".answers-*")
    n_answers = len(log.read_text().splitlines())
    log.write_text(log.read_text()[:-20])
    for n_asked_again in (1, 0):
        n_before = len(server.seen)
        assert killed("predict_all", 1, rows, tmp_path / "out", method) == -signal.SIGKILL
        assert len(server.seen) - n_before == n_asked_again
    assert len(log.read_text().splitlines()) == n_answers + 1


def test_a_gap_ends_the_command_and_the_next_one_asks_for_it_alone(checkpoint, rows, server, tmp_path):
    method = tiny_method(checkpoint, urls=[server.url])
    run(rows, tmp_path / "whole", method)
    lost = read(tmp_path / "whole")[5]["text"]
    answer = server.reply
    server.reply = lambda text, n: failed(400, "too much") if str(lost) in text else answer(text, n)
    with pytest.raises(
        PartialError, match=r"1 of 4 sentences of a block have no reasoning text: .*max_gaps=1"
    ):
        run(rows, tmp_path / "out", method)
    assert [path.name for path in (tmp_path / "out").glob("block-*")] == ["block-000000.jsonl"]
    server.reply, n_before = answer, len(server.seen)
    run(rows, tmp_path / "out", method)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    again = [body["messages"][-1]["content"] for body in server.seen[n_before:]]
    block = {str(row["text"]) for row in read(tmp_path / "out")[4:8]}
    assert sum(any(text in asked for text in block) for asked in again[:1]) == 1
    assert str(lost) in again[0]


def test_allowed_gaps_are_rows_without_reasoning(checkpoint, rows, server, tmp_path):
    run(rows, tmp_path / "whole", tiny_method(checkpoint, urls=[server.url]))
    lost = read(tmp_path / "whole")[5]["text"]
    answer = server.reply
    server.reply = lambda text, n: failed(400, "too much") if str(lost) in text else answer(text, n)
    run(rows, tmp_path / "out", tiny_method(checkpoint, urls=[server.url], max_gaps=4))
    without = [row["id"] for row in read(tmp_path / "out") if row["initial_reasoning"] is None]
    assert 5 in without
    assert len(without) < N_ROWS
