"""What a command holds open while it executes steps: the store, the corpora read from it, a model, and LLM backends.

A context also answers the plan's questions (``steps.step.Identities``): which corpora, label sets, templates and
weights there are. Opening a context loads no model and starts no server.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, cast

from cdner import prompts
from cdner.config import Experiment, Label
from cdner.corpora import crossner, demo
from cdner.corpora.sampling import chosen_positions, positions_by_size
from cdner.errors import InputError
from cdner.files import Json, content_hash, file_sha256
from cdner.llm.chat.budget import Budget
from cdner.models.weights import weights_identity
from cdner.steps.holders import LlmHolder, ModelHolder
from cdner.steps.step import FROM_FILE, Step
from cdner.store import Store, runs
from cdner.store import corpora as stored_corpora
from cdner.store.corpora import count_texts, load_head
from cdner.store.runs import RunSpec, run_spec
from cdner.types import Corpus, Domain, Progress, Role, Split

if TYPE_CHECKING:
    pass

IMPORT_VERSION = 1
_CHECKSUM = re.compile("sha256:[0-9a-f]{64}")


@dataclass(slots=True)
class Context:
    """``budget``: one for all LLMs of the command; None: what the experiment says."""

    store: Store
    experiment: Experiment
    progress: Progress
    corpora_from: Path | None = None
    budget: Budget | None = None
    models: ModelHolder = field(init=False)
    llms: LlmHolder = field(init=False)
    _corpora: dict[str, Corpus] = field(default_factory=dict)
    _imports: dict[tuple[str, Split], RunSpec] = field(default_factory=dict)  # of the user's own corpora
    _weights: dict[str, str] = field(default_factory=dict)  # model as named -> its identity
    _labels: dict[str, tuple[str, ...]] = field(default_factory=dict)  # of domains without a types file
    _done: set[str] = field(default_factory=set)  # runs found done

    def __post_init__(self) -> None:
        execution = self.experiment.execution
        budget = self.budget = self.budget or Budget.of(execution)
        self.models = ModelHolder(self.experiment.backbone, execution.device)
        self.llms = LlmHolder(self.store, execution, self.progress, budget, self.model)
        self.models.before_loading = self.llms.rest
        self.llms.before_asking = self.models.release

    def __enter__(self) -> Context:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the LLM backends: no server outlives the command that started it."""
        self.llms.close()

    # --- the plan's identities ---------------------------------------------------------------------------

    def corpus(self, domain: str, split: Split) -> RunSpec:
        """The import run of a corpus: by its known checksum, else the run that the user imported last."""
        sha256 = known_sha256(domain, split)
        stored = None if sha256 else self._stored_import(domain, split)
        if stored:
            return stored
        if not sha256:
            raise InputError(
                f"The store has no corpus {domain}/{split}. Import it first: "
                f"cdner import conll FILE --domain {domain} --split {split}."
            )
        return import_spec(domain, split, sha256)

    def _stored_import(self, domain: str, split: Split) -> RunSpec | None:
        """The latest import. It does not change during a command."""
        if (domain, split) not in self._imports and self.store.path.exists():
            with self.store.reading():
                run_id = stored_corpora.find_corpus_run(self.store, domain, split)
                if run_id:
                    self._imports[domain, split] = runs.load_run(self.store, run_id)
        return self._imports.get((domain, split))

    def domain(self, name: str, role: str) -> Domain:
        """Label set with explanations: from a types file, else the labels of the user's train and dev.

        Labels that only test has are left out: they must not reach a prompt or the input of a model.
        """
        if name in prompts.domain_names():
            return prompts.load_domain(name)
        if name not in self._labels:
            splits = [self.corpus(name, "train"), self._stored_import(name, "dev")]
            with self.store.reading():
                found = [
                    stored_corpora.load_domain(self.store, split.run_id).types for split in splits if split
                ]
            self._labels[name] = tuple(dict.fromkeys(label for types in found for label in types))
        wanted: Role = "source" if role == "source" else "target"
        return prompts.domain_from_labels(name, self._labels[name], wanted)

    def template(self, name: str) -> str:
        return prompts.load_template(name).hash

    def examples(self, domain: str, n_examples: int) -> str:
        """Hash of the in-context examples used; adding an eleventh does not change a run that takes ten."""
        chosen = prompts.load_examples(domain)[:n_examples] if n_examples else ()
        return content_hash([repr(example) for example in chosen])

    def model(self, family: str, model: str) -> str:
        """Checksum of the weights (or of a file of texts) if cdner can compute it, else the name."""
        if family == FROM_FILE:
            return texts_identity(model)
        if model not in self._weights:
            self._weights[model] = weights_identity(model)
        return self._weights[model]

    # --- runs and corpora ---------------------------------------------------------------------------------

    def run_state(self, run_id: str) -> str:
        """State by the latest attempt. A run that was found done is not looked up again during the command."""
        if run_id in self._done:
            return "done"
        state = runs.run_state(self.store, run_id)
        if state == "done":
            self._done.add(run_id)
        return state

    def look_up(self, run_ids: Sequence[str]) -> None:
        """Look up which runs are done, all in one query: opening the store costs more than the query."""
        if unknown := [run_id for run_id in run_ids if run_id not in self._done]:
            self._done |= runs.done_runs(self.store, unknown)

    def input_run(self, step: Step, role: str) -> str:
        """Run id of a step's input by its role."""
        return step.spec.inputs[list(step.inputs).index(role)]

    def checkpoint_path(self, run_id: str) -> Path:
        """Folder of a run's weights, beside the store."""
        return self.store.directory / "checkpoints" / run_id

    def n_sentences(self, domain: str, split: Split, sample: Json) -> int | None:
        """Different sentences a step works on; before the import the sample's size (None: unknown)."""
        run_id = self.corpus(domain, split).run_id
        if self.run_state(run_id) != "done":
            return sample if isinstance(sample, int) and sample else None
        return count_texts(self.store, run_id, self.positions(run_id, sample))

    def n_imported(self, label: str, sample: Json) -> int | None:
        """``n_sentences`` of a corpus by the label of its import, ``import:ai/train``."""
        imported = Label.of(label)
        return self.n_sentences(imported.subject, cast(Split, imported.split), sample)

    def positions(self, run_id: str, sample: Json) -> Sequence[int]:
        """Ascending positions of a sample of an imported corpus. Samples of mentions read all its sentences."""
        head = load_head(self.store, run_id)
        by_size = positions_by_size(head.n_sentences, sample, name=f"{head.domain} {head.split}")
        return chosen_positions(self.corpus_of(run_id), sample) if by_size is None else by_size

    def corpus_of(self, run_id: str) -> Corpus:
        """A whole imported corpus, read from the store once."""
        if run_id not in self._corpora:
            self._corpora[run_id] = stored_corpora.load_corpus(self.store, run_id)
        return self._corpora[run_id]


def texts_identity(model: str) -> str:
    """``sha256:<checksum>`` of a file of texts.

    A value that is already a checksum is returned unchanged; the file itself is then not needed, as the store has its
    texts. Raises InputError if there is no such file.
    """
    if _CHECKSUM.fullmatch(model):
        return model
    if not Path(model).is_file():
        raise InputError(f"No file of texts at '{model}' (describe.model, reason.model).")
    return f"sha256:{file_sha256(Path(model))}"


def known_sha256(domain: str, split: Split) -> str | None:
    """Checksum of a demo or CrossNER file; None for other corpora."""
    return demo.FILES.get((domain, split)) or crossner.FILES.get((domain, split))


def import_spec(domain: str, split: Split, sha256: str) -> RunSpec:
    """Identity of an imported corpus: its name, split and the checksum of the file."""
    return run_spec("import", IMPORT_VERSION, {"domain": domain, "split": split, "sha256": sha256}, ())


def open_context(
    store_path: Path, experiment: Experiment, *, progress: Progress, corpora_from: Path | None = None
) -> Context:
    """A context over a store that may not exist yet."""
    return Context(Store(store_path), experiment, progress, corpora_from)
