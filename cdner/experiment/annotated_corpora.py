"""Imports files of annotation tools: cuts documents into sentences, and draws splits for files that have none."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cdner import prompts
from cdner.errors import InputError, UsageError
from cdner.experiment.execute import recorded
from cdner.experiment.own_corpora import FoundCorpus, label_set_of, refuse_other_bytes
from cdner.files import content_hash, file_sha256
from cdner.formats.annotated_text import AnnotatedText, Misaligned, Repairs, sentences_of
from cdner.formats.readers import read_documents
from cdner.steps.context import import_spec
from cdner.store import Store, runs
from cdner.store import corpora as stored_corpora
from cdner.store.corpora import CorpusSummary
from cdner.types import Corpus, Progress, Role, Sentence, Split

SPLITS: tuple[Split, ...] = ("train", "dev", "test")


@dataclass(frozen=True, slots=True)
class Reading:
    """How files are read. ``whole``: a document is one sentence, however long."""

    reader: str
    misaligned: Misaligned = "split"
    whole: bool = False


@dataclass(slots=True)
class Sentences:
    """What files hold, and what was changed on the way. ``sha256``: of the files and of how they are read."""

    sentences: list[Sentence]
    sha256: str
    repairs: Repairs = field(default_factory=Repairs)


def read_sentences(paths: Sequence[Path], reading: Reading) -> Sentences:
    """The sentences of files in order. Raises InputError with file and place for what cannot be read."""
    sums = [_sum(path) for path in paths]
    found = Sentences([], content_hash([reading.reader, reading.misaligned, reading.whole, *sums]))
    for path in paths:
        for document in read_documents(path, reading.reader):
            if isinstance(document, AnnotatedText):
                found.sentences += sentences_of(
                    document, found.repairs, misaligned=reading.misaligned, whole=reading.whole
                )
            elif document.tokens:
                found.sentences.append(document)
    if not found.sentences:
        raise InputError(f"{', '.join(map(str, paths))}: no sentence found.")
    return found


def _sum(path: Path) -> str:
    if path.is_dir():
        parts = sorted(part for part in path.iterdir() if part.suffix in (".txt", ".ann"))
    else:
        parts = [path, *([path.with_suffix(".txt")] if path.suffix == ".ann" else [])]
    return content_hash([[part.name, file_sha256(part)] for part in parts if part.is_file()])


def drawn_splits(
    sentences: Sequence[Sentence], shares: Sequence[int], *, seed: int
) -> dict[Split, list[Sentence]]:
    """Train, dev and test with these shares, each in the order of the file, with types spread as evenly as possible.

    Sentences with the same tokens go to the same split. They are dealt in random order, those with the rarest types
    first, each to the split that lacks most of its rarest type (iterative stratification, Sechidis et al. 2011).
    """
    if len(shares) != len(SPLITS) or min(shares) < 0 or not sum(shares):
        raise UsageError("--split: three shares such as 80/10/10 (train/dev/test).")
    groups: dict[tuple[str, ...], list[int]] = {}
    for position, sentence in enumerate(sentences):
        groups.setdefault(sentence.tokens, []).append(position)
    n_of_type = Counter(entity.type for sentence in sentences for entity in sentence.entities)
    order = list(groups.values())
    random.Random(seed).shuffle(order)
    order.sort(
        key=lambda group: min((n_of_type[name] for name in _types(sentences, group)), default=len(sentences))
    )
    wanted = [
        {None: len(sentences) * share / sum(shares)}
        | {name: n * share / sum(shares) for name, n in n_of_type.items()}
        for share in shares
    ]
    dealt: list[list[int]] = [[], [], []]
    for group in order:
        names = _types(sentences, group)
        rarest = min(names, key=lambda name: (n_of_type[name], name)) if names else None
        open_splits = [index for index, share in enumerate(shares) if share]
        chosen = max(open_splits, key=lambda index: (wanted[index][rarest], wanted[index][None], -index))
        dealt[chosen] += group
        wanted[chosen][None] -= len(group)
        for position in group:
            for entity in sentences[position].entities:
                wanted[chosen][entity.type] -= 1
    return {
        split: [sentences[position] for position in sorted(positions)]
        for split, positions in zip(SPLITS, dealt, strict=True)
        if positions
    }


def _types(sentences: Sequence[Sentence], group: Sequence[int]) -> set[str]:
    return {entity.type for position in group for entity in sentences[position].entities}


def import_sentences(
    store_path: Path,
    splits: Mapping[Split, tuple[str, Sequence[Sentence]]],
    *,
    domain: str,
    role: Role,
    labels: tuple[str, ...],
    repairs: Sequence[str],
    progress: Progress,
) -> list[CorpusSummary]:
    """Store the sentences of splits, each with the checksum that identifies it.

    ``repairs``: lines that are shown as warnings and stored with the first split.
    """
    prompts.checked_name("domain", domain)
    found = [
        FoundCorpus(
            split=split,
            paths=(),
            sha256=sha256,
            identity=sha256,
            n_sentences=len(sentences),
            n_repaired_tags=0,
            types=tuple(dict.fromkeys(entity.type for sentence in sentences for entity in sentence.entities)),
        )
        for split, (sha256, sentences) in splits.items()
    ]
    for one in found:
        refuse_other_bytes(domain, one.split, (), one.sha256)
    label_set, store = label_set_of(domain, role, labels, found), Store(store_path)
    run_ids: set[str] = set()
    for one in found:
        spec = import_spec(domain, one.split, one.sha256)
        corpus = Corpus(domain, one.split, (), 0, one.types)
        progress.start(f"import {domain}/{one.split}", one.n_sentences)
        with recorded(store, runs.begin_attempt(store, spec, {}), progress):
            for line in repairs if not run_ids else ():
                progress.warn(line)
            sentences = iter(splits[one.split][1])
            stored_corpora.save_corpus(store, spec.run_id, corpus, label_set, sentences=sentences)
        run_ids.add(spec.run_id)
    return [row for row in stored_corpora.list_corpora(store) if row.run_id in run_ids]
