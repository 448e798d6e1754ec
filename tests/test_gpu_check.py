"""``scripts/gpu-check``: its own code on a CPU with tiny models, what it says when something is wrong, estimates."""

from __future__ import annotations

import faulthandler
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = ROOT / "scripts"
sys.path[:0] = [str(SCRIPTS / "gpu_check"), str(SCRIPTS / "benchmarks")]

import estimate  # noqa: E402
import prediction_checks  # noqa: E402
import token_counts  # noqa: E402
from apart import results_of, run_apart  # noqa: E402
from machine import Machine  # noqa: E402
from shapes import SMALL_CAUSAL, SMALL_T5, T5Shape, shape_of  # noqa: E402
from subjects import Subject, cached_subjects  # noqa: E402

PAPER = ("paper-flan-t5-base", "paper-flan-t5-large")
CPU = Machine("cpu", small=True)


def gpu_check(*options: object, cache: Path, python: tuple[str, ...] = (sys.executable,)):
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [*python, SCRIPTS / "gpu-check", *map(str, options)],
        env={**kept, "CDNER_CACHE": str(cache), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def beside_the_scripts(code: str, *, cache: Path) -> list[str]:
    """Lines that ``code`` prints in a process of its own, which finds the modules that gpu-check finds."""
    folders = [SCRIPTS / "gpu_check", SCRIPTS / "benchmarks", ROOT / "tests", ROOT]
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "CDNER_CACHE": str(cache), "PYTHONPATH": os.pathsep.join(map(str, folders))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def subject(family: str, folder: Path) -> Subject:
    return Subject("tiny", family, None, folder, random=False)


# --- the whole -------------------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path: Path, tiny_llama: Path, tiny_t5: Path) -> Path:
    """A model that can be checked, one without config, one that writes no text, and one with broken weights."""
    models = tmp_path / "cache" / "models"
    models.mkdir(parents=True)
    (models / "own-t5").symlink_to(tiny_t5)
    (models / "half").mkdir()
    (models / "encoder").mkdir()
    (models / "encoder" / "config.json").write_text('{"model_type": "bert", "architectures": ["BertModel"]}')
    (models / "encoder" / "model.safetensors").write_bytes(b"")
    (models / "broken").mkdir()
    for file in tiny_llama.iterdir():
        (models / "broken" / file.name).write_bytes(file.read_bytes())
    weights = models / "broken" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    return tmp_path / "cache"


@pytest.mark.slow
def test_on_a_cpu_every_part_runs_and_what_is_wrong_with_one_model_ends_no_other(cache: Path, tmp_path: Path):
    started = time.monotonic()
    done = gpu_check("--device", "cpu", "--small", "--json", tmp_path / "found.json", cache=cache)
    assert time.monotonic() - started < 300
    found = json.loads((tmp_path / "found.json").read_text())
    failures = found["details"]["failures"]
    assert done.returncode == 1
    assert {failure.split(":")[0] for failure in failures} == {
        *("training, broken", "texts, broken", "prediction, broken", "embedding, broken")
    }, failures
    assert [line for line in done.stdout.splitlines() if line.startswith("FAILED ")] == [
        f"FAILED {failure}" for failure in failures
    ]
    assert found["details"]["left_out"] == [
        "encoder: writes no text (bert)",
        "half: no config.json with safetensors",
    ]
    rows = [row for row in found["rows"] if not row["what"].endswith("broken")]
    assert all(row["met"] is not False for row in rows)
    measured = {row["what"] for row in rows}
    for name in ("T5 tiny", "causal tiny", "own-t5"):
        assert f"training, {name}: tokens a second" in measured
        assert f"training, {name}: first loss" in measured
        assert f"prediction, {name}: tokens a second" in measured
        assert f"embedding, {name}: 1 - cosine" in measured
    for name in ("T5 tiny", "causal tiny"):
        assert f"resume, {name}: same weights" in measured
        assert f"two runs, {name}: same texts" in measured
        assert f"prediction, {name}: same texts" in measured
        assert f"training, {name}: share of the peak, Trainer" in measured
    assert {"peak", "LoRA, T5 tiny: peak memory", "memory plan, causal tiny: KV cache"} <= measured
    assert found["machine"]["torch"]


def test_what_is_missing_is_said_in_one_line(tmp_path: Path):
    bare = gpu_check("--device", "cpu", cache=tmp_path, python=(sys.executable, "-S", "-E"))
    assert bare.returncode == 1
    assert bare.stderr.startswith("gpu-check: not installed here: accelerate, ")
    assert "torch, transformers. Install cdner with: pip install -e " in bare.stderr
    assert len(bare.stderr.splitlines()) == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_and_names_the_way_out(tmp_path: Path):
    done = gpu_check(cache=tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "gpu-check: torch sees no CUDA GPU here. Install a CUDA build of torch, or give --device cpu --small."
    ]


def test_parts_that_the_time_does_not_suffice_for_are_failures(tmp_path: Path):
    done = gpu_check("--device", "cpu", "--small", "--minutes", "0.2", "--only", "memory", cache=tmp_path)
    assert done.returncode == 1
    assert "FAILED memory plan, causal tiny: not begun, the time is over" in done.stdout.splitlines()


# --- a part by itself ------------------------------------------------------------------------------------


def crash():
    faulthandler.disable()  # pytest's would print every thread
    os.kill(os.getpid(), signal.SIGSEGV)


def raises(_tell):
    raise ValueError("first line\nsecond line")


@pytest.mark.parametrize(
    ("work", "failure"),
    [
        (lambda tell: tell({"a": 1}), ""),
        (raises, "ValueError: first line"),
        (lambda _tell: crash(), "its process was ended by SIGSEGV"),
        (
            lambda _tell: os.kill(os.getpid(), signal.SIGKILL),
            "its process was ended by SIGKILL (out of memory?)",
        ),
        (lambda _tell: os._exit(7), "its process ended with exit code 7"),
        (lambda _tell: time.sleep(60), "stopped after 1 seconds"),
    ],
    ids=["well", "exception", "crash", "killed", "exit", "hangs"],
)
def test_however_a_process_ends_one_line_says_it(work, failure):
    assert run_apart(work, lambda _told: None, seconds=1 if "stopped" in failure else 60) == failure


def test_what_was_told_before_a_crash_is_kept():
    heard: list[object] = []

    def work(tell):
        tell(1)
        tell([2, "b"])
        crash()

    assert "SIGSEGV" in run_apart(work, heard.append, seconds=60)
    assert heard == [1, [2, "b"]]
    with pytest.raises(RuntimeError, match="SIGSEGV"):
        results_of(work, seconds=60)


def test_a_part_that_is_stopped_takes_the_processes_it_started_with_it(tmp_path: Path):
    def work(tell):
        def inner(_tell):
            (tmp_path / "pid").write_text(str(os.getpid()))
            time.sleep(60)

        results_of(inner, seconds=60)

    assert "stopped" in run_apart(work, lambda _told: None, seconds=2)
    pid = int((tmp_path / "pid").read_text())
    for _ in range(100):
        state = Path(f"/proc/{pid}/stat")
        if not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z":
            return
        time.sleep(0.05)
    pytest.fail("it still runs")


def test_the_process_that_forks_asks_nothing_of_cuda(tmp_path: Path):
    """CUDA cannot be used in a fork of a process that has started it, were it only to count devices."""
    code = f"""
import torch
asked = []
for name in ("is_available", "device_count", "current_device", "_lazy_init", "mem_get_info", "init"):
    usual = getattr(torch.cuda, name)
    setattr(torch.cuda, name, lambda *a, n=name, f=usual, **k: asked.append(n) or f(*a, **k))
from pathlib import Path
from machine import Machine
from parts import all_parts
assert len(all_parts(Path({str(tmp_path)!r}), Machine("cuda", small=False, total_gib=15.0))[0]) > 10
print(asked)
torch.cuda.is_available()
print(asked)
"""
    assert beside_the_scripts(code, cache=tmp_path) == ["[]", "['is_available']"]


def test_a_model_that_a_gpu_cannot_train_is_left_out_of_training_only(tmp_path: Path):
    code = f"""
from pathlib import Path
from machine import Machine
from parts import all_parts
for gib in (15.0, 80.0):
    parts, left_out = all_parts(Path({str(tmp_path)!r}), Machine("cuda", small=False, total_gib=gib))
    print([part.name for part in parts if "T5-large" in part.name], left_out)
"""
    rest = "'prediction, T5-large', 'embedding, T5-large'"
    assert beside_the_scripts(code, cache=tmp_path) == [
        f"[{rest}] ['training, T5-large: 15 GiB are too few']",
        f"['training, T5-large', {rest}] []",
    ]


# --- a check notices what it is there for ----------------------------------------------------------------


def missed(rows) -> list[str]:
    return [row.what for row in rows if row.met is False]


def missed_by(check: str, folder: Path, *, broken: str = "") -> list[str]:
    """What a check of a T5 misses where ``broken`` was executed before, in a process without threads of torch's."""
    code = f"""
import json
from pathlib import Path
import cdner.models.training, training_checks
from machine import Machine
from subjects import Subject
{broken}
subject = Subject("tiny", "seq2seq", None, Path({str(folder)!r}), random=False)
rows = training_checks.{check}(subject, Machine("cpu", small=True))
print(json.dumps([row.what for row in rows if row.met is False]))
"""
    return json.loads(beside_the_scripts(code, cache=folder)[-1])


def test_a_wrong_shared_prefix_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from fixtures.tiny_models import write_tiny_llama

    llama = subject("causal", write_tiny_llama(tmp_path / "llama", window=2048))
    assert missed(prediction_checks.texts(llama, CPU)) == []
    from cdner.models import causal

    usual = causal.common_prefix

    def shifted(rows):
        prefix = usual(rows)
        return (*prefix[:-2], prefix[-1], prefix[-2]) if prefix else prefix

    monkeypatch.setattr(causal, "common_prefix", shifted)
    assert "prediction, tiny: same texts" in missed(prediction_checks.texts(llama, CPU))


@pytest.mark.slow
def test_a_run_that_starts_again_instead_of_going_on_is_noticed(tmp_path: Path):
    from fixtures.tiny_models import write_tiny_t5

    t5 = write_tiny_t5(tmp_path / "t5")
    assert missed_by("resume", t5) == []
    forgets = "cdner.models.training.load_state = lambda *_: None"
    assert missed_by("resume", t5, broken=forgets) == ["resume, tiny: steps done again"]


@pytest.mark.slow
def test_two_runs_that_differ_are_noticed(tmp_path: Path):
    from fixtures.tiny_models import write_tiny_t5

    t5 = write_tiny_t5(tmp_path / "t5")
    assert missed_by("determinism", t5) == []
    by_chance = """
import os
usual = cdner.models.training.epoch_batches
cdner.models.training.epoch_batches = lambda examples, size, *, seed, epoch: usual(
    examples, size, seed=seed + os.getpid(), epoch=epoch
)
"""
    assert missed_by("determinism", t5, broken=by_chance)[:2] == [
        "two runs, tiny: an epoch's loss",
        "two runs, tiny: same weights",
    ]


def test_an_embedding_that_differs_is_noticed(tiny_t5: Path, monkeypatch: pytest.MonkeyPatch):
    assert missed(prediction_checks.embedding(subject("seq2seq", tiny_t5), CPU)) == []
    from cdner.models.seq2seq import Seq2SeqBackbone

    usual = Seq2SeqBackbone.embed
    monkeypatch.setattr(Seq2SeqBackbone, "embed", lambda self, texts: usual(self, [f"x {t}" for t in texts]))
    assert "embedding, tiny: 1 - cosine" in missed(
        prediction_checks.embedding(subject("seq2seq", tiny_t5), CPU)
    )


def test_a_large_model_of_the_cache_is_left_out_of_a_small_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_llama: Path
):
    folder = tmp_path / "models" / "large"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text((tiny_llama / "config.json").read_text())
    with (folder / "model.safetensors").open("wb") as file:
        file.truncate(10_000_001)
    monkeypatch.setenv("CDNER_CACHE", str(tmp_path))
    assert cached_subjects(small=True) == ([], ["large: too large for --small"])
    (found,), left_out = cached_subjects(small=False)
    assert (found.family, left_out) == ("causal", [])


# --- what the shapes say ---------------------------------------------------------------------------------


def t5_of(shape: T5Shape, *, attention: str):
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(**shape.config(), feed_forward_proj="gated-gelu", decoder_start_token_id=0)
    return T5ForConditionalGeneration._from_config(config, attn_implementation=attention)


def test_parameters_and_flops_of_a_t5_are_those_that_torch_counts():
    from torch.utils.flop_counter import FlopCounterMode

    for shape in (SMALL_T5, T5Shape(512, d_model=128, d_kv=32, d_ff=256, num_layers=3, num_heads=2)):
        model = t5_of(shape, attention="eager").eval()
        # What transformers builds has one matrix for both ends; Flan-T5 has two.
        own = sum(p.numel() for p in model.parameters()) + shape.vocab_size * shape.d_model
        assert shape.n_parameters == own
        with FlopCounterMode(display=False) as counted:
            ids = torch.ones(1, 37, dtype=torch.long)
            model(input_ids=ids, decoder_input_ids=ids[:, :13])
        assert shape.flops(37, 13) == counted.get_total_flops()
        assert shape_of(model.config) == shape


def test_parameters_and_flops_of_a_llama_are_those_that_torch_counts():
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = SMALL_CAUSAL
    config = LlamaConfig(**shape.config(), tie_word_embeddings=True, attn_implementation="eager")
    model = LlamaForCausalLM(config).eval()
    assert shape.n_parameters == sum(p.numel() for p in model.parameters())
    with FlopCounterMode(display=False) as counted:
        model(input_ids=torch.ones(1, 50, dtype=torch.long), logits_to_keep=13)
    # The rotary angles are a product of an outer kind, one for each position and half a head.
    rotary = 2 * 50 * shape.head_dim // 2
    assert shape.flops(37, 13) == pytest.approx(counted.get_total_flops() - rotary, rel=1e-3)
    assert shape_of(config) == shape


@pytest.mark.parametrize(("n_rows", "n_source", "n_target"), [(10, 90, 50), (3, 400, 50)])
def test_the_memory_of_a_training_step_is_what_torch_keeps(n_rows: int, n_source: int, n_target: int):
    from torch.autograd.graph import saved_tensors_hooks

    from cdner.models.seq2seq import _in_one_kernel
    from cdner.models.unpadded import Layout, Rows, register, unpadded

    shape = T5Shape(2048, d_model=384, d_kv=64, d_ff=1024, num_layers=2, num_heads=6)
    model = t5_of(shape, attention="sdpa").to(torch.bfloat16).train()
    register()
    _in_one_kernel(model)
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, tuple[int, torch.Tensor]] = {}  # with the tensor, so that no address is used twice

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    cpu = torch.device("cpu")
    layout = Layout(Rows.of([n_source] * n_rows, cpu), Rows.of([n_target] * n_rows, cpu))
    source, target = (torch.ones(1, n_rows * n, dtype=torch.long) for n in (n_source, n_target))
    with saved_tensors_hooks(keep, lambda tensor: tensor), unpadded(model, layout):
        found = model(input_ids=source, decoder_input_ids=target, use_cache=False, layout=layout)
        torch.nn.functional.cross_entropy(found.logits[0].float(), target[0], reduction="sum")
    expected = sum(n_bytes for n_bytes, _ in kept.values())
    assert shape.activation_bytes(n_rows, n_source, n_target) == pytest.approx(expected, rel=0.1)
    assert shape.activation_bytes(n_rows, n_source, n_target, fused=True) < expected


# --- the estimate ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PAPER)
def test_the_estimate_in_the_experiments_file_is_what_the_script_prints(name: str, tmp_path: Path):
    done = gpu_check("--estimate", name, cache=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == estimate.in_file(name) + "\n"
    assert "An estimate, not a measurement" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 120


def test_the_cost_of_reasoning_is_tokens_times_the_listed_price():
    prices = tomllib.loads((ROOT / "cdner" / "llm" / "prices.toml").read_text())
    listed = prices["models"]["gpt-4o-mini"]
    usd = 881 * (21159 / 4 * listed["input"] + 420 * listed["output"]) / 1e6
    (line,) = [row for row in estimate.table(PAPER[0]).splitlines() if row.startswith("# reason full ")]
    assert line.split()[-1] == f"{usd:.2f}"


def test_tokens_and_characters_are_those_of_the_corpora(shared_data: Path):
    counted = token_counts.counts(shared_data / "crossner", shared_data / "t5-tokenizer")
    assert {
        key: (split.n_sentences, split.n_source, split.n_target, *split.longest)
        for key, split in estimate.SPLITS.items()
    } == counted
    for setting, characters in estimate.PROMPT_CHARACTERS.items():
        assert token_counts.prompt_characters(shared_data / "crossner", "ai", setting, 10) == pytest.approx(
            characters, abs=5
        )


def test_a_larger_model_takes_longer_and_more_memory_and_a_card_may_have_no_room():
    base, large = (estimate.table(name).splitlines() for name in PAPER)
    row = "# train with reasoning"
    (small,), (big,) = ([line for line in table if line.startswith(row)] for table in (base, large))
    assert "no room" not in small
    assert "no room" in big
    assert float(small.split()[6].split("-")[0]) < float(big.split()[6].split("-")[0])


@pytest.mark.parametrize(
    ("name", "reason"),
    [("table2", "conll2003 -> ai"), ("demo", "flan-t5"), ("no-such", "no-such.toml")],
)
def test_an_estimate_that_cannot_be_made_is_refused_in_one_line(name: str, reason: str, tmp_path: Path):
    done = gpu_check("--estimate", name, cache=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 1
    assert reason in done.stderr


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ('settings = ["without_all", "fused"]', "no row for the LLM's verdicts"),
        ('settings = ["without_all", "told"]', "leave out the setting told"),
        ('settings = ["full", "llm_only"]', "leave out the setting llm_only"),
        ("predict.confidence = true", "no row for predict.confidence"),
        ('evidence.decoding = "grounded"', "no row for evidence.decoding"),
        ('evidence.tags = "each"', ""),
    ],
)
def test_settings_without_a_row_are_refused_and_those_of_taggers_change_nothing(
    change: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    given = (estimate.EXPERIMENTS / f"{PAPER[0]}.toml").read_text()
    changed = f"{change}\n" + (
        re.sub(r"(?m)^settings = \[[^]]*\]\n", "", given) if change.startswith("settings") else given
    )
    (tmp_path / "changed.toml").write_text(changed)
    plain = estimate.table(PAPER[0])
    monkeypatch.setattr(estimate, "EXPERIMENTS", tmp_path)
    if reason:
        with pytest.raises(ValueError, match=reason):
            estimate.table("changed")
    else:
        assert estimate.table("changed") == plain


def test_an_estimate_imports_no_torch():
    code = (
        f"import sys; sys.path[:0] = [{str(SCRIPTS / 'gpu_check')!r}, {str(ROOT)!r}]; import estimate; "
        f"estimate.table({PAPER[0]!r}); sys.exit('torch' in sys.modules)"
    )
    assert importlib.util.find_spec("torch")
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
