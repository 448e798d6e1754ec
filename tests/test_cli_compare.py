"""``cdner compare`` on a store filled by hand."""

from __future__ import annotations

import csv
import io
import json
import re

import pytest
from cli_stores import HOSTILE, Shell
from compared_stores import ComparedStore, compared_store

from cdner.compare.command import _TITLES


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> ComparedStore:
    return compared_store(tmp_path_factory.mktemp("compared") / "cdner.duckdb")


@pytest.fixture
def cdner(capsys, found) -> Shell:
    return Shell(capsys, found.path)


LABELS = ("brooks:without_all/test", "brooks:full/test")


def test_all_listings_and_one_sentence_a_metric_are_shown(cdner):
    shown = cdner("compare", *LABELS, "--resamples", 200)
    assert shown.code == 0
    for title in _TITLES.values():
        assert title.split(";")[0].split(":")[0][:30] in shown.out
    sentence = r"strict: [\d.]+ -> [\d.]+, \+[\d.]+ points \(\+[\d.]+ to \+[\d.]+\): more than chance"
    assert re.search(sentence, shown.out)
    assert re.search(r"span: .* \+0\.\d\d|span: .*not more than chance", shown.out)


def test_one_seed_is_said_to_be_one_and_two_are_not(cdner, found):
    ids = [
        found.settings[f"odes/test/{side}/{seed}"].predict for seed in (0, 1) for side in ("before", "after")
    ]
    assert "One seed:" in cdner("compare", *ids[:2], "--show", "f1", "--resamples", 100).out
    assert "One seed:" not in cdner("compare", *ids, "--show", "f1", "--resamples", 100).out


def test_json_holds_every_listing_and_its_counts_agree(cdner):
    everything = json.loads(cdner("compare", *LABELS, "--resamples", 200, "--limit", 10_000, "--json").out)
    assert list(everything) == list(_TITLES)
    (types,) = everything["types"]
    assert types["n_spans"] == sum(types[f"n_{k}"] for k in ("both_right", "fixed", "broken", "both_wrong"))
    for row in everything["changes"]:
        listed = [e for e in everything["entities"] if e["change"] == row["change"]]
        assert len(listed) == row["n_entities"]
        wrong_type = [e for e in listed if None not in (e["before"], e["after"])]
        assert len(wrong_type) == row["n_wrong_type_on_other_side"] == types[f"n_{row['change']}"]
    strict = everything["f1"][0]
    assert (strict["metric"], strict["domain"], strict["split"]) == ("strict", "rivers", "test")
    assert strict["difference"] == pytest.approx(strict["f1_after"] - strict["f1_before"])


def test_the_same_seed_gives_the_same_numbers_and_another_does_not(cdner):
    runs = [
        cdner("compare", *LABELS, "--show", "f1", "--resamples", 200, "--seed", s, "--json").out
        for s in "001"
    ]
    assert runs[0] == runs[1] != runs[2]


def test_one_listing_comes_as_csv_and_keeps_what_the_corpus_says(cdner, found):
    before, after = (found.settings[f"rivers/test/{side}/0"].predict for side in ("after", "before"))
    text = cdner("compare", before, after, "--show", "entities", "--limit", 10_000, "--csv").out
    rows = list(csv.DictReader(io.StringIO(text)))
    assert {row["change"] for row in rows} == {"fixed", "broken"}
    shown = cdner("compare", before, after, "--show", "entities", "--limit", 10_000).out
    assert "\x1b" not in shown
    assert any(HOSTILE in row["sentence_text"] for row in rows) == ("\\x1b[31mred" in shown)


def test_limit_cuts_the_long_listings_and_says_so(cdner):
    shown = cdner("compare", *LABELS, "--resamples", 100, "--limit", 2, "--json")
    everything = json.loads(shown.out)
    assert (len(everything["entities"]), len(everything["pairs"])) == (2, 2)
    assert re.search(r"entities: the first 2 of \d+; --limit N shows more", shown.err)


def test_further_pairs_are_seeds_and_domains(cdner, found):
    ids = [
        found.settings[f"{name}/test/{side}/{seed}"].predict
        for name in ("rivers", "odes")
        for seed in (0, 1)
        for side in ("before", "after")
    ]
    rows = json.loads(cdner("compare", *ids, "--show", "f1", "--resamples", 100, "--json").out)
    assert [(row["domain"], row["n_seeds"], row["deviation_before"] is None) for row in rows[:3]] == [
        ("rivers", 2, False),
        ("odes", 2, False),
        ("*", 2, True),
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (LABELS[:1], "1 runs: name them in pairs"),
        ((*LABELS, "--csv"), "--csv holds one listing: choose it with --show f1"),
        ((LABELS[0], "brooks:nothing/test"), "No step of experiment 'brooks' named 'predict:nothing/test'"),
        ((LABELS[0], "0" * 30), "No predict run begins with"),
    ],
)
def test_what_cannot_be_compared_is_one_line_and_exit_code_2(cdner, arguments, message):
    refused = cdner("compare", *arguments)
    assert (refused.code, refused.out) == (2, "")
    assert refused.err.count("\n") == 1
    assert message in refused.err


def test_different_corpora_are_one_line_and_exit_code_2(cdner, found):
    other = found.settings["rivers/dev/after/0"].predict
    refused = cdner("compare", LABELS[0], other)
    assert (refused.code, refused.out) == (2, "")
    assert "only predictions for the same corpus can be compared" in refused.err


def test_a_name_without_axes_stands_for_every_cell(cdner, found):
    sides = [f"varied@cpu[n=5]:{setting}/test" for setting in ("without_all", "full")]
    pooled = cdner("compare", *sides, "--show", "f1", "--resamples", 200, "--json")
    ids = [
        found.settings[f"{name}/test/{side}/{seed}"].predict
        for name in ("odes", "rivers")
        for seed in (0, 1)
        for side in ("before", "after")
    ]
    by_hand = cdner("compare", *ids, "--show", "f1", "--resamples", 200, "--json")
    assert json.loads(pooled.out) == json.loads(by_hand.out)
    assert {(row["domain"], row["n_seeds"]) for row in json.loads(pooled.out)} >= {("odes", 2), ("rivers", 2)}
    one = [f"varied@cpu[target=odes,n=9,seed=1]:{setting}/test" for setting in ("without_all", "full")]
    (strict, *_) = json.loads(cdner("compare", *one, "--show", "f1", "--resamples", 200, "--json").out)
    assert (strict["domain"], strict["n_seeds"]) == ("odes", 1)


def test_cells_that_differ_in_more_than_seed_and_target_are_not_pooled(cdner):
    refused = cdner("compare", "varied@cpu:without_all/test", "varied@cpu:full/test")
    assert refused.code == 2
    assert "differ in n:" in refused.err and "'varied@cpu[n=5]:without_all/test'" in refused.err
    apart = cdner("compare", "varied@cpu[n=5]:without_all/test", "varied@cpu[n=9]:full/test")
    assert apart.code == 2 and "no cell in common" in apart.err
