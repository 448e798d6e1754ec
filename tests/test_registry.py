"""Names to implementations: built-in ones, those of installed third parties, and every way a name can fail."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from cdner.errors import UsageError
from cdner.formats.readers import read_json_lines
from cdner.llm.scripted import open_backend as open_scripted
from cdner.registry import names, resolve

KINDS = {
    "backend": {"openai", "local", "scripted"},
    "backbone": {"seq2seq", "causal"},
    "reader": {"jsonl", "labelstudio", "spacy", "brat"},
}


@pytest.fixture
def third_party(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on sys.path that holds a module and an installed distribution announcing entry points."""
    (tmp_path / "cdner_guest.py").write_text(
        "import types\nREADER = 'guest reader'\nfamily = types.SimpleNamespace(build='guest builder')\n"
    )
    (tmp_path / "cdner_guest_unready.py").write_text("import a_package_nobody_installed\n")
    (tmp_path / "cdner_guest_old.py").write_text("from json import a_name_json_never_had\n")
    distribution = tmp_path / "cdner_guest-1.0.dist-info"
    distribution.mkdir()
    (distribution / "METADATA").write_text("Metadata-Version: 2.1\nName: cdner-guest\nVersion: 1.0\n")
    (distribution / "entry_points.txt").write_text(
        "[cdner.reader]\n"
        "guest = cdner_guest:READER\n"
        "guest_extra = cdner_guest:READER [fast]\n"
        "jsonl = cdner_guest:READER\n"
        "unready = cdner_guest_unready:READER\n"
        "old = cdner_guest_old:READER\n"
        "renamed = cdner_guest:WRITER\n"
        "[cdner.backbone]\n"
        "guest_family = cdner_guest:family.build\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    return tmp_path


@pytest.mark.parametrize("kind", KINDS)
def test_built_in_names(kind: str) -> None:
    assert KINDS[kind] <= set(names(kind))


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in KINDS for name in sorted(KINDS[kind])])
def test_every_built_in_name_leads_somewhere(kind: str, name: str) -> None:
    module, _, attribute = names(kind)[name].partition(":")
    assert resolve(kind, name) is getattr(importlib.import_module(module), attribute)


def test_resolved_is_the_very_implementation() -> None:
    assert resolve("reader", "jsonl") is read_json_lines
    assert resolve("backend", "scripted") is open_scripted


def test_listing_imports_no_implementation() -> None:
    code = (
        "import sys; from cdner.registry import names; print(len(names('backend')));"
        "print([m for m in sys.modules if m.split('.')[0] in"
        " ('torch', 'transformers', 'openai', 'vllm') or m.startswith(('cdner.models', 'cdner.llm'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    n_backends, imported = done.stdout.splitlines()
    assert int(n_backends) >= 3
    assert imported == "[]"


# --- third parties ----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("third_party")
def test_third_party_is_listed_and_found() -> None:
    assert names("reader")["guest"] == "cdner_guest:READER"
    assert resolve("reader", "guest") == "guest reader"


@pytest.mark.usefixtures("third_party")
def test_third_party_is_listed_before_it_is_imported() -> None:
    sys.modules.pop("cdner_guest", None)
    assert "unready" in names("reader")
    assert "cdner_guest" not in sys.modules


@pytest.mark.usefixtures("third_party")
def test_entry_points_of_one_kind_are_not_of_another() -> None:
    assert "guest" not in names("backbone")
    assert "guest_family" not in names("reader")


@pytest.mark.usefixtures("third_party")
def test_all_forms_of_an_entry_point_are_understood() -> None:
    assert resolve("reader", "guest_extra") == "guest reader"
    assert resolve("backbone", "guest_family") == "guest builder"


@pytest.mark.usefixtures("third_party")
def test_third_party_cannot_take_a_built_in_name() -> None:
    """The name is part of stored identities: it must not mean another thing on another machine."""
    assert names("reader")["jsonl"] == "cdner.formats.readers:read_json_lines"
    assert resolve("reader", "jsonl") is read_json_lines


# --- failures ---------------------------------------------------------------------------------------------


def test_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(
        UsageError, match=r"No backend named 'opnai'\. Did you mean 'openai'\? Known: .*scripted"
    ):
        resolve("backend", "opnai")


@pytest.mark.usefixtures("third_party")
def test_suggestion_may_be_a_third_party() -> None:
    with pytest.raises(UsageError, match=r"No reader named 'gest'\. Did you mean 'guest'\?"):
        resolve("reader", "gest")


def test_unknown_kind_knows_no_names() -> None:
    assert names("recipe") == {}
    with pytest.raises(UsageError, match=r"No recipe named 'cake'\. Known: none\."):
        resolve("recipe", "cake")


@pytest.mark.usefixtures("third_party")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("unready", r"The reader 'unready' needs a package .* not installed: .*'a_package_nobody_installed'"),
        ("old", r"The reader 'old' cannot be loaded from 'cdner_guest_old:READER': .*a_name_json_never_had"),
        ("renamed", r"The reader 'renamed' cannot be loaded from 'cdner_guest:WRITER': .*'WRITER'"),
    ],
)
def test_broken_implementation_is_one_line_that_says_why(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        resolve("reader", name)
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is not None
