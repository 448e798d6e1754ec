"""The step reason with texts from a file: its rows become requests, completions and reasoning texts in the store.

Later steps treat them like texts that an LLM was asked for. A completion is stored with backend "file" and with the
model that the row names and the checksum of the file; its request is the sentence alone, because the prompt is not
known. With ``reason.model = "sha256:..."`` the texts are read from the store, and the file is not needed.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

from cdner.corpora.sampling import chosen_positions
from cdner.errors import InputError, PartialError
from cdner.reasoning.imported import ImportedRow, Matched, imported_chain, match_rows, read_rows
from cdner.steps.context import Context
from cdner.steps.step import Step
from cdner.store import llm_log as stored
from cdner.store import llm_log as stored_imports
from cdner.store.llm_log import FAMILY, model_in_store
from cdner.types import Completion, Corpus, Gap, Message, ReasoningChain, ReasoningRequest, Sampling

NO_TEXT = Gap("the file has no text for it")
UNKNOWN_MODEL = (
    "unknown"  # stands in the request of a sentence without a text, where a file has several models
)
Texts = Mapping[int, tuple[str, str]]  # position -> (model as stored, what was written)


def import_reasoning(step: Step, context: Context) -> None:
    """Store the text of every sentence of the step. Raises PartialError for more gaps than allowed (exit code 3).

    Everything is read and matched before the first row is written. Raises InputError if the file cannot be used.
    """
    settings = cast(Mapping[str, Any], step.spec.settings)
    corpus = context.corpus_of(context.input_run(step, "corpus"))
    positions = chosen_positions(corpus, settings["n"])
    context.progress.start(step.label, len(positions))
    path, sha256 = _file(step, context)
    requests = _requests(corpus, positions)
    if path is None:
        texts, models = _texts_in_store(context, requests, sha256)
    else:
        rows = _rows(path, sha256)
        matched = match_rows(rows, _texts(corpus), domain=corpus.domain, split=corpus.split, path=path)
        texts = _texts_of(matched, positions, sha256)
        models = sorted({model_in_store(row.model, sha256) for row in rows})
        context.progress.start(_report(step, rows, matched, len(positions)))
    unknown = model_in_store(UNKNOWN_MODEL, sha256)
    named = [model for model in models if model != unknown]
    asked = {p: texts[p][0] if p in texts else named[0] if len(named) == 1 else unknown for p in positions}
    ids = _save_requests(context, requests, asked)
    _save_completions(step, context, {ids[p]: texts[p][1] for p in texts})
    chains: dict[int, ReasoningChain | Gap] = {
        position: imported_chain(written, settings["setting"]) for position, (_, written) in texts.items()
    }
    outcomes = [(position, ids[position], chains.get(position, NO_TEXT)) for position in positions]
    stored.save_reasoning(context.store, step.spec.run_id, outcomes)
    context.progress.advance(len(positions))
    _refuse_gaps(step, context, [position for position in positions if position not in texts], len(positions))


def check_file(step: Step, context: Context) -> None:
    """Raises InputError for an unreadable file, or rows that contradict a corpus in the store."""
    path, sha256 = _file(step, context)
    corpus_run = context.input_run(step, "corpus")
    if path is None:
        if not stored_imports.models_of_file(context.store, sha256):
            raise InputError(
                f"The store has no texts from a file with checksum {sha256[:12]}... (reason.model). Name the file."
            )
        return
    rows = _rows(path, sha256)
    if context.run_state(corpus_run) == "done":
        corpus = context.corpus_of(corpus_run)
        match_rows(rows, _texts(corpus), domain=corpus.domain, split=corpus.split, path=path)


def _file(step: Step, context: Context) -> tuple[Path | None, str]:
    """The path of the file, if it exists, and its checksum as in the identity of the run."""
    settings = cast(Mapping[str, Any], step.spec.settings)
    path = Path(context.experiment.reason.model)
    return path if path.is_file() else None, str(settings["llm"]["model"]).removeprefix("sha256:")


@lru_cache(maxsize=1)
def _rows(path: Path, sha256: str) -> list[ImportedRow]:
    """The rows of the file, read once for all splits and settings of a command."""
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != sha256:
        raise InputError(f"{path} has changed since this command began. Run it again.")
    return read_rows(path, content)


def _texts(corpus: Corpus) -> list[str]:
    return [sentence.text for sentence in corpus.sentences]


def _texts_of(matched: Matched, positions: Sequence[int], sha256: str) -> dict[int, tuple[str, str]]:
    chosen = {position: matched.rows[position] for position in positions if position in matched.rows}
    return {p: (model_in_store(row.model, sha256), row.written) for p, row in chosen.items() if row.written}


def _texts_in_store(
    context: Context, requests: Mapping[int, ReasoningRequest], sha256: str
) -> tuple[dict[int, tuple[str, str]], list[str]]:
    """The texts that an earlier import of the file has stored, and the models that it named."""
    models = stored_imports.models_of_file(context.store, sha256)
    ids = {
        (position, model): stored.request_id(FAMILY, model, request)
        for position, request in requests.items()
        for model in models
    }
    found = stored.load_completions(context.store, ids.values())
    texts = {p: (model, found[key].text) for (p, model), key in ids.items() if key in found}
    return texts, models


def _requests(corpus: Corpus, positions: Sequence[int]) -> dict[int, ReasoningRequest]:
    """The sentence alone. The n-th occurrence of a text has seed n, since a file may have a text for each of them."""
    n_before: Counter[str] = Counter()
    requests = {}
    for position, text in enumerate(_texts(corpus)):
        sampling = Sampling(max_tokens=0, seed=n_before[text])  # 0: how long it might have been is not known
        requests[position] = ReasoningRequest((Message("user", text),), sampling)
        n_before[text] += 1
    return {position: requests[position] for position in positions}


def _save_requests(
    context: Context, requests: Mapping[int, ReasoningRequest], models: Mapping[int, str]
) -> dict[int, str]:
    """Position -> request id."""
    by_model: dict[str, list[int]] = defaultdict(list)
    for position, model in models.items():
        by_model[model].append(position)
    ids: dict[int, str] = {}
    for model, positions in by_model.items():
        asked = [requests[position] for position in positions]
        saved = stored.save_requests(context.store, FAMILY, model, asked)
        ids.update(zip(positions, saved, strict=True))
    return ids


def _save_completions(step: Step, context: Context, written: Mapping[str, str]) -> None:
    """Save those that are not stored yet. Token counts are 0: a file does not contain them."""
    known = stored.load_completions(context.store, written.keys())
    new = [
        (key, Completion(text, "imported", input_tokens=0, cached_tokens=0, output_tokens=0))
        for key, text in written.items()
        if key not in known
    ]
    stored.save_completions(context.store, step.spec.run_id, new)


def _report(step: Step, rows: Sequence[ImportedRow], matched: Matched, n_sentences: int) -> str:
    first = f" (first: line {matched.unmatched[0]})" if matched.unmatched else ""
    return (
        f"{step.label}: {len(rows)} rows, {matched.n_elsewhere} of them of other domains or splits, "
        f"{len(matched.unmatched)} of no sentence here{first}, {matched.n_repeated} repeated; "
        f"{len(matched.rows)} sentences of the split have a row, {n_sentences} are asked for"
    )


def _refuse_gaps(step: Step, context: Context, gaps: Sequence[int], n_sentences: int) -> None:
    n_allowed = context.experiment.execution.max_gaps
    if len(gaps) > n_allowed:
        raise PartialError(
            f"{step.label}: {len(gaps)} of {n_sentences} sentences have no text in {context.experiment.reason.model} "
            f"(first: position {gaps[0]}). The others are stored. Add rows and run again; to go on without: "
            f"--set execution.max_gaps={len(gaps)}."
        )
    if gaps:
        context.progress.warn(
            f"{step.label}: {len(gaps)} of {n_sentences} sentences go without reasoning text "
            f"(execution.max_gaps = {n_allowed}; first: position {gaps[0]})"
        )
