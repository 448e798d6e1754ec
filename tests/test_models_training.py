"""The loop is AdamW on the mean loss per target token, exactly; a killed run resumes to the same bits."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fixtures.tiny_models import TEXT

from cdner.config import BackboneChoice, Training
from cdner.errors import ModelError, UsageError
from cdner.files import file_sha256
from cdner.models import open_backbone
from cdner.models.trainable import EncodedExample, epoch_batches, pack
from cdner.models.training import fit
from cdner.models.training_state import learning_rate_factor
from cdner.models.weights import read_card, write_folder
from cdner.types import EpochLog, Segment, TrainingExample

EXAMPLES = [
    TrainingExample((Segment(source), Segment(f" Reason {n}.", 1)), target)
    for n, (source, target) in enumerate(
        [*zip(TEXT[:3], TEXT[3:], strict=True), (TEXT[1], TEXT[4]), (TEXT[0], "[]")]
    )
]
PLAIN = Training(
    epochs=1, learning_rate=1e-3, batch_size=2, select="last", warmup_ratio=0.0, schedule="constant"
)
Open = Callable[..., Any]


@pytest.fixture(params=["causal", "seq2seq"])
def opened(request: pytest.FixtureRequest) -> Open:
    folder = request.getfixturevalue("tiny_llama" if request.param == "causal" else "tiny_t5")

    def open_it(dtype: str = "float32", checkpoint: Path | None = None) -> Any:
        choice = {"family": request.param, "model": str(folder), "dtype": dtype}
        return open_backbone(BackboneChoice.model_validate(choice), checkpoint=checkpoint)

    return open_it


def _encoded(backbone: Any) -> list[EncodedExample]:
    return [
        backbone.encode_example(example, max_input_tokens=256, max_target_tokens=128, index=0)
        for example in EXAMPLES
    ]


def _loss_by_transformers(backbone: Any, examples: list[EncodedExample]) -> torch.Tensor:
    """The oracle: padded batch, labels -100 outside the targets, transformers' own loss (mean per target token)."""
    if backbone.choice.family == "seq2seq":
        ids, mask = _padded([list(example.source) for example in examples], 0)
        labels, _ = _padded([list(example.target) for example in examples], -100)
        return backbone.model(input_ids=ids, attention_mask=mask, labels=labels).loss
    ids, mask = _padded([[*example.source, *example.target] for example in examples], 0)
    labels, _ = _padded([[-100] * len(example.source) + list(example.target) for example in examples], -100)
    return backbone.model(input_ids=ids, attention_mask=mask, labels=labels).loss


def _padded(rows: list[list[int]], fill: int) -> tuple[torch.Tensor, torch.Tensor]:
    longest = max(map(len, rows))
    ids = torch.tensor([row + [fill] * (longest - len(row)) for row in rows])
    return ids, torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])


def _gradients(model: Any) -> dict[str, torch.Tensor]:
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def _weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def test_a_model_that_counts_positions_is_padded_and_computes_the_same(
    tiny_t5: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    choice = BackboneChoice(family="seq2seq", model=str(tiny_t5), dtype="float32")
    without_padding = open_backbone(choice)
    monkeypatch.setattr("cdner.models.seq2seq.MODEL_TYPES", frozenset())
    padded: Any = open_backbone(choice)
    monkeypatch.setattr(padded, "_unpadded", None)
    examples = _encoded(padded)
    found = [backbone.loss_sum(examples) for backbone in (without_padding, padded)]
    for loss in found:
        loss.backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-4)
    wanted = _gradients(padded.model)
    for name, gradient in _gradients(without_padding.model).items():
        torch.testing.assert_close(gradient, wanted[name], rtol=1e-3, atol=1e-3)


def test_a_t5_computes_nothing_for_padding(tiny_t5: Path) -> None:
    backbone: Any = open_backbone(BackboneChoice(family="seq2seq", model=str(tiny_t5), dtype="float32"))
    examples = _encoded(backbone)
    seen: list[tuple[int, ...]] = []
    for stack in (backbone.model.encoder, backbone.model.decoder):
        stack.block[0].layer[-1].register_forward_pre_hook(lambda _m, given: seen.append(given[0].shape[:2]))
    backbone.loss_sum(examples)
    assert seen == [(1, sum(len(e.source) for e in examples)), (1, sum(len(e.target) for e in examples))]
    assert len({len(e.source) for e in examples}) > 1
    ids = torch.tensor([examples[0].source])  # the model itself is as before
    backbone.model.generate(ids, max_new_tokens=3, do_sample=False)


def test_loss_and_gradients_equal_transformers_on_the_same_batch(opened: Open) -> None:
    backbone = opened()
    examples = _encoded(backbone)
    n_tokens = sum(len(example.target) for example in examples)
    expected = _loss_by_transformers(backbone, examples)
    expected.backward()
    wanted = _gradients(backbone.model)
    ours = backbone.loss_sum(examples) / n_tokens
    ours.backward()
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)
    for name, gradient in _gradients(backbone.model).items():
        torch.testing.assert_close(
            gradient, wanted[name], rtol=1e-3, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_the_shared_prefix_of_a_packed_row_is_really_shared(tiny_llama: Path) -> None:
    from cdner.models.causal import _Layout, common_prefix

    backbone = open_backbone(BackboneChoice(family="causal", model=str(tiny_llama), dtype="float32"))
    examples = _encoded(backbone)[:3]
    prefix = common_prefix([example.source[:-1] for example in examples])
    layout = _Layout(prefix, examples, torch.device("cpu"))
    assert len(prefix) >= 16
    assert layout.ids.shape[1] == sum(e.n_tokens - 1 for e in examples) - 2 * len(prefix)


def test_an_epoch_equals_a_plain_adamw_loop(opened: Open, tmp_path: Path) -> None:
    backbone, twin = opened(), opened()
    for model in (backbone.model, twin.model):
        _without_dropout(model)
    settings = PLAIN.model_copy(
        update={"epochs": 2, "warmup_ratio": 0.2, "schedule": "linear", "clip_norm": 0.5, "weight_decay": 1.0}
    )
    before = _weights(backbone.model)
    fit(backbone, EXAMPLES, [], settings=settings, output=tmp_path / "out")

    examples = _encoded(twin)
    decayed = [p for p in twin.model.parameters() if p.ndim > 1]
    plain = [p for p in twin.model.parameters() if p.ndim <= 1]
    adamw = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 1.0}, {"params": plain, "weight_decay": 0.0}], foreach=False
    )
    step = 0
    for epoch in (1, 2):
        for batch in epoch_batches(examples, 2, seed=0, epoch=epoch):
            for group in adamw.param_groups:
                group["lr"] = 1e-3 * ((step + 1) / 2 if step < 2 else (6 - step) / 4)
            adamw.zero_grad()
            _loss_by_transformers(twin, [examples[index] for index in batch]).backward()
            torch.nn.utils.clip_grad_norm_(twin.model.parameters(), 0.5)
            adamw.step()
            step += 1
    # Rounding alone gives up to 0.001 (T5, by processor); 1 % less weight decay already gives 0.004.
    assert _relative_distance(backbone.model, twin.model, before) < 3e-3


def _relative_distance(model: Any, twin: Any, before: dict[str, torch.Tensor]) -> float:
    """How far two models are apart, as a share of how far training moved them.

    Over all weights together: Adam turns a gradient that is 0 but for rounding into a step of either sign.
    """
    ours, theirs = _weights(model), _weights(twin)
    apart = sum((ours[name] - theirs[name]).square().sum().item() for name in before)
    moved = sum((theirs[name] - before[name]).square().sum().item() for name in before)
    return math.sqrt(apart / moved)


def _without_dropout(model: Any) -> None:
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if hasattr(module, "dropout") and isinstance(module.dropout, float):
            module.dropout = 0.0


def test_accumulated_gradients_equal_one_big_batch(opened: Open, tmp_path: Path) -> None:
    small, big = opened(), opened()
    for model in (small.model, big.model):
        _without_dropout(model)
    fit(
        small,
        EXAMPLES[:4],
        [],
        settings=PLAIN.model_copy(update={"batch_size": 1, "gradient_accumulation": 4}),
        output=tmp_path / "small",
    )
    fit(big, EXAMPLES[:4], [], settings=PLAIN.model_copy(update={"batch_size": 4}), output=tmp_path / "big")
    assert _relative_distance(small.model, big.model, _weights(opened().model)) < 1e-3


def test_the_best_epoch_on_dev_is_kept_and_not_the_last(opened: Open, tmp_path: Path) -> None:
    backbone = opened()
    scores = iter([0.2, 0.9, 0.9, 0.1])
    snapshots: list[dict[str, torch.Tensor]] = []

    def metric(model: Any) -> float:
        snapshots.append(_weights(model.model))
        return next(scores)

    settings = PLAIN.model_copy(update={"epochs": 4, "select": "dev_metric"})
    result = fit(backbone, EXAMPLES, [], settings=settings, output=tmp_path / "out", metric=metric)
    assert result.best_epoch == 2
    assert [log.dev_metric for log in result.epochs] == [0.2, 0.9, 0.9, 0.1]
    loaded = opened(checkpoint=tmp_path / "out")
    for name, weight in _weights(loaded.model).items():
        assert torch.equal(weight, snapshots[1][name])
        assert torch.equal(_weights(backbone.model)[name], snapshots[1][name])


def test_dev_loss_is_the_mean_per_target_token(opened: Open, tmp_path: Path) -> None:
    backbone = opened()
    settings = PLAIN.model_copy(update={"select": "dev_loss"})
    result = fit(backbone, EXAMPLES, EXAMPLES[:3], settings=settings, output=tmp_path / "out")
    with torch.no_grad():
        expected = _loss_by_transformers(backbone, _encoded(backbone)[:3]).item()
    assert result.epochs[0].dev_loss == pytest.approx(expected, rel=1e-4)


def test_a_checkpoint_is_plain_safetensors_with_a_card(opened: Open, tmp_path: Path) -> None:
    result = fit(opened(), EXAMPLES, [], settings=PLAIN, output=tmp_path / "out")
    names = {path.name for path in result.checkpoint.iterdir()}
    assert {"model.safetensors", "config.json", "tokenizer.json", "cdner.json"} <= names
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pkl", ".pickle", ".pth"))]
    card = read_card(result.checkpoint)
    assert card.settings == PLAIN
    assert (
        card.weights_sha256 == result.weights_sha256 == file_sha256(result.checkpoint / "model.safetensors")
    )
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_zero_epochs_write_the_base_weights(opened: Open, tmp_path: Path) -> None:
    backbone = opened()
    result = fit(backbone, [], [], settings=PLAIN.model_copy(update={"epochs": 0}), output=tmp_path / "out")
    assert (result.best_epoch, result.epochs) == (0, ())
    loaded = opened(checkpoint=tmp_path / "out")
    for name, weight in _weights(opened().model).items():
        assert torch.equal(weight, _weights(loaded.model)[name])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_lora_trains_and_its_merged_checkpoint_computes_the_same(
    opened: Open, tmp_path: Path, dtype: str
) -> None:
    backbone = opened(dtype)
    _without_dropout(backbone.model)
    settings = PLAIN.model_copy(
        update={"epochs": 6, "lora_rank": 4, "learning_rate": 1e-2, "select": "dev_metric"}
    )
    unmerged: list[float] = []
    with torch.no_grad():
        base = backbone.loss_sum(_encoded(backbone)).item()

    def metric(model: Any) -> float:
        with torch.no_grad():
            unmerged.append(model.loss_sum(_encoded(model)).item())
        return -unmerged[-1]

    result = fit(backbone, EXAMPLES, [], settings=settings, output=tmp_path / "out", metric=metric)
    assert min(unmerged) < base
    loaded = opened(dtype, checkpoint=result.checkpoint)
    with torch.no_grad():
        merged = loaded.loss_sum(_encoded(loaded)).item()
    assert merged == pytest.approx(unmerged[result.best_epoch - 1], rel=1e-4 if dtype == "float32" else 0.05)
    assert not [name for name, _ in loaded.model.named_parameters() if "lora" in name]
    inputs = [example.source for example in EXAMPLES]
    ours = dict(backbone.generate(inputs, max_new_tokens=12, batch_size=2))
    assert ours == dict(loaded.generate(inputs, max_new_tokens=12, batch_size=2))


def test_bfloat16_keeps_updates_smaller_than_its_step(opened: Open, tmp_path: Path) -> None:
    """A step of 5e-5 on a weight above 0.25 rounds away in bf16 (half a unit is 1e-3): only masters add steps up."""
    backbone = opened("bfloat16")
    _without_dropout(backbone.model)
    before = _weights(backbone.model)
    settings = PLAIN.model_copy(update={"epochs": 40, "learning_rate": 5e-5, "weight_decay": 0.0})
    fit(backbone, EXAMPLES, [], settings=settings, output=tmp_path / "out")
    assert backbone.model.dtype == torch.bfloat16
    large = [
        (weight[far] != before[name][far]).float().mean().item()
        for name, weight in _weights(backbone.model).items()
        if (far := before[name].abs() > 0.25).sum() > 100 and "embed" not in name and "shared" not in name
    ]
    assert sum(large) / len(large) > 0.1


def test_truncated_tokens_are_counted(opened: Open, tmp_path: Path) -> None:
    backbone = opened()
    whole = _encoded(backbone)
    settings = PLAIN.model_copy(update={"max_input_tokens": 6, "max_target_tokens": 9})
    result = fit(backbone, EXAMPLES, [], settings=settings, output=tmp_path / "out")
    cut = [
        backbone.encode_example(example, max_input_tokens=6, max_target_tokens=9, index=0)
        for example in EXAMPLES
    ]
    expected = sum(full.n_tokens - short.n_tokens for full, short in zip(whole, cut, strict=True))
    assert result.epochs[0].n_truncated_tokens == expected > 0
    assert all(len(short.target) <= 9 and short.target[-1] == backbone.vocabulary.end_id for short in cut)
    generation = dict(backbone.generate([EXAMPLES[0].source], max_new_tokens=2, batch_size=1))[0]
    assert generation.n_truncated_tokens > 0, "generation keeps to the budget the model was trained with"
    loaded = opened(checkpoint=result.checkpoint)
    assert dict(loaded.generate([EXAMPLES[0].source], max_new_tokens=2, batch_size=1))[0] == generation


RESUMED = """
import json, os, signal, sys
from pathlib import Path
sys.path[:0] = [{root!r}, {tests!r}]
import torch
torch.set_num_threads(1)
from cdner.models import open_backbone
from cdner.models.training import fit
from cdner.config import BackboneChoice, Training
from test_models_training import EXAMPLES
kill_after = int(sys.argv[2])
n = 0
class Progress:
    def start(self, label, total=None): pass
    def advance(self, n_done=1, note=""):
        global n
        n += 1
        if n == kill_after:
            os.kill(os.getpid(), signal.SIGKILL)
backbone = open_backbone(BackboneChoice(family={family!r}, model={model!r}, dtype="float32"))
settings = Training(epochs=4, learning_rate=1e-3, batch_size=2, select="dev_loss", lora_rank={rank})
seen = []
result = fit(backbone, EXAMPLES, EXAMPLES[:2], settings=settings, output=Path(sys.argv[1]),
    on_epoch=lambda log: seen.append(log.epoch), progress=Progress())
print(json.dumps([result.weights_sha256, result.best_epoch, n, seen, [log.train_loss for log in result.epochs]]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("family", "rank"), [("causal", 0), ("seq2seq", 4)])
def test_a_run_killed_in_its_third_epoch_resumes_to_the_same_bits(
    family: str, rank: int, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    model = request.getfixturevalue("tiny_llama" if family == "causal" else "tiny_t5")
    tests = Path(__file__).parent
    code = RESUMED.format(
        root=str(tests.parent), tests=str(tests), family=family, model=str(model), rank=rank
    )

    def run(output: str, kill_after: int) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", code, str(tmp_path / output), str(kill_after)]
        return subprocess.run(
            command, capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )

    whole = json.loads(run("whole", 0).stdout)
    killed = run("resumed", 8)  # three steps an epoch: in the middle of the third
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "resumed").exists()
    assert (tmp_path / ".resumed.training").is_dir()
    resumed = json.loads(run("resumed", 0).stdout)
    assert resumed[0] == whole[0]
    assert (resumed[1], resumed[3], resumed[4]) == (whole[1], [1, 2, 3, 4], whole[4])
    assert (whole[2], resumed[2]) == (12, 6)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["resumed", "whole"]


def test_what_a_writer_of_the_state_left_when_it_was_killed_goes_with_the_state(
    opened: Open, tmp_path: Path
) -> None:
    """Killed while the state of the last epoch but one was put in place: no later epoch writes the state again."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    for kind in ("old", "new"):
        left = tmp_path / f"..out.training.{ended.pid}.{kind}"
        left.mkdir()
        (left / "last.safetensors").write_bytes(b"half")
    one_epoch = PLAIN.model_copy(update={"epochs": 1})
    fit(opened(), EXAMPLES, [], settings=one_epoch, output=tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_state_of_another_run_is_not_resumed(opened: Open, tmp_path: Path) -> None:
    settings = PLAIN.model_copy(update={"epochs": 3})

    class StoppedError(Exception):
        pass

    def stop(log: EpochLog) -> None:
        if log.epoch == 2:
            raise StoppedError

    def epochs_seen(**changed: Any) -> list[int]:
        seen: list[int] = []
        with pytest.raises(StoppedError):
            fit(opened(), EXAMPLES, [], settings=settings, output=tmp_path / "out", on_epoch=stop)
        fit(
            opened(),
            EXAMPLES,
            [],
            settings=settings.model_copy(update=changed),
            output=tmp_path / "out",
            on_epoch=lambda log: seen.append(log.epoch),
        )
        return seen

    assert epochs_seen() == [1, 2, 3]
    first = read_card(tmp_path / "out").weights_sha256
    epochs_seen(seed=1)
    assert read_card(tmp_path / "out").weights_sha256 != first
    epochs_seen()
    assert read_card(tmp_path / "out").weights_sha256 == first


def test_dropout_and_order_depend_on_the_seed_alone(opened: Open, tmp_path: Path) -> None:
    results = []
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        torch.rand(7)  # what the caller did with the global generator must not matter
        settings = PLAIN.model_copy(update={"seed": seed, "epochs": 2})
        results.append(fit(opened(), EXAMPLES, [], settings=settings, output=tmp_path / name).weights_sha256)
    assert results[0] == results[1] != results[2]


def test_impossible_selections_and_broken_losses_are_refused(opened: Open, tmp_path: Path) -> None:
    backbone = opened()
    output = tmp_path / "out"
    with pytest.raises(UsageError, match="needs dev examples"):
        fit(backbone, EXAMPLES, [], settings=PLAIN.model_copy(update={"select": "dev_loss"}), output=output)
    with pytest.raises(UsageError, match="needs a metric"):
        fit(backbone, EXAMPLES, [], settings=PLAIN.model_copy(update={"select": "dev_metric"}), output=output)
    with pytest.raises(UsageError, match="nothing to train on"):
        fit(backbone, [], [], settings=PLAIN, output=output)
    with torch.no_grad():
        next(iter(backbone.model.parameters())).fill_(math.nan)
    with pytest.raises(ModelError, match="The loss is nan"):
        fit(backbone, EXAMPLES, [], settings=PLAIN, output=output)
    assert not output.exists()


def test_warm_up_then_linear_decay() -> None:
    settings = PLAIN.model_copy(update={"warmup_ratio": 0.2, "schedule": "linear"})
    factors = [learning_rate_factor(step, 10, settings) for step in range(10)]
    assert factors == pytest.approx([0.5, 1.0, 1.0, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8])
    constant = settings.model_copy(update={"schedule": "constant"})
    assert [learning_rate_factor(step, 4, constant) for step in range(4)] == [1.0, 1.0, 1.0, 1.0]


def test_epoch_batches_hold_every_example_once_and_differ_between_epochs() -> None:
    examples = [EncodedExample((1,) * (n % 7 + 1), (2,), 0) for n in range(50)]
    first = epoch_batches(examples, 8, seed=0, epoch=1)
    assert sorted(index for batch in first for index in batch) == list(range(50))
    assert first == epoch_batches(examples, 8, seed=0, epoch=1)
    assert first != epoch_batches(examples, 8, seed=0, epoch=2)
    assert first != epoch_batches(examples, 8, seed=1, epoch=1)


def test_packs_keep_order_and_stay_within_the_budget() -> None:
    examples = [EncodedExample((1,) * n, (2,), n) for n in (3, 4, 20, 2, 2, 2)]
    found = list(pack(examples, max_tokens=10))
    assert [[example.n_truncated for example in group] for group in found] == [[3, 4], [20], [2, 2, 2]]
    assert replace(examples[0], n_truncated=0).n_tokens == 4


def test_a_folder_whose_writing_fails_leaves_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "model"
    write_folder(target, lambda folder: (folder / "a").write_text("old") and None)

    def broken(folder: Path) -> None:
        (folder / "a").write_text("new")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_folder(target, broken)
    assert (target / "a").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
