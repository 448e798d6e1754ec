"""The loaded model and the open LLM backends of a command. They take turns on one device.

A model that is loaded sends the LLM backends to rest; an LLM that is asked releases the model. So the memory of a
machine has to hold one of them at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from cdner.config import BackboneChoice, Execution, Llm, Prediction
from cdner.files import content_hash
from cdner.llm import open_backend
from cdner.llm.batch import open_batch
from cdner.llm.chat.budget import Budget
from cdner.store import Store
from cdner.store.batches import BatchLedger
from cdner.types import Progress, ReasoningBackend, Tagger, TextGenerator

if TYPE_CHECKING:
    from cdner.models.trainable import Trainable


def _nothing() -> None:
    return None


@dataclass(slots=True)
class ModelHolder:
    """One loaded model at a time. ``choice``: the backbone of the experiment; ``device`` as in ``execution.device``."""

    choice: BackboneChoice
    device: str
    before_loading: Callable[[], None] = _nothing
    _loaded: tuple[str, object] | None = None  # (identity, model)

    def backbone(self, choice: BackboneChoice, checkpoint: Path | None) -> Trainable[Any]:
        """The model of a checkpoint, or the base model; the one loaded before is released first."""
        from cdner.models import open_backbone

        opened = self._opened_once(
            content_hash([choice.identity(), str(checkpoint or "")]),
            lambda: open_backbone(choice, device=self.device, checkpoint=checkpoint),
        )
        return cast("Trainable[Any]", opened)

    def predictor(self, prediction: Prediction, checkpoint: Path) -> TextGenerator | Tagger:
        """The model of a checkpoint in the engine of the settings; the one loaded before is released first."""
        engine = prediction.engine
        if engine == "torch":
            return predicting(self.backbone(self.choice, checkpoint))
        from cdner.models.ct2 import open_converted  # imports torch

        opened = self._opened_once(
            content_hash([engine, self.choice.family, str(checkpoint)]),
            lambda: open_converted(self.choice.family, checkpoint, device=self.device),
        )
        return cast(TextGenerator, opened)

    def release(self) -> None:
        """Forget the loaded model, to free its memory or because its weights have changed."""
        self._loaded = None

    def _opened_once(self, identity: str, open_model: Callable[[], object]) -> object:
        if self._loaded is None or self._loaded[0] != identity:
            self.release()
            self.before_loading()
            self._loaded = (identity, open_model())
        return self._loaded[1]


@dataclass(slots=True)
class LlmHolder:
    """LLM backends, opened once a command. ``identity``: of a model's weights, as it stands in request ids."""

    store: Store
    execution: Execution
    progress: Progress
    budget: Budget
    identity: Callable[[str, str], str]
    before_asking: Callable[[], None] = _nothing
    _backends: dict[tuple[str, str], ReasoningBackend] = field(
        default_factory=dict
    )  # (backend, model) -> open

    def open(self, llm: Llm) -> ReasoningBackend:
        """The backend of these settings; the loaded model makes room for it."""
        self.before_asking()
        key = (llm.backend, llm.model)
        if key not in self._backends:
            self._backends[key] = self._opened(llm)
        return self._backends[key]

    def rest(self) -> None:
        """Free the memory of all open backends that can do so."""
        for backend in self._backends.values():
            backend.rest()

    def close(self) -> None:
        """Close all backends and end the servers that they started."""
        while self._backends:
            self._backends.popitem()[1].close()

    def _opened(self, llm: Llm) -> ReasoningBackend:
        ledger = BatchLedger(self.store, llm.backend, self.identity("llm", llm.model))
        if self.execution.batch:
            return open_batch(llm, self.execution, self.budget, ledger=ledger, progress=self.progress)
        if unfetched := ledger.unfetched():
            self.progress.warn(
                f"{', '.join(unfetched)} may hold answers that are paid for: --batch fetches them, "
                "asking directly pays again ('cdner batches' lists them)"
            )
        return open_backend(llm, self.execution, self.budget)


def predicting(model: Trainable[Any]) -> TextGenerator | Tagger:
    """The model as what predicts: every family is one or the other."""
    return cast("TextGenerator | Tagger", model)
