"""CoNLL: one token a line with two BIO tags, gold and predicted, as conlleval and seqeval take them.

A line that a reader would take apart in another way is refused, not mended.
"""

from __future__ import annotations

from pathlib import Path

from cdner.errors import InputError
from cdner.formats.exported import ExportedCorpus
from cdner.spans import entities_to_bio


def write_conll(exported: ExportedCorpus, path: Path) -> None:
    """``token gold predicted`` separated by single spaces, an empty line behind each sentence.

    InputError for a token or a type that holds white space of any kind.
    """
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for position, sentence, predicted in exported.rows():
            n_tokens = len(sentence.tokens)
            gold_tags = entities_to_bio(n_tokens, sentence.entities)
            predicted_tags = entities_to_bio(n_tokens, predicted)
            for columns in zip(sentence.tokens, gold_tags, predicted_tags, strict=True):
                line = " ".join(columns)
                if line.split() != list(columns):  # str.split takes Unicode's spaces, too
                    raise InputError(
                        f"Sentence {position} of {exported.domain}/{exported.split} cannot be written as CoNLL: "
                        f"{line!r} is not three columns. Use --to jsonl."
                    )
                file.write(f"{line}\n")
            file.write("\n")
