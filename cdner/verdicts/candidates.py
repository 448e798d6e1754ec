"""Which types an LLM may choose from for a mention, by the type that the backbone predicts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cdner.config import Judging
from cdner.types import ConfusionMatrix


def candidates_by_prediction(
    types: Sequence[str], settings: Judging, v_conf: ConfusionMatrix | None
) -> dict[str, tuple[str, ...]]:
    """Predicted type -> candidates, in the domain's order.

    All types; with ``judge.candidates = "rivals"`` the predicted one and the gold types that are most often taken for
    it. ``v_conf`` is needed for rivals only.
    """
    if v_conf is None:
        return dict.fromkeys(types, tuple(types))
    found: dict[str, tuple[str, ...]] = {}
    for column, predicted in enumerate(v_conf.types):
        # Row: gold type.
        others = [row for row in np.argsort(-v_conf.scores[:, column], kind="stable") if row != column]
        kept = {predicted, *(v_conf.types[row] for row in others[: settings.n_rivals])}
        found[predicted] = tuple(name for name in types if name in kept)
    return found
