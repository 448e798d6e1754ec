"""What a model wrote back to entities: tolerant, counted, never an exception and never a silent "no
entities".

Every departure from the wire form has a name (the constants below) and a count in ``Prediction.malformed``;
whatever can still be read is kept. One pass from left to right, linear in the length of the output.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from cdner.codec.align import Mention, SentenceIndex, align
from cdner.codec.scan import scan
from cdner.codec.wire import Wire, fold
from cdner.types import Prediction, Sentence

EMPTY_OUTPUT = "empty_output"  # nothing but white space, where "no entity" has its own spelling
LEADING_TEXT = "leading_text"  # text before the object
TRAILING_TEXT = "trailing_text"  # text after the object
TRUNCATED = "truncated"  # the output ends inside the object; an unfinished mention is dropped
INVALID_SYNTAX = "invalid_syntax"  # one for each place that had to be repaired or skipped
UNKNOWN_TYPE = "unknown_type"  # not a declared type; its mentions are dropped
REPEATED_TYPE = "repeated_type"  # a type opened again; its mentions are kept
UNGROUNDED_MENTION = "ungrounded_mention"  # not a run of the sentence's tokens
RESPELLED_MENTION = (
    "respelled_mention"  # kept, but spelled otherwise than the sentence (white space, case, quotes ...)
)
EXCESS_MENTION = "excess_mention"  # more often than the sentence has it
OVERLAPPING_MENTION = "overlapping_mention"  # its tokens belong to other mentions

MALFORMED_KINDS = (
    EMPTY_OUTPUT,
    LEADING_TEXT,
    TRAILING_TEXT,
    TRUNCATED,
    INVALID_SYNTAX,
    UNKNOWN_TYPE,
    REPEATED_TYPE,
    UNGROUNDED_MENTION,
    RESPELLED_MENTION,
    EXCESS_MENTION,
    OVERLAPPING_MENTION,
)


def decode(generated: str, *, sentence: Sentence, types: Sequence[str], wire: Wire) -> Prediction:
    """Entities of a generated text, with a count for each kind of malformed output (zeroes left out).

    ``generated`` is the decoded side of the wire, as the model's tokenizer gives it; for an LLM's own JSON
    take ``PLAIN_WIRE``. UsageError only when the vocabulary cannot tell two of the types apart.
    """
    scanned = scan(generated, braces=wire.braces, escapes=wire.escapes)
    malformed = Counter(
        {
            EMPTY_OUTPUT: int(not generated.strip()),
            LEADING_TEXT: int(scanned.leading_text),
            TRAILING_TEXT: int(scanned.trailing_text),
            TRUNCATED: int(scanned.truncated),
            INVALID_SYNTAX: scanned.n_invalid,
        }
    )
    declared = wire.types_by_surface(types)
    mentions: list[Mention] = []
    opened: set[str] = set()
    for name, values in scanned.pairs:
        entity_type = declared.get(fold(name))
        if entity_type is None:
            malformed[UNKNOWN_TYPE] += 1
            continue
        malformed[REPEATED_TYPE] += entity_type in opened
        opened.add(entity_type)
        mentions.extend(Mention(entity_type, value) for value in values)
    alignment = align(mentions, SentenceIndex(sentence, wire))
    malformed[UNGROUNDED_MENTION] = alignment.n_ungrounded
    malformed[RESPELLED_MENTION] = alignment.n_respelled
    malformed[EXCESS_MENTION] = alignment.n_excess
    malformed[OVERLAPPING_MENTION] = alignment.n_overlapping
    counts = {kind: malformed[kind] for kind in MALFORMED_KINDS if malformed[kind]}
    return Prediction(generated=generated, entities=alignment.entities, malformed=counts)
