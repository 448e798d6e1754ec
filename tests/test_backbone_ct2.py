"""CTranslate2 writes the texts the torch path writes, from a conversion that is made once, whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cdner.backbone import open_backbone
from cdner.backbone.ct2 import Ct2Engine, open_converted
from cdner.backbone.training import fit
from cdner.config import BackboneChoice, Training
from cdner.types import Generation, ModelInput, Segment

PREFIX = "Find all entities of types person, place, club, society, harbour, weekday, reason in"
SENTENCES = [
    " Mira Olsen left.",
    " The Lantern Society met in Brackwater on Monday, and nobody knew why it did.",
    " no",
    " Tomas Reyl never saw Port Vanter again.",
    " a b c d e f g h",
    " Brackwater",
]
INPUTS: list[ModelInput] = [(Segment(PREFIX), Segment(sentence)) for sentence in SENTENCES]
UNLIKE: list[ModelInput] = [(Segment(sentence),) for sentence in SENTENCES]
SETTINGS = Training(epochs=0, select="last", max_input_tokens=1200)


def _choice(family: str, folder: Path) -> BackboneChoice:
    return BackboneChoice(family=family, model=str(folder), dtype="float32")


@pytest.fixture(scope="module")
def checkpoints(
    tiny_llama: Path, tiny_t5: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[BackboneChoice, Path]]:
    """Per family what was trained, and the checkpoint."""
    found = {}
    for family, folder in (("causal", tiny_llama), ("seq2seq", tiny_t5)):
        choice, output = _choice(family, folder), tmp_path_factory.mktemp("checkpoints") / family
        fit(open_backbone(choice, device="cpu"), [], [], settings=SETTINGS, output=output)
        found[family] = choice, output
    return found


@pytest.fixture(scope="module")
def engines(checkpoints: dict[str, tuple[BackboneChoice, Path]]) -> dict[str, tuple[Any, Ct2Engine]]:
    """Per family the torch path and CTranslate2 over one checkpoint."""
    return {
        family: (
            open_backbone(choice, device="cpu", checkpoint=checkpoint),
            open_converted(family, checkpoint, engine="ct2", device="cpu"),
        )
        for family, (choice, checkpoint) in checkpoints.items()
    }


def _all(outputs: Iterator[tuple[int, Generation]], n: int) -> list[Generation]:
    found = dict(outputs)
    assert sorted(found) == list(range(n))
    return [found[index] for index in range(n)]


@pytest.mark.parametrize("family", ["causal", "seq2seq"])
@pytest.mark.parametrize("inputs", [INPUTS, UNLIKE], ids=["shared prefix", "no prefix"])
@pytest.mark.parametrize("batch_size", [1, 2, 6])
def test_float32_gives_what_torch_gives(
    engines: dict[str, tuple[Any, Ct2Engine]], family: str, inputs: list[ModelInput], batch_size: int
) -> None:
    torch_path, ct2 = engines[family]
    asked = {"max_new_tokens": 24, "batch_size": batch_size}
    assert _all(ct2.generate(inputs, **asked), 6) == _all(torch_path.generate(inputs, **asked), 6)
