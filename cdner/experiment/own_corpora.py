"""The import verb: known corpora by name, and anyone's column files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from cdner import prompts
from cdner.config import Corpora, Experiment
from cdner.corpora.column_layout import Layout
from cdner.corpora.conll import Columns, ConllReader
from cdner.errors import InputError, UsageError
from cdner.experiment.execute import execute, recorded
from cdner.experiment.plan import Plan
from cdner.files import Json, content_hash, file_sha256
from cdner.steps.context import import_spec, known_sha256, open_context
from cdner.steps.step import Step
from cdner.store import Store, runs
from cdner.store import corpora as stored_corpora
from cdner.store.corpora import CorpusSummary
from cdner.types import Corpus, Domain, Progress, Role, Sentence, Split

SPLITS: tuple[Split, ...] = ("train", "dev", "test")
SHOWN_EVERY = 1000  # sentences of an import


@dataclass(frozen=True, slots=True)
class FoundCorpus:
    """What the files of a split hold."""

    split: Split
    paths: tuple[Path, ...]
    sha256: str
    n_sentences: int
    n_repaired_tags: int
    types: tuple[str, ...]
    identity: str = ""  # of the bytes, and of the layouts where they are not the default
    layouts: list[Json] = field(default_factory=list)  # of each file, for people
    notes: tuple[str, ...] = ()  # what was chosen or left out


def import_known(
    store_path: Path, domains: Sequence[str], *, folder: Path | None, progress: Progress
) -> list[CorpusSummary]:
    """All splits of corpora cdner knows by checksum; those in the store already are left alone."""
    for domain in domains:
        label_set = prompts.load_domain(domain)
        corpora = Corpora(source=domain) if label_set.role == "source" else Corpora(target=domain)
        experiment = Experiment(name="import", corpora=corpora)
        steps = tuple(
            Step(f"import:{domain}/{split}", "import", import_spec(domain, split, sha256), {})
            for split in SPLITS
            if (sha256 := known_sha256(domain, split))
        )
        with open_context(store_path, experiment, progress=progress, corpora_from=folder) as context:
            execute(Plan(experiment, label_set, label_set, steps), context)
    return [row for row in stored_corpora.list_corpora(Store(store_path)) if row.domain in set(domains)]


def import_files(
    store_path: Path,
    files: Mapping[Split, Sequence[Path]],
    *,
    domain: str,
    role: Role,
    labels: tuple[str, ...],
    strict: bool,
    progress: Progress,
    columns: Columns | None = None,
) -> list[CorpusSummary]:
    """Read every file before the first row is written, so a bad file leaves the store as it was; then once more,
    to write it: no file is ever held as a whole.
    """
    prompts.checked_name("domain", domain)
    reader = ConllReader(columns)
    found: list[FoundCorpus] = []
    for split, paths in files.items():
        progress.start(f"read {domain}/{split}")
        sha256 = _sum(paths)
        refuse_other_bytes(domain, split, paths, sha256)
        found.append(_survey(reader, paths, split=split, strict=strict, sha256=sha256))
    label_set = label_set_of(domain, role, labels, found)
    store = Store(store_path)
    run_ids = []
    for one in found:
        spec = import_spec(domain, one.split, one.identity)
        corpus = Corpus(domain, one.split, (), one.n_repaired_tags, one.types)
        progress.start(f"import {domain}/{one.split}", one.n_sentences)
        is_stored = stored_corpora.was_imported_here(store, spec.run_id) and (
            spec.run_id,
            one.n_sentences,
        ) in {(row.run_id, row.n_sentences) for row in stored_corpora.list_corpora(store)}
        with recorded(store, runs.begin_attempt(store, spec, {"columns": one.layouts}), progress):
            for note in one.notes:
                progress.warn(f"{domain}/{one.split}: {note}")
            if is_stored:  # the same bytes: only the label set may be another
                stored_corpora.save_head(store, spec.run_id, corpus, label_set)
            else:
                sentences = _streamed(reader, one, progress)
                stored_corpora.save_corpus(store, spec.run_id, corpus, label_set, sentences=sentences)
        run_ids.append(spec.run_id)
    return [row for row in stored_corpora.list_corpora(store) if row.run_id in set(run_ids)]


def _survey(
    reader: ConllReader, paths: Sequence[Path], *, split: Split, strict: bool, sha256: str
) -> FoundCorpus:
    parts = [reader.survey(path, strict=strict) for path in paths]
    return FoundCorpus(
        split=split,
        paths=tuple(paths),
        sha256=sha256,
        n_sentences=sum(part.n_sentences for part in parts),
        n_repaired_tags=sum(part.n_repaired_tags for part in parts),
        types=tuple(dict.fromkeys(name for part in parts for name in part.types)),
        identity=_identity(sha256, [part.layout for part in parts]),
        layouts=[part.layout.shown() for part in parts],
        notes=tuple(dict.fromkeys(note for part in parts for note in part.notes())),
    )


def _identity(sha256: str, layouts: Sequence[Layout]) -> str:
    """The checksum of the bytes alone for files of the default layout, which were always read so."""
    found = [layout.identity() for layout in layouts]
    return content_hash([sha256, found]) if any(found) else sha256


def _streamed(reader: ConllReader, found: FoundCorpus, progress: Progress) -> Iterator[Sentence]:
    """The sentences of all files. InputError at the end when they are no longer those that were surveyed."""
    n_sentences = 0
    for sentence in chain.from_iterable(map(reader.stream, found.paths)):
        n_sentences += 1
        if n_sentences % SHOWN_EVERY == 0:
            progress.advance(SHOWN_EVERY)
        yield sentence
    if n_sentences != found.n_sentences or _sum(found.paths) != found.sha256:
        named = ", ".join(str(path) for path in found.paths)
        raise InputError(f"{named}: changed while it was being imported. Import it again.")


def _sum(paths: Sequence[Path]) -> str:
    absent = [path for path in paths if not path.is_file()]
    if absent:
        raise InputError(f"No file {absent[0]}. Give the path of a column file.")
    sums = [file_sha256(path) for path in paths]
    return sums[0] if len(sums) == 1 else content_hash(list(sums))


def refuse_other_bytes(domain: str, split: Split, paths: Sequence[Path], sha256: str) -> None:
    """Experiments find these corpora by checksum: other bytes under their name would never be used."""
    expected = known_sha256(domain, split)
    if expected and sha256 != expected:
        named = ", ".join(str(path) for path in paths)
        raise InputError(
            f"{named}: this is not the {domain}/{split} that cdner knows by checksum (SHA-256 {expected[:12]}..., "
            f"got {sha256[:12]}...). Import your own sentences under another name, e.g. --domain my_{domain}."
        )


def label_set_of(domain: str, role: Role, labels: tuple[str, ...], corpora: Sequence[FoundCorpus]) -> Domain:
    """The domain's types file, else the labels given, else those of train and dev; every label must be in it."""
    found = tuple(dict.fromkeys(name for corpus in corpora for name in corpus.types))
    seen = [corpus for corpus in corpora if corpus.split != "test"] or corpora
    open_labels = tuple(dict.fromkeys(name for corpus in seen for name in corpus.types))
    known = domain in prompts.domain_names()
    if known and labels:
        raise UsageError(f"'{domain}' has its label order in a types file; leave --types out or rename it.")
    label_set = (
        prompts.load_domain(domain)
        if known
        else prompts.domain_from_labels(domain, labels or open_labels, role)
    )
    unknown = sorted(set(found) - set(label_set.types))
    if unknown:
        way_out = "" if known else " Name all labels: --types A,B,..."
        raise InputError(
            f"{domain}: labels {', '.join(unknown)} are not among {', '.join(label_set.types)}.{way_out}"
        )
    return label_set
