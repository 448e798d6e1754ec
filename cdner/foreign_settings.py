"""What an experiment file may not decide, as somebody else may have sent it: programs, and who gets the API key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cdner.errors import UsageError

# vLLM's options that a file may set. Others can load code, open files or listen on other addresses.
_NAMES_OF_FILES = """
    max-model-len dtype seed block-size gpu-memory-utilization max-num-seqs max-num-batched-tokens enforce-eager
    tensor-parallel-size pipeline-parallel-size data-parallel-size quantization kv-cache-dtype cpu-offload-gb
    swap-space enable-prefix-caching no-enable-prefix-caching enable-chunked-prefill no-enable-chunked-prefill
    max-logprobs no-enforce-eager
"""
_VLLM_OPTIONS_OF_FILES = frozenset(f"--{name}" for name in _NAMES_OF_FILES.split())
_PROGRAM = "execution.vllm_python"
_FILE_MAY_NOT = (_PROGRAM, "execution.base_urls_from_file")


def refuse_programs(table: Mapping[str, object], *, where: str) -> None:
    """Raises UsageError if a file names a program to start, or options of vLLM that can load code.

    Such settings come from the command line or the environment only: a file may have been sent by somebody else.
    """
    execution = table.get("execution")
    given = execution if isinstance(execution, Mapping) else {}
    keys = [f"execution.{name}" for name in given]
    axes = [axis for axis in _listed(table.get("vary")) if isinstance(axis, Mapping)]
    varied = [str(key) for axis in axes for key in _listed(axis.get("keys"))]
    for key in (*keys, *varied):
        if key in _FILE_MAY_NOT and (key in varied or given.get(key.partition(".")[2])):
            way_out = "--vllm-python or CDNER_VLLM_PYTHON" if key == _PROGRAM else "--base-url"
            raise UsageError(f"{where}: '{key}' must not come from a file. Use {way_out}.")
    for key in ("execution.vllm_args", "execution.base_urls", "execution"):
        if key in varied:
            raise UsageError(f"{where}: '{key}' must not be varied.")
    for argument in _listed(given.get("vllm_args")):
        name = str(argument).partition("=")[0].replace("_", "-")
        if name.startswith("-") and name not in _VLLM_OPTIONS_OF_FILES:
            raise UsageError(
                f"{where}: 'execution.vllm_args' must not set {name} from a file: it could load code. "
                f"Use --vllm-arg={argument}."
            )


def mark_base_urls(table: dict[str, object]) -> None:
    """Remember that the file named the servers: the API key is not sent to them."""
    execution = table.get("execution")
    if isinstance(execution, Mapping) and execution.get("base_urls"):
        table["execution"] = {**execution, "base_urls_from_file": True}


def _listed(value: object) -> Sequence[object]:
    return value if isinstance(value, list | tuple) else ()
