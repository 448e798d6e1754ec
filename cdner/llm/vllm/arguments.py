"""What vLLM is started with: safe defaults per device, and what the user says on top, which wins.

Pure: starts nothing, asks no machine; knows neither prompts nor servers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from cdner.errors import UsageError

Device = Literal["cpu", "cuda"]
LEAST_LENGTH = 4096  # tokens: room for another step's prompts, so that a server seldom has to start again
LENGTH_STEP = 512
CPU_BLOCK = 32  # tokens
MAX_MODEL_LEN = "--max-model-len"
_COMPACT = (
    "--structured-outputs-config.backend=xgrammar",  # one of two that can do without whitespace
    "--structured-outputs-config.disable_any_whitespace=true",
)
_MULTIPLES = {"k": 10**3, "K": 2**10, "m": 10**6, "M": 2**20}  # vLLM's own way to write lengths


def engine_arguments(
    device: Device,
    *,
    max_model_len: int,
    gpu_memory_utilization: float | None = None,
    user: Sequence[str] = (),
) -> tuple[str, ...]:
    """Arguments of vLLM's command line; ``user`` last, because there the last one counts.

    - float32 on a CPU: the same text whatever is computed beside a request. In bf16 the sums of a batch round
      differently than those of a single request, and one changed word changes all that follow. On CUDA bf16, because
      float32 does not fit most GPUs and loses the tensor cores: text repeats there for the same batches only.
    - eager on a CPU: compiling costs more than it saves in runs of minutes.
    - sampling as the request says it: defaults out of the model's folder would change texts behind its identity.
    - blocks of 32 tokens on a CPU (vLLM's default there is 128): only whole blocks of a prefix are shared.
    - JSON without whitespace between its parts: allowed, a small model fills its whole budget with blanks.
    """
    chosen = [
        f"{MAX_MODEL_LEN}={max_model_len}",
        "--enable-prefix-caching",
        "--generation-config=vllm",
        *_COMPACT,
    ]
    if device == "cpu":
        chosen += ["--dtype=float32", "--enforce-eager", f"--block-size={CPU_BLOCK}"]
    else:
        chosen.append("--dtype=bfloat16")
        if gpu_memory_utilization is not None:
            chosen.append(f"--gpu-memory-utilization={gpu_memory_utilization:.3f}")
    given = {_name(argument) for argument in user}
    return (*(argument for argument in chosen if _name(argument) not in given), *user)


def length_for(n_tokens: int, *, window: int | None) -> int:
    """``max_model_len`` for at most ``n_tokens`` of prompt and answer: rounded up, within the model's window."""
    rounded = max(LEAST_LENGTH, -(-n_tokens // LENGTH_STEP) * LENGTH_STEP)
    return rounded if window is None else min(rounded, window)


def value_given(user: Sequence[str], name: str) -> str | None:
    """What the user set an option to (``--x=y`` or ``--x y``; the last one counts); None if not given."""
    found = None
    for position, argument in enumerate(user):
        if argument.startswith("--") and _name(argument) == name:
            _, equals, value = argument.partition("=")
            following = user[position + 1] if position + 1 < len(user) else ""
            found = value if equals else following
    return found


def length_given(user: Sequence[str]) -> int | None:
    """The user's ``--max-model-len`` in tokens; None if not given or left to vLLM ("auto", -1)."""
    text = value_given(user, MAX_MODEL_LEN)
    if text is None or text in ("auto", "-1"):
        return None
    number, unit = (text[:-1], text[-1]) if text[-1:] in _MULTIPLES else (text, "")
    try:
        return int(float(number) * _MULTIPLES.get(unit, 1))
    except ValueError as error:
        raise UsageError(f"{MAX_MODEL_LEN} '{text}' is no number of tokens. Give one like 8192.") from error


def _name(argument: str) -> str:
    """``--max_model_len=8k``, ``--no-enforce-eager`` and ``--part.of=it`` as the option they set."""
    name = argument.partition("=")[0].partition(".")[0].replace("_", "-")
    return name.replace("--no-", "--", 1) if name.startswith("--no-") else name
