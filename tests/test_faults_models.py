"""Model folders that try to run code: pickles, code of their own, adapters. Refused in one line, or never looked at."""

from __future__ import annotations

import json
import pickle
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cdner.config import BackboneChoice
from cdner.errors import ModelError
from cdner.models import open_backbone
from cdner.models.chat_tokenizer import open_chat_tokenizer

CODE = "from pathlib import Path\nPath({marker!r}).touch()\nclass Evil: pass\nEvilConfig = EvilTokenizer = Evil\n"


class Bomb:
    """Whoever unpickles it makes a file."""

    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self._marker,)


@pytest.fixture
def folder(tiny_t5: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_t5, tmp_path / "model"))


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "exploded"


def changed(file: Path, **values: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def only_pickles(folder: Path, marker: Path) -> None:
    (folder / "model.safetensors").unlink()
    for name in ("pytorch_model.bin", "model.pt", "pytorch_model.pt", "training_args.bin"):
        (folder / name).write_bytes(pickle.dumps(Bomb(marker)))


def pickled_shards(folder: Path, marker: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "shard.bin").write_bytes(pickle.dumps(Bomb(marker)))
    index = {"metadata": {}, "weight_map": {"shared.weight": "shard.bin"}}
    for name in ("model.safetensors.index.json", "pytorch_model.bin.index.json"):
        (folder / name).write_text(json.dumps(index))


def pickle_called_safetensors(folder: Path, marker: Path) -> None:
    (folder / "model.safetensors").write_bytes(pickle.dumps(Bomb(marker)))


def pickled_adapter(folder: Path, marker: Path) -> None:
    adapter = {"peft_type": "LORA", "base_model_name_or_path": str(folder), "task_type": "SEQ_2_SEQ_LM"}
    (folder / "adapter_config.json").write_text(json.dumps({**adapter, "r": 1, "target_modules": ["q", "v"]}))
    (folder / "adapter_model.bin").write_bytes(pickle.dumps(Bomb(marker)))


def code_of_its_own(folder: Path, marker: Path) -> None:
    (folder / "evil.py").write_text(CODE.format(marker=str(marker)))
    auto_map = {"AutoConfig": "evil.EvilConfig", "AutoModelForSeq2SeqLM": "evil.Evil"}
    changed(folder / "config.json", model_type="evil", auto_map=auto_map)


def tokenizer_of_its_own(folder: Path, marker: Path) -> None:
    code_of_its_own(folder, marker)
    changed(folder / "config.json", model_type="t5")
    tokenizer = {"AutoTokenizer": ["evil.EvilTokenizer", "evil.EvilTokenizer"]}
    changed(folder / "tokenizer_config.json", auto_map=tokenizer, tokenizer_class="EvilTokenizer")
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate" / "generate.py").write_text(CODE.format(marker=str(marker)))


def pickles_beside(folder: Path, marker: Path) -> None:
    weights = (folder / "model.safetensors").read_bytes()
    only_pickles(folder, marker)
    (folder / "model.safetensors").write_bytes(weights)
    for name in ("tokenizer.pkl", "vocab.pkl", "optimizer.pt", "rng_state.pth", "scheduler.pt"):
        (folder / name).write_bytes(pickle.dumps(Bomb(marker)))


Attack = Callable[[Path, Path], None]
REFUSED: tuple[Attack, ...] = (
    only_pickles,
    pickled_shards,
    pickle_called_safetensors,
    pickled_adapter,
    code_of_its_own,
)


def opened(folder: Path) -> object:
    return open_backbone(BackboneChoice(model=str(folder), dtype="float32"), device="cpu")


@pytest.mark.parametrize("attack", REFUSED)
def test_a_folder_that_would_run_code_is_refused_in_one_line(
    attack: Attack, folder: Path, marker: Path
) -> None:
    attack(folder, marker)
    with pytest.raises(ModelError) as refusal:
        opened(folder)
    message = str(refusal.value)
    assert message.startswith(f"Cannot load model '{folder}' as seq2seq: ") and "safetensors" in message
    assert "\n" not in message
    assert not marker.exists() and "evil" not in sys.modules


@pytest.mark.parametrize("index", [{}, [], {"weight_map": ["a.safetensors"]}, {"weight_map": {"a": 1}}])
def test_an_index_of_weights_without_names_is_one_line(index: object, folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match=r"model\.safetensors\.index\.json names no files: [^\n]+$"):
        opened(folder)


@pytest.mark.parametrize("attack", [tokenizer_of_its_own, pickles_beside])
def test_what_would_run_code_beside_an_honest_model_is_not_looked_at(
    attack: Attack, folder: Path, marker: Path
) -> None:
    attack(folder, marker)
    opened(folder)
    assert not marker.exists() and "evil" not in sys.modules


@pytest.mark.parametrize("attack", [tokenizer_of_its_own, code_of_its_own])
def test_a_chat_tokenizer_runs_no_code_either(attack: Attack, folder: Path, marker: Path) -> None:
    attack(folder, marker)
    if attack is code_of_its_own:
        with pytest.raises(ModelError, match="Cannot read the tokenizer of the folder"):
            open_chat_tokenizer(str(folder))
    else:
        open_chat_tokenizer(str(folder))
    assert not marker.exists() and "evil" not in sys.modules


def test_the_bombs_would_have_gone_off(folder: Path, marker: Path) -> None:
    pickles_beside(folder, marker)
    pickle.loads((folder / "optimizer.pt").read_bytes())
    assert marker.exists()
