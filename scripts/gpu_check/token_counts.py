#!/usr/bin/env python3
"""Counts the tokens that ``estimate`` uses: python scripts/gpu_check/token_counts.py CROSSNER T5_TOKENIZER.

CROSSNER is the folder with CrossNER's files, T5_TOKENIZER one with T5's spiece.model. Prints, for each split, the
sentences, the tokens of all inputs and of all answers, and the mean of the ten longest of both.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from cdner.augment import model_input
from cdner.codec import encode_entities, wire_for
from cdner.config import Reasoning
from cdner.corpora.crossner import read_folder
from cdner.models.vocabulary import TokenizerVocabulary
from cdner.prompts import load_domain, load_examples, load_template
from cdner.reasoning import reasoning_requests
from cdner.types import Split

LONGEST = 10


class Counted(NamedTuple):
    n_sentences: int
    n_source: int
    n_target: int
    longest_source: int  # mean of the ten longest
    longest_target: int


def count(crossner: Path, tokenizer: Path, domain: str, split: Split) -> Counted:
    """Counts tokens in cdner's prompt and answer form, with end tokens, without reasoning."""
    from transformers import T5Tokenizer

    vocabulary = TokenizerVocabulary(T5Tokenizer.from_pretrained(tokenizer))
    wire, types = wire_for(vocabulary), load_domain(domain).types
    lengths: tuple[list[int], list[int]] = [], []
    for sentence in read_folder(crossner, domain=domain, split=split).sentences:
        source = model_input(types, sentence, chain=None, wire=wire)
        target = wire.to_wire(encode_entities(sentence, types))
        lengths[0].append(len(vocabulary.encode("".join(segment.text for segment in source))) + 1)
        lengths[1].append(len(vocabulary.encode(target)) + 1)
    longest = (round(sum(sorted(each)[-LONGEST:]) / LONGEST) for each in lengths)
    return Counted(len(lengths[0]), sum(lengths[0]), sum(lengths[1]), *longest)


def prompt_characters(crossner: Path, domain: str, setting: str, n_examples: int) -> int:
    """Mean characters of a reasoning request over all sentences of the domain.

    Prefixes and rivals are placeholders: measured ones change the words but hardly the length.
    """
    coarse, target = load_domain("conll2003"), load_domain(domain)
    splits: tuple[Split, ...] = ("train", "dev", "test")
    corpora = [read_folder(crossner, domain=domain, split=split) for split in splits]
    requests = reasoning_requests(
        [sentence.text for corpus in corpora for sentence in corpus.sentences],
        load_template("pbrc.v1"),
        setting=setting,
        source=coarse,
        target=target,
        prefixes=dict.fromkeys(target.types, coarse.entries[0].short),
        rivals={name: (target.types[i - 1],) for i, name in enumerate(target.types)},
        examples=load_examples(domain),
        settings=Reasoning(n_examples=n_examples),
    )
    characters = sum(len(message.content) for request in requests for message in request.messages)
    return round(characters / len(requests))


def counts(crossner: Path, tokenizer: Path) -> Mapping[tuple[str, Split], Counted]:
    wanted: tuple[tuple[str, Split], ...] = (
        ("conll2003", "train"),
        ("conll2003", "dev"),
        ("ai", "train"),
        ("ai", "dev"),
        ("ai", "test"),
    )
    return {key: count(crossner, tokenizer, *key) for key in wanted}


if __name__ == "__main__":
    folders = Path(sys.argv[1]), Path(sys.argv[2])
    for key, counted in counts(*folders).items():
        print(*key, *counted)
    for name in ("without_backward", "without_initial", "without_initial_and_backward", "full"):
        print(name, prompt_characters(folders[0], "ai", name, 10))
