"""What vLLM is started with, as a function of device, prompt length and what the user says."""

from __future__ import annotations

import pytest

from cdner.errors import UsageError
from cdner.llm.vllm.arguments import engine_arguments, length_for, length_given, value_given


def test_a_cpu_computes_in_float32_so_that_texts_repeat() -> None:
    arguments = engine_arguments("cpu", max_model_len=4096)
    assert {"--dtype=float32", "--enforce-eager", "--enable-prefix-caching"} <= set(arguments)


def test_a_gpu_computes_in_bfloat16_and_takes_the_memory_it_is_told() -> None:
    arguments = engine_arguments("cuda", max_model_len=8192, gpu_memory_utilization=0.45678)
    assert {"--dtype=bfloat16", "--gpu-memory-utilization=0.457", "--max-model-len=8192"} <= set(arguments)
    assert "--enforce-eager" not in arguments


@pytest.mark.parametrize(
    ("user", "gone"),
    [
        (("--dtype=bfloat16",), "--dtype=float32"),
        (("--dtype", "bfloat16"), "--dtype=float32"),
        (("--max_model_len", "8k"), "--max-model-len=4096"),
        (("--no-enforce-eager",), "--enforce-eager"),
        (("--no-enable-prefix-caching",), "--enable-prefix-caching"),
    ],
)
def test_what_the_user_says_stands_last_and_alone(user: tuple[str, ...], gone: str) -> None:
    arguments = engine_arguments("cpu", max_model_len=4096, user=user)
    assert arguments[-len(user) :] == user
    assert gone not in arguments
    assert len(arguments) == len(engine_arguments("cpu", max_model_len=4096)) - 1 + len(user)


def test_another_setting_of_structured_output_replaces_ours() -> None:
    arguments = engine_arguments(
        "cpu", max_model_len=4096, user=("--structured-outputs-config.backend=auto",)
    )
    assert [a for a in arguments if "structured" in a] == ["--structured-outputs-config.backend=auto"]


@pytest.mark.parametrize(
    ("n_tokens", "window", "length"),
    [(300, 8192, 4096), (4096, None, 4096), (4097, 8192, 4608), (8000, 8100, 8100), (300, 2048, 2048)],
)
def test_length_is_rounded_up_within_the_window(n_tokens: int, window: int | None, length: int) -> None:
    assert length_for(n_tokens, window=window) == length


@pytest.mark.parametrize(
    ("user", "tokens"),
    [
        ((), None),
        (("--max-model-len=8192",), 8192),
        (("--max-model-len", "8k"), 8000),
        (("--max_model_len=8K",), 8192),
        (("--max-model-len=1", "--max-model-len=2"), 2),
        (("--max-model-len=auto",), None),
    ],
)
def test_length_the_user_gives_is_read_as_vllm_reads_it(user: tuple[str, ...], tokens: int | None) -> None:
    assert length_given(user) == tokens


@pytest.mark.parametrize("text", ["long", "", "8q", "k"])
def test_a_length_that_is_none_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError, match="--max-model-len"):
        length_given((f"--max-model-len={text}",))


def test_a_value_is_no_option() -> None:
    assert value_given(("--served-model-name", "dtype", "--dtype", "half"), "--dtype") == "half"
