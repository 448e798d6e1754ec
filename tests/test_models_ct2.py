"""CTranslate2 writes the texts the torch path writes, from a conversion that is made once, whole or not at all."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from cdner.config import BackboneChoice, Training
from cdner.errors import ModelError, UsageError
from cdner.models import ct2, open_backbone
from cdner.models.ct2 import Ct2Engine, conversion_path, converted, open_converted
from cdner.models.engines import check_engine
from cdner.models.training import fit
from cdner.types import Generation, ModelInput, Segment, TrainingExample

FAMILIES = ("causal", "seq2seq")
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
            open_converted(family, checkpoint, device="cpu", compute_type="float32"),
        )
        for family, (choice, checkpoint) in checkpoints.items()
    }


def _all(outputs: Iterator[tuple[int, Generation]], n: int) -> list[Generation]:
    found = dict(outputs)
    assert sorted(found) == list(range(n))
    return [found[index] for index in range(n)]


def _both(
    engines: dict[str, tuple[Any, Ct2Engine]], family: str, inputs: list[ModelInput], **asked: Any
) -> tuple[list[Generation], list[Generation]]:
    given = {"max_new_tokens": 24, "batch_size": 4, **asked}
    by_torch, by_ct2 = (_all(engine.generate(inputs, **given), len(inputs)) for engine in engines[family])
    return by_torch, by_ct2


def _copy(checkpoint: Path, folder: Path) -> Path:
    return Path(shutil.copytree(checkpoint, folder / checkpoint.name))


# --- texts -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("inputs", [INPUTS, UNLIKE, INPUTS[:1]], ids=["shared prefix", "no prefix", "one"])
@pytest.mark.parametrize("batch_size", [1, 2, 6])
def test_float32_gives_what_torch_gives(
    engines: dict[str, tuple[Any, Ct2Engine]], family: str, inputs: list[ModelInput], batch_size: int
) -> None:
    by_torch, by_ct2 = _both(engines, family, inputs, batch_size=batch_size)
    assert by_ct2 == by_torch
    assert any(found.text for found in by_torch)


@pytest.mark.parametrize("family", FAMILIES)
def test_cut_and_long_inputs_are_what_they_are_for_torch(
    engines: dict[str, tuple[Any, Ct2Engine]], family: str
) -> None:
    """Longer than CTranslate2's own limit of 1,024, shorter than what it was trained with; and one that is cut."""
    n_words = {"causal": (60, 300), "seq2seq": (190, 400)}[family]
    inputs = [(Segment("Mira Olsen"), Segment(" Port Vanter" * n, priority=1)) for n in n_words]
    by_torch, by_ct2 = _both(engines, family, inputs, max_new_tokens=8)
    assert by_ct2 == by_torch
    if family == "seq2seq":
        assert by_ct2[0].n_input_tokens > 1024
    assert by_ct2[1].n_truncated_tokens > 0
    assert by_ct2[0].n_truncated_tokens == 0


def test_an_input_that_cannot_be_cut_to_fit_is_named(engines: dict[str, tuple[Any, Ct2Engine]]) -> None:
    with pytest.raises(ModelError, match=r"Input 1 has \d+ tokens that must be kept"):
        engines["causal"][1].generate(
            [INPUTS[0], (Segment(" Port Vanter" * 400),)], max_new_tokens=8, batch_size=2
        )


@pytest.mark.parametrize("family", FAMILIES)
def test_an_output_that_ends_at_once_is_empty_and_one_that_never_ends_is_cut(
    checkpoints: dict[str, tuple[BackboneChoice, Path]],
    engines: dict[str, tuple[Any, Ct2Engine]],
    family: str,
    tmp_path: Path,
) -> None:
    """The token that a row begins with is made one that ends an output, in the configuration that both read."""
    cut = _both(engines, family, INPUTS, max_new_tokens=1)[1]
    assert {found.finish_reason for found in cut} == {"length"}
    backbone, first = engines[family][0], cut[2].text
    assert len(backbone.vocabulary.encode(first)) >= 1
    choice, checkpoint = checkpoints[family]
    changed = _copy(checkpoint, tmp_path)
    config = json.loads((changed / "config.json").read_text())
    config["eos_token_id"] = _first_id(backbone, INPUTS[2])
    (changed / "config.json").write_text(json.dumps(config))
    opened = (
        open_backbone(choice, device="cpu", checkpoint=changed),
        open_converted(family, changed, compute_type="float32"),
    )
    by_torch, by_ct2 = _both({family: opened}, family, INPUTS)
    assert by_ct2 == by_torch
    assert (by_ct2[2].text, by_ct2[2].n_output_tokens, by_ct2[2].finish_reason) == ("", 1, "stop")


def _first_id(backbone: Any, source: ModelInput) -> int:
    """What torch writes first, read off the logits."""
    text = "".join(segment.text for segment in source)
    ids = backbone.vocabulary.encode(text)
    causal = backbone.choice.family == "causal"
    given = torch.tensor(
        [ids + (backbone.vocabulary.encode("\n") if causal else [backbone.vocabulary.end_id])]
    )
    start = (
        {}
        if causal
        else {"decoder_input_ids": torch.tensor([[backbone.model.config.decoder_start_token_id]])}
    )
    with torch.inference_mode():
        return int(backbone.model(input_ids=given, **start).logits[0, -1].argmax())


def test_threads_change_no_text(
    checkpoints: dict[str, tuple[BackboneChoice, Path]],
    engines: dict[str, tuple[Any, Ct2Engine]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    several = open_converted("causal", checkpoints["causal"][1], device="cpu", compute_type="float32")
    given = {"max_new_tokens": 16, "batch_size": 1}
    assert _all(several.generate(INPUTS, **given), 6) == _all(
        engines["causal"][1].generate(INPUTS, **given), 6
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_int8_writes_from_the_same_conversion(
    checkpoints: dict[str, tuple[BackboneChoice, Path]], family: str
) -> None:
    checkpoint = checkpoints[family][1]
    engine = open_converted(family, checkpoint, device="cpu")
    found = _all(engine.generate(INPUTS, max_new_tokens=12, batch_size=6), 6)
    assert all(output.n_output_tokens for output in found)
    assert len(list(checkpoint.parent.glob(f"{checkpoint.name}.ct2-*"))) == 1


def test_adapters_are_merged_before_they_are_converted(tiny_llama: Path, tmp_path: Path) -> None:
    choice = BackboneChoice(family="causal", model=str(tiny_llama), dtype="float32")
    settings = Training(epochs=1, learning_rate=0.05, batch_size=2, select="last", lora_rank=4)
    examples = [TrainingExample(source, "Port Vanter") for source in INPUTS]
    trained = fit(
        open_backbone(choice, device="cpu"), examples, [], settings=settings, output=tmp_path / "lora"
    )
    opened = (
        open_backbone(choice, device="cpu", checkpoint=trained.checkpoint),
        open_converted("causal", trained.checkpoint, compute_type="float32"),
    )
    by_torch, by_ct2 = _both({"causal": opened}, "causal", INPUTS)
    assert by_ct2 == by_torch
    base = open_backbone(choice, device="cpu")
    assert by_ct2 != _all(base.generate(INPUTS, max_new_tokens=24, batch_size=4), 6), (
        "training changed something"
    )


@pytest.mark.parametrize("n_own", [0, 1, 2, 3])
def test_a_row_that_is_nearly_all_shared_prefix_changes_no_other(
    engines: dict[str, tuple[Any, Ct2Engine]], n_own: int
) -> None:
    """CTranslate2 takes the others' prompts for their outputs where a row has one token behind the static prompt."""
    inputs = [(Segment("Port" + " Vanter" * n),) for n in (20, 20 + n_own, 60)]
    by_torch, by_ct2 = _both(engines, "causal", inputs, max_new_tokens=8)
    assert by_ct2 == by_torch


# --- what cannot be done ---------------------------------------------------------------------------------


def test_a_constrained_output_is_refused_with_the_way_out(engines: dict[str, tuple[Any, Ct2Engine]]) -> None:
    with pytest.raises(UsageError, match="--decoding free, or --engine torch"):
        engines["causal"][1].generate(INPUTS, max_new_tokens=4, batch_size=2, constraints=[])


@pytest.mark.parametrize(
    ("family", "decoding", "installed", "complaint"),
    [
        ("causal", "grounded", True, "decodes freely, not grounded"),
        ("mine", "free", True, "causal and seq2seq backbones, not 'mine'"),
        ("causal", "free", False, "pip install 'cdner\\[ct2\\]'"),
    ],
)
def test_what_an_engine_cannot_do_is_known_before_anything_is_loaded(
    monkeypatch: pytest.MonkeyPatch, family: str, decoding: str, installed: bool, complaint: str
) -> None:
    monkeypatch.setattr("cdner.models.engines.ct2_is_installed", lambda: installed)
    check_engine("torch", family=family, decoding=decoding)
    with pytest.raises(UsageError, match=complaint):
        check_engine("int8", family=family, decoding=decoding)


# --- the conversion --------------------------------------------------------------------------------------


def test_a_checkpoint_is_converted_once_under_the_name_of_its_content(
    checkpoints: dict[str, tuple[BackboneChoice, Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = _copy(checkpoints["causal"][1], tmp_path)
    first = converted(checkpoint)
    assert first == conversion_path(checkpoint) == tmp_path / first.name
    assert first.name.startswith("causal.ct2-")
    monkeypatch.setattr(ct2, "_convert", lambda *_: pytest.fail("converted again"))
    assert converted(checkpoint) == first
    card = json.loads((checkpoint / "cdner.json").read_text())
    (checkpoint / "cdner.json").write_text(json.dumps({**card, "weights_sha256": "0" * 64}))
    assert conversion_path(checkpoint) != first, "other weights, another name"


def _die_while_converting(checkpoint: Path) -> None:
    from ctranslate2.specs.model_spec import ModelConfig

    ModelConfig.save_as_json = lambda *_: os.kill(
        os.getpid(), signal.SIGKILL
    )  # the weights are written by then
    converted(checkpoint)


def test_a_conversion_that_is_killed_leaves_nothing_that_is_taken_for_one(
    checkpoints: dict[str, tuple[BackboneChoice, Path]], tmp_path: Path
) -> None:
    checkpoint = _copy(checkpoints["causal"][1], tmp_path)
    process = multiprocessing.get_context("fork").Process(target=_die_while_converting, args=(checkpoint,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    (left,) = (path.name for path in tmp_path.iterdir() if path != checkpoint)
    assert left.startswith(".causal.ct2-"), "hidden: cdner doctor says what to do with it"
    engine = open_converted("causal", checkpoint, compute_type="float32")
    assert _all(engine.generate(INPUTS[:1], max_new_tokens=4, batch_size=1), 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["causal", conversion_path(checkpoint).name]


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=["full", "Ctrl-C"]
)
def test_a_conversion_that_fails_leaves_nothing(
    checkpoints: dict[str, tuple[BackboneChoice, Path]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
) -> None:
    from ctranslate2.specs.model_spec import ModelConfig

    def fail(*_: object) -> None:
        raise error

    checkpoint = _copy(checkpoints["causal"][1], tmp_path)
    monkeypatch.setattr(ModelConfig, "save_as_json", fail)
    with pytest.raises(type(error)):
        converted(checkpoint)
    assert list(tmp_path.iterdir()) == [checkpoint]


def test_pickled_weights_are_never_read(
    checkpoints: dict[str, tuple[BackboneChoice, Path]], tmp_path: Path
) -> None:
    checkpoint = _copy(checkpoints["causal"][1], tmp_path)
    torch.save(
        open_backbone(checkpoints["causal"][0], device="cpu").model.state_dict(),
        checkpoint / "pytorch_model.bin",
    )
    (checkpoint / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"no file named model\.safetensors"):
        converted(checkpoint)
    assert list(tmp_path.iterdir()) == [checkpoint]


def test_a_model_the_converter_does_not_know_and_a_broken_conversion_are_said(
    checkpoints: dict[str, tuple[BackboneChoice, Path]], tmp_path: Path
) -> None:
    checkpoint = _copy(checkpoints["causal"][1], tmp_path)
    (converted(checkpoint) / "model.bin").write_bytes(b"no model")
    with pytest.raises(ModelError, match="Delete the folder to have it converted again"):
        open_converted("causal", checkpoint, compute_type="float32")
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps({**config, "model_type": "olmo"}))
    with pytest.raises(ModelError, match="CTranslate2 cannot convert"):
        converted(checkpoint)
    (checkpoint / "cdner.json").unlink()
    with pytest.raises(ModelError, match="not a checkpoint of cdner"):
        converted(checkpoint)
