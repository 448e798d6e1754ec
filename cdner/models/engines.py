"""Checks whether an engine can run a family's checkpoints, and whether settings of training apply to a family.

The engines are torch and CTranslate2 with int8 weights; this module imports neither.
"""

from __future__ import annotations

from importlib.util import find_spec

from cdner.config import TEXT_FAMILIES, Training
from cdner.errors import UsageError

TORCH, INT8 = "torch", "int8"
CT2_FAMILIES = ("causal", "seq2seq")


def ct2_is_installed() -> bool:
    return find_spec("ctranslate2") is not None


def check_engine(engine: str, *, family: str, decoding: str, confidence: bool = False) -> None:
    """Raises UsageError, with an alternative, if the engine cannot make these predictions on this machine."""
    if engine == TORCH:
        return
    if confidence:
        raise UsageError(
            f"The engine '{engine}' does not say how sure a model is of a type. Use --engine torch, "
            "or --set predict.confidence=false."
        )
    if family not in CT2_FAMILIES:
        raise UsageError(
            f"The engine '{engine}' runs {' and '.join(CT2_FAMILIES)} backbones, not '{family}'. Use --engine torch."
        )
    if decoding != "free":
        raise UsageError(
            f"The engine '{engine}' decodes freely, not {decoding}. Give --decoding free, or --engine torch "
            "(--set evidence.decoding=..., evidence.engine=... for the predictions that MCQM counts)."
        )
    if not ct2_is_installed():
        raise UsageError(
            f"The engine '{engine}' needs CTranslate2: pip install 'cdner[ct2]'. Or use --engine torch."
        )


def check_training(training: Training, *, family: str) -> None:
    """Raises UsageError if a setting for taggers is given to a family that writes text; it would have no effect."""
    if family not in TEXT_FAMILIES:
        return
    for name in ("head_rate", "freeze_embeddings", "dropout"):
        if getattr(training, name) != Training.model_fields[name].default:
            raise UsageError(
                f"The setting {name} of training is for taggers; the backbone family is '{family}'. "
                f"Leave {name} out, or use the family 'tagger'."
            )
