"""Where prompts, SQL and experiments are found, in a checkout and in a wheel; where fetched files go."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from cdner import files
from cdner.files import cache_root, resource_root

ROOT = Path(__file__).resolve().parents[1]
MARKS = {
    "prompts": "types/*.toml",
    "store": "migrations/*.sql",
    "experiments": "*.toml",
}  # what each must hold


@pytest.mark.parametrize("name", MARKS)
def test_checkout_has_each_resource(name: str) -> None:
    assert list(resource_root(name).glob(MARKS[name]))


@pytest.mark.parametrize("name", MARKS)
def test_wheel_finds_its_own_copy_first(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "site-packages" / "cdner"
    (package / f"_{name}").mkdir(parents=True)
    monkeypatch.setattr(files, "_PACKAGE", package)
    assert resource_root(name) == package / f"_{name}"


@pytest.mark.parametrize("name", MARKS)
def test_wheel_carries_the_folder_that_a_checkout_reads(name: str) -> None:
    """pyproject and this module must agree, or an installed cdner finds nothing."""
    table = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    included: dict[str, str] = table["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    target = f"cdner/_{name}"
    sources = {
        source: inside
        for source, inside in included.items()
        if inside == target or inside.startswith(f"{target}/")
    }
    assert sources
    for source, inside in sources.items():
        assert ROOT / source == resource_root(name) / inside.removeprefix(target).lstrip("/")


def test_unknown_resource_is_a_mistake_of_ours() -> None:
    with pytest.raises(KeyError):
        resource_root("prompt")


# --- cache ------------------------------------------------------------------------------------------------


def test_own_variable_is_the_folder_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CDNER_CACHE", str(tmp_path / "own"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "shared"))
    assert cache_root() == tmp_path / "own"


@pytest.mark.parametrize("own", [None, ""])
def test_shared_cache_gets_a_folder_of_ours(
    own: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if own is None:
        monkeypatch.delenv("CDNER_CACHE", raising=False)
    else:
        monkeypatch.setenv("CDNER_CACHE", own)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_root() == tmp_path / "cdner"


def test_without_variables_it_is_below_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("CDNER_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_root() == tmp_path / ".cache" / "cdner"


def test_tilde_means_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CDNER_CACHE", "~/models")
    assert cache_root() == tmp_path / "models"


def test_asking_makes_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CDNER_CACHE", str(tmp_path / "own"))
    cache_root()
    assert not (tmp_path / "own").exists()
