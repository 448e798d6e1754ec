"""The pipe of spaCy: entities as in Python, at the doc's own tokens, one by one and in batches."""

from __future__ import annotations

import importlib
import tomllib
from pathlib import Path

import pytest
import spacy
from pipeline_experiments import copy_of, finished_store, sql

import cdner.spacy_pipe as module
from cdner import Recognizer
from cdner.corpora.conll import ConllReader
from cdner.errors import UsageError

DEMO = Path(module.__file__).parent / "corpora" / "demo" / "film" / "test.txt"
TEXTS = ["Ilse Vandermeer directed  Low Tide\nin Ostend. Joost Claes played Pol.", "", " ", "Nobody sang."]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("spacy")
    store = copy_of(finished_store("seq2seq"), place / "copy")
    ((run_id,),) = sql(store, "SELECT run_id FROM experiment_run WHERE label = 'predict:without_all/test'")
    with Recognizer.load(store, str(run_id)) as recognizer:
        recognizer.save(place / "model")
    return place / "model"


class Fixed:
    """Stands where the model does: the last two tokens of each sentence are a film."""

    def predict(self, sentences, log):  # type: ignore[no-untyped-def]
        from cdner.types import Entity, Prediction

        self.seen = [sentence.tokens for sentence in sentences]
        film = [Entity(max(len(s.tokens) - 2, 0), len(s.tokens), "film") for s in sentences]
        return [(Prediction("", (one,), {}, ({"film": 0.75, "city": 0.25},)), None) for one in film]

    def close(self) -> None: ...


def fixed(folder: Path, *, sentences: bool) -> tuple[spacy.Language, Fixed]:
    nlp = spacy.blank("en")
    if sentences:
        nlp.add_pipe("sentencizer")
    pipe, model = nlp.add_pipe("cdner", config={"model": str(folder)}), Fixed()
    pipe._recognizer._predictor = model  # type: ignore[attr-defined]
    return nlp, model


def test_entities_are_those_of_the_recognizer(folder: Path) -> None:
    nlp = spacy.blank("en")
    nlp.add_pipe("cdner", config={"model": str(folder)})
    film = ConllReader().read(DEMO, domain="film", split="test").sentences
    docs = list(nlp.pipe(sentence.text for sentence in film))
    with Recognizer.load_folder(folder) as recognizer:
        expected = recognizer.predict([[token.text for token in doc] for doc in docs])
        assert nlp.get_pipe("cdner").labels == recognizer.types  # type: ignore[attr-defined]
    assert [[(span.start, span.end, span.label_) for span in doc.ents] for doc in docs] == [
        [(entity.start_token, entity.end_token, entity.type) for entity in entities] for entities in expected
    ]
    assert any(doc.ents for doc in docs), "a comparison of nothing with nothing"


def test_spans_stand_at_the_docs_tokens_sentence_by_sentence(folder: Path) -> None:
    nlp, model = fixed(folder, sentences=True)
    doc = nlp(TEXTS[0])
    assert model.seen[0] == ("Ilse", "Vandermeer", "directed", "Low", "Tide", "in", "Ostend", ".")
    assert [span.text for span in doc.ents] == ["Ostend.", "Pol."]
    assert [(span._.cdner_score, span._.cdner_runner_up) for span in doc.ents] == [(0.75, "city")] * 2
    whole, model = fixed(folder, sentences=False)
    assert [span.text for span in whole(TEXTS[0]).ents] == ["Pol."] and len(model.seen) == 1


def test_a_stream_gives_the_same_docs_in_their_order(folder: Path) -> None:
    nlp, _ = fixed(folder, sentences=True)
    docs = list(nlp.pipe(TEXTS * 3, batch_size=2))
    assert [doc.text for doc in docs] == TEXTS * 3
    assert [[span.text for span in doc.ents] for doc in docs] == [
        [span.text for span in nlp(text).ents] for text in TEXTS * 3
    ]


def test_a_saved_pipeline_finds_its_model_again(folder: Path, tmp_path: Path) -> None:
    nlp = spacy.blank("en")
    nlp.add_pipe("cdner", config={"model": str(folder)})
    nlp.to_disk(tmp_path / "nlp")
    again = spacy.load(tmp_path / "nlp")
    spans = [[(s.start, s.end, s.label_) for s in pipeline(TEXTS[0]).ents] for pipeline in (nlp, again)]
    assert spans[0] == spans[1]


def test_without_a_model_it_says_what_is_missing() -> None:
    with pytest.raises(UsageError, match="The pipe needs a model"):
        spacy.blank("en").add_pipe("cdner")


def test_the_entry_point_leads_to_the_factory() -> None:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))[
        "project"
    ]
    place, _, name = project["entry-points"]["spacy_factories"]["cdner"].partition(":")
    assert getattr(importlib.import_module(place), name) is module.make_pipe
