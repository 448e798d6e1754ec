"""What each format holds, read back by the tools it is for (seqeval, spaCy, our own reader) or by plain Python."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
import spacy
from query_stores import TYPES, guess, random_entities
from spacy.tokens import DocBin

from cdner.corpora.conll import ConllReader
from cdner.errors import InputError
from cdner.formats import ExportedCorpus, Sureness, records, sureness
from cdner.formats.conll import write_conll
from cdner.formats.datasets_folder import write_datasets_folder
from cdner.formats.json_lines import write_json_lines
from cdner.formats.label_studio import labelling_interface, write_label_studio
from cdner.formats.spacy_docs import PREDICTED, write_doc_bin
from cdner.spans import bio_to_entities
from cdner.types import Entity, Prediction, Sentence

WORDS = (
    "Agnès",
    "🎬",
    "e\u0301",
    "a\\b",
    '"x"',
    "<i>",
    "\u00a0",
    "&",
    "[red]",
    "--",
    "Łódź",
    "\U0001f469\u200d\U0001f692",
)


def exported(sentences: tuple[Sentence, ...], predictions: tuple[tuple[Entity, ...], ...]) -> ExportedCorpus:
    return ExportedCorpus(
        run_id="0123abcd",
        model="study:full/test",
        domain="films",
        split="dev",
        types=TYPES,
        positions=tuple(range(5, 5 + len(sentences))),
        gold=sentences,
        predictions=tuple(Prediction("", entities) for entities in predictions),
    )


@pytest.fixture(scope="module")
def corpus() -> ExportedCorpus:
    """Random entities over awkward tokens; sentence 0 is of one token, and nothing was predicted for it."""
    generator = random.Random(3)
    gold = [Sentence(("Ann",), (Entity(0, 1, "actor"),))]
    found: list[tuple[Entity, ...]] = [()]
    for _ in range(30):
        tokens = tuple(generator.choice(WORDS) for _ in range(12))
        gold.append(Sentence(tokens, random_entities(generator)))
        found.append(guess(generator, gold[-1].entities))
    return exported(tuple(gold), tuple(found))


def writable(corpus: ExportedCorpus) -> ExportedCorpus:
    """The corpus with another letter for Unicode's spaces, which CoNLL refuses."""
    gold = tuple(
        replace(one, tokens=tuple("x" if not token.split() else token for token in one.tokens))
        for one in corpus.gold
    )
    return replace(corpus, gold=gold)


def spans(entities) -> list[tuple[int, int, str]]:
    return [(entity.start, entity.end, entity.type) for entity in entities]


def test_offsets_cut_the_text_and_the_tokens_where_the_entity_is(corpus):
    n_records = 0
    for _, sentence, predicted in corpus.rows():
        for record, entity in zip(records(sentence, predicted), predicted, strict=True):
            mention = " ".join(sentence.tokens[entity.start : entity.end])
            assert sentence.text[record["start"] : record["end"]] == mention == record["text"]
            assert (record["start_token"], record["end_token"], record["type"]) == spans([entity])[0]
            n_records += 1
    assert n_records > 50


def test_conll_has_gold_and_predicted_tags_and_our_reader_reads_it(corpus, tmp_path):
    corpus = writable(corpus)
    write_conll(corpus, tmp_path / "x.conll")
    blocks = (tmp_path / "x.conll").read_text(encoding="utf-8").rstrip("\n").split("\n\n")
    for block, (_, sentence, predicted) in zip(blocks, corpus.rows(), strict=True):
        columns = list(zip(*(line.split(" ") for line in block.split("\n")), strict=True))
        assert columns[0] == sentence.tokens
        assert bio_to_entities(columns[1]) == (sentence.entities, 0)
        assert bio_to_entities(columns[2]) == (predicted, 0)
    read = ConllReader().read(tmp_path / "x.conll", domain="films", split="dev", strict=True)
    assert [s.tokens for s in read.sentences] == [s.tokens for s in corpus.gold]
    assert [s.entities for s in read.sentences] == [p.entities for p in corpus.predictions]  # the last column


@pytest.mark.parametrize(
    "token", ["two words", "", "line\nbreak", "no\u00a0break", "thin\u2009space", "\u3000", "next\x85line"]
)
def test_conll_refuses_a_token_that_is_not_one_column(tmp_path, token):
    with pytest.raises(InputError, match=r"Sentence 5 of films/dev .* three columns"):
        write_conll(exported((Sentence(("a", token)),), ((),)), tmp_path / "x")
    with pytest.raises(InputError, match="three columns"):
        write_conll(exported((Sentence(("a",), (Entity(0, 1, "film director"),)),), ((),)), tmp_path / "x")


def test_json_lines_hold_everything(corpus, tmp_path):
    write_json_lines(corpus, tmp_path / "x.jsonl")
    lines = (tmp_path / "x.jsonl").read_text(encoding="utf-8").split("\n")
    assert lines.pop() == ""
    for line, (position, sentence, predicted) in zip(lines, corpus.rows(), strict=True):
        row = json.loads(line)
        assert (row["position"], row["text"], tuple(row["tokens"])) == (
            position,
            sentence.text,
            sentence.tokens,
        )
        assert (row["domain"], row["split"], row["run_id"]) == ("films", "dev", "0123abcd")
        for key, entities in (("gold", sentence.entities), ("predicted", predicted)):
            assert row[key] == records(sentence, entities)


def test_spacy_reads_gold_as_entities_and_predicted_as_spans(corpus, tmp_path):
    write_doc_bin(corpus, tmp_path / "x.spacy")
    docs = list(DocBin().from_disk(tmp_path / "x.spacy").get_docs(spacy.blank("en").vocab))
    for doc, (position, sentence, predicted) in zip(docs, corpus.rows(), strict=True):
        assert tuple(token.text for token in doc) == sentence.tokens
        assert doc.text == sentence.text
        assert tuple(Entity(e.start, e.end, e.label_) for e in doc.ents) == sentence.entities
        assert tuple(Entity(e.start, e.end, e.label_) for e in doc.spans[PREDICTED]) == predicted
        assert doc.user_data["position"] == position
        assert doc.has_annotation("ENT_IOB")  # nothing is unknown: no entity means O


def test_label_studio_tasks_fit_the_interface_beside_them(corpus, tmp_path):
    write_label_studio(corpus, tmp_path / "x.json")
    tasks = json.loads((tmp_path / "x.json").read_text(encoding="utf-8"))
    interface = ElementTree.fromstring(labelling_interface((*TYPES, '[red]"law"&')))
    labels, text = interface.find("Labels"), interface.find("Text")
    assert [label.get("value") for label in labels] == [*TYPES, '[red]"law"&']
    for task, (_, sentence, predicted) in zip(tasks, corpus.rows(), strict=True):
        assert task["data"][text.get("value").removeprefix("$")] == sentence.text
        for part, entities in ((task["annotations"], sentence.entities), (task["predictions"], predicted)):
            (one,) = part
            assert len({region["id"] for region in one["result"]}) == len(entities)
            for region, record in zip(one["result"], records(sentence, entities), strict=True):
                assert (region["from_name"], region["to_name"]) == (labels.get("name"), text.get("name"))
                assert region["type"] == labels.tag.lower()
                assert region["value"] == {
                    "start": record["start"],
                    "end": record["end"],
                    "text": record["text"],
                    "labels": [record["type"]],
                }
        assert task["predictions"][0]["model_version"] == "study:full/test"


def test_the_datasets_folder_has_a_card_that_knows_every_tag(corpus, tmp_path):
    write_datasets_folder(corpus, tmp_path / "x")
    assert sorted(path.name for path in (tmp_path / "x").iterdir()) == ["README.md", "validation.jsonl"]
    card = (tmp_path / "x" / "README.md").read_text(encoding="utf-8")
    assert "path: validation.jsonl" in card
    tags = ["O", *(f"{prefix}-{name}" for name in TYPES for prefix in "BI")]
    assert card.count("\n".join(f"          '{n}': \"{tag}\"" for n, tag in enumerate(tags))) == 2
    lines = (tmp_path / "x" / "validation.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
    for line, (position, sentence, predicted) in zip(lines, corpus.rows(), strict=True):
        row = json.loads(line)
        assert (row["id"], tuple(row["tokens"])) == (str(position), sentence.tokens)
        assert bio_to_entities(row["ner_tags"]) == (sentence.entities, 0)
        assert bio_to_entities(row["predicted_ner_tags"]) == (predicted, 0)
        assert {*row["ner_tags"], *row["predicted_ner_tags"]} <= set(tags)


def test_writing_twice_gives_the_same_bytes(corpus, tmp_path):
    for number, write in enumerate((write_conll, write_json_lines, write_doc_bin, write_label_studio)):
        paths: list[Path] = [tmp_path / f"{number}.{copy}" for copy in "ab"]
        for path in paths:
            write(writable(corpus), path)
        assert paths[0].read_bytes() == paths[1].read_bytes()


# --- how sure the model is ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sure(corpus) -> ExportedCorpus:
    """The same with a distribution for each entity, but for the second entity of every sentence."""
    generator = random.Random(8)

    def said() -> dict[str, float]:
        weights = [generator.random() for _ in TYPES]
        return {name: weight / sum(weights) for name, weight in zip(TYPES, weights, strict=True)}

    return replace(
        corpus,
        predictions=tuple(
            replace(one, type_probabilities=tuple({} if n == 1 else said() for n in range(len(one.entities))))
            for one in corpus.predictions
        ),
    )


def plain_scores(prediction: Prediction) -> list[tuple[float | None, str | None]]:
    """(probability of the predicted type, the most probable other one) of each entity."""
    found: list[tuple[float | None, str | None]] = []
    for entity, said in zip(prediction.entities, prediction.type_probabilities, strict=True):
        ranked = sorted((p, name) for name, p in said.items() if name != entity.type)
        found.append((said[entity.type], ranked[-1][1]) if said else (None, None))
    assert len(found) < 2 or found[1] == (None, None)
    return found


def test_json_lines_have_a_score_where_the_model_says(sure, tmp_path):
    write_json_lines(sure, tmp_path / "x.jsonl")
    lines = (tmp_path / "x.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
    for line, prediction in zip(lines, sure.predictions, strict=True):
        row = json.loads(line)
        assert [(r.get("score"), r.get("runner_up")) for r in row["predicted"]] == plain_scores(prediction)
        assert all("score" not in record for record in row["gold"])
        assert ["score" in record for record in row["predicted"]] == [
            bool(said) for said in prediction.type_probabilities
        ]


def test_scores_survive_the_doc_bin(sure, tmp_path):
    write_doc_bin(sure, tmp_path / "x.spacy")
    docs = list(DocBin().from_disk(tmp_path / "x.spacy").get_docs(spacy.blank("en").vocab))
    for doc, prediction in zip(docs, sure.predictions, strict=True):
        found = zip(doc.user_data["predicted_scores"], doc.user_data["predicted_runners_up"], strict=True)
        assert list(found) == plain_scores(prediction)
        assert len(doc.spans[PREDICTED]) == len(doc.user_data["predicted_scores"])


def test_label_studio_predictions_have_the_lowest_score_of_their_regions(sure, tmp_path):
    write_label_studio(sure, tmp_path / "x.json")
    for task, prediction in zip(
        json.loads((tmp_path / "x.json").read_text(encoding="utf-8")), sure.predictions, strict=True
    ):
        ((one,), (gold,)) = task["predictions"], task["annotations"]
        expected = [score for score, _ in plain_scores(prediction)]
        assert [region.get("score") for region in one["result"]] == expected
        assert one.get("score") == min((score for score in expected if score is not None), default=None)
        assert all("score" not in part for part in (gold, *gold["result"]))


def test_the_datasets_folder_has_a_score_a_token(sure, tmp_path):
    write_datasets_folder(sure, tmp_path / "x")
    card = (tmp_path / "x" / "README.md").read_text(encoding="utf-8")
    assert "  - name: predicted_scores\n    sequence: float64\n" in card
    assert "  - name: predicted_runners_up\n    sequence: string\n---" in card
    lines = (tmp_path / "x" / "validation.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
    for line, prediction in zip(lines, sure.predictions, strict=True):
        row = json.loads(line)
        expected: list[tuple[float | None, str | None]] = [(None, None)] * len(row["tokens"])
        for entity, said in zip(prediction.entities, plain_scores(prediction), strict=True):
            expected[entity.start : entity.end] = [said] * (entity.end - entity.start)
        assert list(zip(row["predicted_scores"], row["predicted_runners_up"], strict=True)) == expected


def test_conll_is_the_same_with_and_without_scores(corpus, sure, tmp_path):
    for name, one in (("a", corpus), ("b", sure)):
        write_conll(writable(one), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_domain_of_one_type_has_no_runner_up():
    prediction = Prediction("", (Entity(0, 1, "a"),), type_probabilities=({"a": 1.0},))
    assert sureness(prediction) == (Sureness(1.0, None),)
    assert sureness(replace(prediction, type_probabilities=())) == (None,)
