"""Fixtures shared by all tests."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from tiny_shelf import TinyShelf

# A loaded machine is no failure: no example has a time limit.
settings.register_profile("cdner", deadline=None)
settings.load_profile("cdner")

pytest_plugins = ("vllm_servers",)

# A job that a shell started in the background ignores Ctrl-C, and so would every child that a test sends one to.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

_SHARED = Path(__file__).resolve().parents[1].parent / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The corpora beside the project. Absent on a user's machine: those tests skip; in CI that is a failure."""
    if not _SHARED.is_dir():
        if os.environ.get("CI") == "true":
            pytest.fail("the shared corpora must be present in CI")
        pytest.skip("the shared corpora are not on this machine")
    return _SHARED


@pytest.fixture(scope="session")
def wordnet(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """WordNet 3.0, made of Debian's packages; this process reads it from there on."""
    import nltk

    root = tmp_path_factory.mktemp("nltk_data")
    script = ["bash", str(shared_data / "wordnet" / "build_from_debian.sh"), str(root)]
    if subprocess.run(
        script, check=False, capture_output=True
    ).returncode:  # a slim machine has no lists of packages
        subprocess.run(["apt-get", "update"], check=True, capture_output=True)
        subprocess.run(script, check=True, capture_output=True)
    root.chmod(0o755)  # NLTK refuses a root that others can write
    nltk.data.path.insert(0, str(root))


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random two-layer Llama with a byte-level tokenizer; pads with its end token."""
    from fixtures.tiny_models import write_tiny_llama

    return write_tiny_llama(tmp_path_factory.mktemp("tiny") / "llama")


@pytest.fixture(scope="session")
def tiny_t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random two-layer T5 whose unigram vocabulary lacks braces and angle brackets."""
    from fixtures.tiny_models import write_tiny_t5

    return write_tiny_t5(tmp_path_factory.mktemp("tiny") / "t5")


@pytest.fixture
def tiny_shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TinyShelf]:
    """Tiny models to fetch in place of the real ones, with a cache and a package index of their own."""
    from tiny_shelf import TinyShelf

    from cdner.models import shelf

    yield TinyShelf(tmp_path / "tiny_shelf", monkeypatch)
    shelf.shelf.cache_clear()


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random two-layer BERT without a head, with token types."""
    from fixtures.tiny_models import write_tiny_bert

    return write_tiny_bert(tmp_path_factory.mktemp("tiny") / "bert")


@pytest.fixture(scope="session")
def tiny_mpnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random two-layer MPNet without a head, whose positions begin behind the padding's."""
    from fixtures.tiny_models import write_tiny_mpnet

    return write_tiny_mpnet(tmp_path_factory.mktemp("tiny") / "mpnet")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """In CI a skipped test is a failed run: what a skip hides is not tested."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CI") == "true" and reporter is not None and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
