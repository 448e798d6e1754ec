"""How much memory a vLLM server is given: sizes read from files, arithmetic against plain loops, devices as text."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from vllm_servers import StubEnvironment

from cdner.config import Execution
from cdner.errors import BackendError, UsageError
from cdner.llm.vllm import find_vllm, place
from cdner.llm.vllm.devices import MIB, DeviceMemory, read_devices, visible_devices
from cdner.llm.vllm.memory import (
    CONTEXT_BYTES,
    GIB,
    REST_BYTES,
    ModelSize,
    Needs,
    cpu_cache_gib,
    folder_size,
    model_size,
    needs_of,
    plan_memory,
    size_in_name,
)

LLAMA_8B = ModelSize(8_030_261_248, n_values_per_token=2 * 32 * 8 * 128)
LISTING = "0, GPU-aaaa, 24576, 23000\n1, GPU-bbbb, 81920, 400\n2, GPU-abcd, 81920, 81000\n"


def write_model(folder: Path, config: dict[str, object] | None = None) -> dict[str, np.ndarray]:
    """Two files of random tensors in several formats; returns the tensors."""
    rng = np.random.default_rng(0)
    tensors = {
        "a": rng.random((3, 5), dtype=np.float32),
        "b": rng.random((7,)).astype(np.float16),
        "c": rng.integers(0, 9, (4, 4), dtype=np.int32),
        "d": rng.integers(0, 9, (6,), dtype=np.uint8),
    }
    folder.mkdir()
    save_file({name: tensors[name] for name in "ab"}, folder / "model-1.safetensors")
    save_file({name: tensors[name] for name in "cd"}, folder / "model-2.safetensors")
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return tensors


# --- the model -------------------------------------------------------------------------------------------


def test_size_of_a_folder_is_what_its_tensors_add_up_to(tmp_path: Path) -> None:
    heads = {"num_hidden_layers": 3, "num_attention_heads": 4, "hidden_size": 32}
    tensors = write_model(tmp_path / "m", heads)
    size = folder_size(tmp_path / "m")
    assert size is not None
    n_parameters = n_packed = 0
    for tensor in tensors.values():
        for _ in tensor.ravel():
            if tensor.dtype.kind == "f":
                n_parameters += 1
            else:
                n_packed += tensor.dtype.itemsize
    assert (size.n_parameters, size.n_packed_bytes) == (n_parameters, n_packed) == (22, 70)
    kept = [(layer, head, i) for layer in range(3) for head in range(4) for i in range(8) for _ in "kv"]
    assert size.n_values_per_token == len(kept)


@pytest.mark.parametrize(
    ("more", "values"),
    [
        ({"num_key_value_heads": 2}, 2 * 3 * 2 * 8),
        ({"head_dim": 16}, 2 * 3 * 4 * 16),
        ({"num_key_value_heads": None}, 2 * 3 * 4 * 8),
    ],
)
def test_shared_heads_and_odd_head_sizes_count(tmp_path: Path, more: dict[str, int], values: int) -> None:
    heads = {"num_hidden_layers": 3, "num_attention_heads": 4, "hidden_size": 32} | more
    write_model(tmp_path / "m", {"model_type": "x", "text_config": heads})
    size = folder_size(tmp_path / "m")
    assert size is not None
    assert size.n_values_per_token == values


def test_a_folder_without_configuration_or_weights_is_known_in_part_or_not(tmp_path: Path) -> None:
    write_model(tmp_path / "m")
    size = folder_size(tmp_path / "m")
    assert size is not None
    assert size.n_values_per_token is None
    (tmp_path / "empty").mkdir()
    assert folder_size(tmp_path / "empty") is None


@pytest.mark.parametrize(
    ("name", "n"),
    [
        ("Qwen/Qwen2.5-7B-Instruct", 7_000_000_000),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", 135_000_000),
        ("Qwen/Qwen2.5-0.5B", 500_000_000),
        ("google/gemma-3-270m", 270_000_000),
        ("microsoft/phi-4", None),
        ("Qwen/Qwen2.5-72B-Instruct-AWQ", None),
        ("org/Llama-3.1-70B-FP8", None),
    ],
)
def test_a_name_says_how_many_parameters_unless_they_are_packed(name: str, n: int | None) -> None:
    size = size_in_name(name)
    assert (size and size.n_parameters) == n


def test_of_a_model_that_is_not_in_the_cache_its_name_is_all_that_is_known() -> None:
    assert model_size("nobody/never-heard-of-7B") == ModelSize(7_000_000_000)
    assert model_size("nobody/never-heard-of") is None
    assert model_size("no hub name: 7B") == ModelSize(7_000_000_000)


# --- the sum ---------------------------------------------------------------------------------------------


def test_plan_is_what_trying_every_number_of_requests_gives() -> None:
    rng = random.Random(0)
    outcomes = set()
    for _ in range(500):
        size = ModelSize(rng.randrange(10**8, 3 * 10**10), n_values_per_token=rng.randrange(1000, 300_000))
        length, concurrency = rng.randrange(512, 8192), rng.randrange(1, 33)
        needs = needs_of(size, max_model_len=length, concurrency=concurrency)
        total = rng.choice((16, 24, 80)) * GIB
        free = rng.randrange(total)
        cache = sum(size.n_values_per_token * 2 for _ in range(length))
        fitting = [
            taken
            for n in range(1, concurrency + 1)
            if (taken := size.n_parameters * 2 + REST_BYTES + n * cache) <= free - CONTEXT_BYTES
        ]
        try:
            plan = plan_memory([DeviceMemory(total, free)], needs, model="m")
        except BackendError:
            assert fitting == []
            outcomes.add("refused")
            continue
        assert plan.n_bytes == max(fitting)
        assert plan.n_bytes <= plan.utilization * total <= free
        outcomes.add("all" if len(fitting) == concurrency else "some")
    assert outcomes == {"refused", "all", "some"}


def test_the_plan_states_what_it_is_made_of() -> None:
    needs = needs_of(LLAMA_8B, max_model_len=4096, concurrency=8)
    plan = plan_memory([DeviceMemory(24 * GIB, 23 * GIB)], needs, model="m")
    assert plan.statement == (
        "vLLM takes 21.0 GiB of the GPU's 24.0 GiB (22.5 GiB free): 15.0 GiB weights, 4.0 GiB KV cache for 8 "
        "requests at once, 2.0 GiB for the rest"
    )


def test_two_gpus_share_a_model_and_the_fuller_one_decides() -> None:
    devices = [DeviceMemory(24 * GIB, 23 * GIB), DeviceMemory(24 * GIB, 9 * GIB)]
    needs = needs_of(LLAMA_8B, max_model_len=4096, concurrency=8, n_devices=2)
    assert needs == Needs(8_030_261_248, 2**18 * 1024, 8)
    assert plan_memory(devices[:1], needs, model="m").n_bytes == needs.with_sequences(8)
    with pytest.raises(BackendError, match=r"8.5 GiB of 24.0 GiB are free"):
        plan_memory(devices, needs, model="m")


def test_too_little_memory_names_both_ways_out() -> None:
    needs = needs_of(LLAMA_8B, max_model_len=4096, concurrency=8)
    with pytest.raises(BackendError, match=r"'org/m' needs at least 17.5 GiB.*smaller model.*--gpu-memory"):
        plan_memory([DeviceMemory(24 * GIB, 10 * GIB)], needs, model="org/m")


def test_gpu_memory_overrides_the_sum_within_what_is_free_and_what_the_weights_take() -> None:
    needs = needs_of(LLAMA_8B, max_model_len=4096, concurrency=8)
    device = [DeviceMemory(24 * GIB, 20 * GIB)]
    plan = plan_memory(device, needs, model="m", asked_gib=16)
    assert (plan.n_bytes, "as --gpu-memory says" in plan.statement) == (16 * GIB, True)
    with pytest.raises(BackendError, match=r"20 GiB is more than the 19.5 GiB that are free"):
        plan_memory(device, needs, model="m", asked_gib=20)
    with pytest.raises(BackendError, match=r"12 GiB is too little for 'm': its weights alone take 15.0 GiB"):
        plan_memory(device, needs, model="m", asked_gib=12)


def test_a_model_that_is_not_here_yet_gets_nine_tenths_unless_its_name_rules_it_out() -> None:
    device = [DeviceMemory(24 * GIB, 20 * GIB)]
    assert plan_memory(device, None, model="m").n_bytes == int(0.9 * 19.5 * GIB)
    small = needs_of(ModelSize(10**9), max_model_len=4096, concurrency=8)
    assert plan_memory(device, small, model="m").n_bytes == int(0.9 * 19.5 * GIB)
    large = needs_of(ModelSize(70 * 10**9), max_model_len=4096, concurrency=8)
    with pytest.raises(BackendError, match=r"by its name needs at least 132.4 GiB"):
        plan_memory(device, large, model="org/m-70B")


def test_cache_on_a_cpu_is_in_float32_and_whole_gib() -> None:
    smollm = ModelSize(134_515_008, n_values_per_token=2 * 30 * 3 * 64)
    assert cpu_cache_gib(smollm, max_model_len=4096, concurrency=8) == 2  # 1.4
    assert cpu_cache_gib(smollm, max_model_len=512, concurrency=1) == 1
    assert cpu_cache_gib(LLAMA_8B, max_model_len=4096, concurrency=8) == 8
    assert cpu_cache_gib(None, max_model_len=4096, concurrency=8) == 2


# --- the devices -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("visible", "indices"),
    [
        (None, "012"),
        ("0,1", "01"),
        ("2,0", "20"),
        ("GPU-bb", "1"),
        ("1,9,0", "1"),  # as in CUDA: what comes after an unknown one is hidden
        ("", ""),
        ("-1", ""),
    ],
)
def test_visible_devices_are_those_of_cuda_visible_devices_in_its_order(
    visible: str | None, indices: str
) -> None:
    found = visible_devices(LISTING, visible)
    assert [device.index for device in found] == list(indices)
    for device in found:
        assert device.total == {"0": 24576, "1": 81920, "2": 81920}[device.index] * MIB


def test_lines_without_numbers_are_no_devices() -> None:
    assert visible_devices("0, GPU-a, [N/A], [N/A]\nNo devices were found\n", None) == ()


def test_no_nvidia_smi_means_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert read_devices() == ()
    broken = tmp_path / "nvidia-smi"
    broken.write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed'\nexit 9\n")
    broken.chmod(0o755)
    assert read_devices() == ()


# --- together --------------------------------------------------------------------------------------------


def a_gpu_machine(stub: StubEnvironment, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    listing = tmp_path / "bin" / "nvidia-smi"
    listing.write_text(f"#!/bin/sh\ncat <<END\n{LISTING}END\n")


def test_a_server_on_a_named_gpu_sees_that_one_alone(
    cuda_stub: StubEnvironment, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    a_gpu_machine(cuda_stub, monkeypatch, tmp_path)
    write_model(tmp_path / "m", {"num_hidden_layers": 3, "num_attention_heads": 4, "hidden_size": 32})
    execution = Execution(vllm_python=str(cuda_stub.python), device="cuda:2")
    installation = find_vllm(execution)
    found = place(installation, execution, model=str(tmp_path / "m"), max_model_len=4096)
    assert found.visible_devices == "2"
    assert found.memory is not None
    assert found.memory.n_bytes == 22 * 2 + 70 + REST_BYTES + 8 * 192 * 2 * 4096
    full = execution.model_copy(update={"device": "cuda:1"})
    with pytest.raises(BackendError, match=r"needs at least 2.0 GiB"):
        place(installation, full, model=str(tmp_path / "m"), max_model_len=4096)
    own = full.model_copy(update={"vllm_args": ("--gpu-memory-utilization=0.001",)})
    assert place(installation, own, model=str(tmp_path / "m"), max_model_len=4096).memory is None


def test_a_model_split_over_more_gpus_than_there_are_is_refused(
    cuda_stub: StubEnvironment, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    a_gpu_machine(cuda_stub, monkeypatch, tmp_path)
    execution = Execution(vllm_python=str(cuda_stub.python), vllm_args=("--tensor-parallel-size=4",))
    installation = find_vllm(execution)
    with pytest.raises(BackendError, match=r"4 GPU.*but 3 are visible"):
        place(installation, execution, model="m", max_model_len=4096)
    wrong = execution.model_copy(update={"vllm_args": ("--tensor-parallel-size", "two")})
    with pytest.raises(UsageError, match="'two' is no number of GPUs"):
        place(installation, wrong, model="m", max_model_len=4096)


def test_on_a_cpu_the_cache_is_sized_and_no_gpu_named(cpu_stub: StubEnvironment, tmp_path: Path) -> None:
    write_model(tmp_path / "m", {"num_hidden_layers": 32, "num_attention_heads": 32, "hidden_size": 4096})
    execution = Execution(vllm_python=str(cpu_stub.python))
    found = place(find_vllm(execution), execution, model=str(tmp_path / "m"), max_model_len=2048)
    assert (found.memory, found.visible_devices, found.kv_cache_gib) == (None, "", 16)
