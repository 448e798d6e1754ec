"""What can run a trained checkpoint: torch itself, or CTranslate2 in one of its number formats. Imports neither."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec

from cdner.errors import UsageError

TORCH = "torch"
COMPUTE_TYPES: Mapping[str, str] = {
    "ct2": "float32",
    "ct2-int8": "int8_float32",
}  # engine -> CTranslate2's name
CT2_FAMILIES = ("causal", "seq2seq")


def ct2_is_installed() -> bool:
    return find_spec("ctranslate2") is not None


def check_engine(engine: str, *, family: str, decoding: str) -> None:
    """UsageError, with the way out, where the engine cannot do what is asked on this machine."""
    if engine == TORCH:
        return
    if decoding != "free":
        raise UsageError(
            f"The engine '{engine}' decodes freely, not {decoding}. Give --decoding free, or --engine torch "
            "(--set evidence.decoding=..., evidence.engine=... for the predictions that MCQM counts)."
        )
    if family not in CT2_FAMILIES:
        raise UsageError(
            f"The engine '{engine}' runs {' and '.join(CT2_FAMILIES)} backbones, not '{family}'. Use --engine torch."
        )
    if not ct2_is_installed():
        raise UsageError(
            f"The engine '{engine}' needs CTranslate2: pip install 'cdner[ct2]'. Or use --engine torch."
        )
