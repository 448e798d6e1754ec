"""From stored probabilities to ``@calibration`` and the report's reliability diagram, against plain loops."""

from __future__ import annotations

import math
import random
import re
from collections import defaultdict
from pathlib import Path

import pytest
from cli_stores import domain, finish_run

from cdner.evaluate import score
from cdner.report import render_page
from cdner.report.gathering import gather
from cdner.store import Store
from cdner.store.corpora import save_corpus
from cdner.store.predictions import save_predictions
from cdner.store.runs import label_experiment
from cdner.store.scores import ScoreRow, save_scores
from cdner.store.sql import find_query, query
from cdner.types import Corpus, Entity, Generation, Prediction, Sentence

TYPES = ("poet", "city", "river")
SEEDS = (0, 1)
GENERATION = Generation("{}", n_input_tokens=1, n_truncated_tokens=0, n_output_tokens=1, finish_reason="stop")


def distribution(generator: random.Random, exact: float | None = None) -> dict[str, float]:
    """Of a random largest type; ``exact``: its probability."""
    largest = generator.random() if exact is None else exact
    rest = generator.random() * (1 - largest)
    values = [largest, rest, 1 - largest - rest]
    return dict(zip(generator.sample(TYPES, 3), values, strict=True))


def guessed(generator: random.Random, sentence: Sentence, *, with_scores: bool) -> Prediction:
    """Spans of gold entities with a random type, now and then a token more."""
    found = []
    for number, entity in enumerate(sentence.entities):
        wider = generator.random() < 0.2 and entity.end < len(sentence.tokens) and number == 2
        found.append(Entity(entity.start, entity.end + wider, generator.choice(TYPES)))
    edges = (0.0, 1.0, 0.2, 0.4, 13 / 15, None)
    said = tuple(distribution(generator, generator.choice(edges)) for _ in found)
    return Prediction("{}", tuple(found), type_probabilities=said if with_scores else ())


class Told:
    def __init__(self, path: Path) -> None:
        generator = random.Random(4)
        self.store = Store(path)
        self.gold = tuple(
            Sentence(
                tuple("abcdefg"),
                tuple(Entity(start, start + 1, generator.choice(TYPES)) for start in (0, 2, 4)),
            )
            for _ in range(80)
        )
        corpus = Corpus("ai", "test", self.gold, types=TYPES)
        imported = finish_run(self.store, "import", seed=1)
        save_corpus(self.store, imported, corpus, domain("ai", "target", TYPES))
        self.predicted: dict[tuple[int, str], list[Prediction]] = {}
        for seed in SEEDS:
            labels = []
            for number, setting in enumerate(("without_all", "full")):
                run = finish_run(self.store, "predict", imported, seed=10 * seed + number)
                found = [
                    guessed(generator, sentence, with_scores=setting == "full") for sentence in self.gold
                ]
                self.predicted[seed, setting] = found
                items = [(position, one, GENERATION) for position, one in enumerate(found)]
                save_predictions(self.store, run, items, corpus_run_id=imported)
                evaluate = finish_run(self.store, "evaluate", run, imported)
                rows = [
                    ScoreRow(
                        *("ai", "test", row.metric, row.entity_type, row.n_gold, row.n_predicted),
                        *(row.n_correct, row.precision, row.recall, row.f1),
                    )
                    for row in score(self.gold, found, TYPES)
                ]
                save_scores(self.store, evaluate, rows)
                labels += [(run, f"predict:{setting}/test"), (evaluate, f"evaluate:{setting}/test")]
            label_experiment(self.store, f"study[seed={seed}]", labels)

    def said(self, seed: int, *, spans: str = "found") -> list[tuple[float, bool]]:
        """(probability of the predicted type, right) of every predicted entity that counts."""
        found = []
        for sentence, prediction in zip(self.gold, self.predicted[seed, "full"], strict=True):
            gold = {(entity.start, entity.end): entity.type for entity in sentence.entities}
            for entity, said in zip(prediction.entities, prediction.type_probabilities, strict=True):
                known = gold.get((entity.start, entity.end))
                if known is not None or spans == "all":
                    found.append((said[entity.type], known == entity.type))
        return found


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    return Told(tmp_path_factory.mktemp("calibration") / "cdner.duckdb")


def plain_bins(said: list[tuple[float, bool]]) -> dict[int, tuple[int, float, float]]:
    bins = defaultdict(list)
    for probability, is_right in said:
        number = next(k for k in range(1, 16) if probability <= k / 15 or k == 15)
        bins[number].append((probability, is_right))
    return {
        number: (len(held), sum(p for p, _ in held) / len(held), sum(right for _, right in held) / len(held))
        for number, held in bins.items()
    }


@pytest.mark.parametrize("spans", ["found", "all"])
def test_the_query_counts_what_was_stored(told, spans) -> None:
    named = find_query("@calibration")
    columns, rows = query(told.store, named.sql, parameters=named.values({"spans": spans}))
    found = [dict(zip(columns, row, strict=True)) for row in rows]
    assert {row["setting"] for row in found} == {"full"}
    for seed in SEEDS:
        bins = {
            row["bin"]: (row["n"], row["mean_probability"], row["share_right"])
            for row in found
            if row["experiment"] == f"study[seed={seed}]"
        }
        expected = plain_bins(told.said(seed, spans=spans))
        assert bins.keys() == expected.keys()
        for number, values in expected.items():
            assert bins[number] == pytest.approx(values)
    assert len(told.said(0, spans="all")) > len(told.said(0))


def test_the_report_puts_seeds_together_and_shows_only_what_has_probabilities(told) -> None:
    report = gather(told.store, n_resamples=50)
    (found,) = report.reliability
    said = [pair for seed in SEEDS for pair in told.said(seed)]
    expected = plain_bins(said)
    assert (found.where.setting, found.n_mentions) == ("full", len(said))
    assert [(one.n, one.mean_probability, one.share_right) for one in found.bins] == [
        pytest.approx(expected[number]) for number in sorted(expected)
    ]
    error = sum(n * abs(right - mean) for n, mean, right in expected.values()) / len(said)
    assert found.error == pytest.approx(error)
    assert math.isclose(error, found.error)
    page = render_page(report)
    (section,) = re.findall(r'<section id="calibration".*?</section>', page, re.DOTALL)
    assert section.count("<circle") == len(found.bins)
    assert f"expected calibration error {100 * error:.1f} %" in section


def test_a_report_without_probabilities_has_no_such_section(told, tmp_path) -> None:
    report = gather(told.store, n_resamples=50)
    bare = type(report)(**{name: getattr(report, name) for name in report.__slots__ if name != "reliability"})
    assert 'id="calibration"' not in render_page(bare)
