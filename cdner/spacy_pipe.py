"""cdner in a spaCy pipeline: ``nlp.add_pipe("cdner", config={"model": FOLDER})`` sets ``doc.ents``.

The score of an entity is ``span._.cdner_score``, the most probable other type ``span._.cdner_runner_up``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from spacy.language import Language
from spacy.tokens import Doc, Span

from cdner.api import FoundEntity, Recognizer
from cdner.errors import UsageError

_NAME = "cdner"


class SpacyPipe:
    """Predicts each sentence of a doc (the doc as a whole if nothing set sentence boundaries). White space is no token.

    ``model``: a folder that ``Recognizer.save`` wrote, or a model of ``store``, e.g. "own:without_all".
    """

    def __init__(self, model: str, store: str, device: str, batch_size: int) -> None:
        if not model:
            raise UsageError("The pipe needs a model: nlp.add_pipe('cdner', config={'model': FOLDER}).")
        options: dict[str, Any] = {"device": device, "batch_size": batch_size, "progress": False}
        self._recognizer = (
            Recognizer.load(store, model, **options) if store else Recognizer.load_folder(model, **options)
        )
        for name in ("cdner_score", "cdner_runner_up"):
            if not Span.has_extension(name):
                Span.set_extension(name, default=None)

    @property
    def labels(self) -> tuple[str, ...]:
        """The entity types of the model."""
        return self._recognizer.types

    def __call__(self, doc: Doc) -> Doc:
        return next(self.pipe([doc]))

    def pipe(self, stream: Iterable[Doc], *, batch_size: int = 128) -> Iterator[Doc]:
        """Predict ``batch_size`` docs at a time."""
        docs = iter(stream)
        while batch := list(islice(docs, batch_size)):
            sentences = [(doc, tokens) for doc in batch for tokens in _sentences(doc)]
            found = self._recognizer.predict([[doc[i].text for i in tokens] for doc, tokens in sentences])
            spans: dict[int, list[Span]] = {id(doc): [] for doc in batch}
            for (doc, tokens), entities in zip(sentences, found, strict=True):
                spans[id(doc)] += [_span(doc, tokens, entity) for entity in entities]
            for doc in batch:
                doc.set_ents(spans[id(doc)])
                yield doc

    def to_disk(self, path: str | Path, *, exclude: Sequence[str] = ()) -> None:
        """Nothing is written: the model stays where the pipeline's config says."""

    def from_disk(self, path: str | Path, *, exclude: Sequence[str] = ()) -> SpacyPipe:  # noqa: ARG002
        """The pipe as the config made it."""
        return self


def make_pipe(  # noqa: PLR0917  spaCy's order
    nlp: Language,  # noqa: ARG001
    name: str,  # noqa: ARG001
    model: str,
    store: str,
    device: str,
    batch_size: int,
) -> SpacyPipe:
    """spaCy's factory of the name "cdner"."""
    return SpacyPipe(model, store, device, batch_size)


def _sentences(doc: Doc) -> Iterator[list[int]]:
    """Indices of the tokens of each sentence, without white space."""
    for part in doc.sents if doc.has_annotation("SENT_START") else [doc[:]]:
        tokens = [token.i for token in part if not token.is_space and token.text.split() == [token.text]]
        if tokens:
            yield tokens


def _span(doc: Doc, tokens: Sequence[int], entity: FoundEntity) -> Span:
    span = Span(doc, tokens[entity.start_token], tokens[entity.end_token - 1] + 1, label=entity.type)
    span._.cdner_score, span._.cdner_runner_up = entity.score, entity.runner_up
    return span


Language.factory(
    _NAME,
    default_config={"model": "", "store": "", "device": "auto", "batch_size": 16},
    assigns=["doc.ents"],
    func=make_pipe,
)
