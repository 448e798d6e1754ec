"""Model folders that would run code, or whose files do not fit together: refused in one line, or without effect."""

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


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation"])
@pytest.mark.parametrize("family", ["seq2seq", "causal"])
def test_a_kernel_that_the_configuration_names_is_never_fetched(
    key: str, family: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import PreTrainedModel

    source = request.getfixturevalue("tiny_t5" if family == "seq2seq" else "tiny_llama")
    folder = Path(shutil.copytree(source, tmp_path / "model"))
    changed(folder / "config.json", **{key: "owner/name"})
    requested: set[str | None] = set()
    usual = PreTrainedModel._check_and_adjust_attn_implementation

    def recorded(self: object, name: str | None, *arguments: object, **options: object) -> str:
        requested.add(name)
        return usual(self, name, *arguments, **options)

    monkeypatch.setattr(PreTrainedModel, "_check_and_adjust_attn_implementation", recorded)
    choice = BackboneChoice(family=family, model=str(folder), dtype="float32")
    opened = open_backbone(choice, device="cpu")
    assert requested == {None, "sdpa"}
    assert opened.model.config._attn_implementation == "sdpa"


Change = dict[str, object]
MISFITS: tuple[tuple[Change, str], ...] = (
    (
        {"d_ff": 99},
        r"Its weight '[^']+' has the shape \d+ x \d+, its configuration says (99 x \d+|\d+ x 99)\. ",
    ),
    (
        {"vocab_size": 10},
        r"Its weight 'shared\.weight' has the shape \d+ x \d+, its configuration says 10 x \d+\. ",
    ),
    ({"num_heads": 0}, r""),
    ({"d_model": "x"}, r""),
    ({"num_layers": 9}, r"\d+ of its weights are missing, first 'encoder\.block\.2\.[^']+'\. "),
    ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, r""),
)


@pytest.mark.parametrize(("change", "reason"), MISFITS)
def test_a_configuration_that_does_not_fit_the_weights_is_one_line(
    change: Change, reason: str, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    changed(folder / "config.json", **change)
    with pytest.raises(ModelError, match=rf"^Cannot load model '[^']+' as seq2seq: {reason}[^\n]+$"):
        opened(folder)
    printed = capfd.readouterr()
    assert printed.out + printed.err == ""


def test_a_tokenizer_of_a_larger_model_is_one_line(folder: Path) -> None:
    other = json.loads((folder / "tokenizer.json").read_text())
    other["model"]["vocab"] += [[f"new{number}", -9.0] for number in range(500)]
    (folder / "tokenizer.json").write_text(json.dumps(other))
    with pytest.raises(
        ModelError, match=r"Its tokenizer has \d+ tokens, its embedding has rows for \d+\. [^\n]+$"
    ):
        opened(folder)


def test_the_bombs_would_have_gone_off(folder: Path, marker: Path) -> None:
    pickles_beside(folder, marker)
    pickle.loads((folder / "optimizer.pt").read_bytes())
    assert marker.exists()
