"""``cdner prompts``: a user sees to the letter what an LLM will be asked, and never a gold label."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from cli_stores import HOSTILE, MARKUP, Shell

from cdner.cli import run_cli
from cdner.config import Experiment
from cdner.console.experiment_options import compose_experiment, find_experiment
from cdner.console.progress import StderrProgress
from cdner.experiment.plan import build_plan
from cdner.prompts import domain_from_labels, domain_names, load_domain, template_names
from cdner.steps.context import open_context
from cdner.store import Store
from cdner.store.confusion import Hierarchy, Ratios, save_confusion, save_hierarchy, save_rivals
from cdner.store.corpora import find_corpus_run, load_corpus
from cdner.store.runs import begin_attempt, finish_attempt
from cdner.types import ConfusionMatrix, Domain

FILM = load_domain("film")


def quantify(path: Path, experiment: Experiment, target: Domain) -> None:
    """The experiment's quantify run without a model: every type's rival is the next one, every prefix the first."""
    store = Store(path)
    plan = build_plan(experiment, open_context(path, experiment, progress=StderrProgress(quiet=True)))
    spec = plan.by_label["quantify:target"].spec
    attempt = begin_attempt(store, spec, {})
    types, source = target.types, load_domain("newsdesk").types
    following = dict(zip(types, (*types[1:], types[0]), strict=True))
    save_confusion(store, spec.run_id, [ConfusionMatrix("v_conf", types, np.zeros((len(types),) * 2))])
    save_rivals(store, spec.run_id, {name: [(rival, 0.5)] for name, rival in following.items()})
    shape = (len(types), len(source))
    ratios = Ratios(
        types,
        source,
        ratios=np.zeros(shape),
        n_gold=np.ones(len(types), dtype=np.int64),
        n_predicted_as=np.zeros(shape, dtype=np.int64),
        unrecognised=np.ones(len(types)),
    )
    save_hierarchy(store, spec.run_id, Hierarchy(ratios, (source[0],) * len(types), (False,) * len(types)))
    finish_attempt(store, attempt, "done")


@pytest.fixture(scope="module")
def quantified(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo corpora, and a quantify run of the demo experiment."""
    path = tmp_path_factory.mktemp("prompts") / "cdner.duckdb"
    assert run_cli(["--store", str(path), "-q", "import", "demo"]) == 0
    quantify(path, find_experiment("demo"), FILM)
    return path


@pytest.fixture
def cdner(capsys, quantified) -> Shell:
    return Shell(capsys, quantified)


def test_list_has_every_template_with_its_hash_and_every_domain(cdner):
    rows = json.loads(cdner("prompts", "list", "--json").out)
    assert tuple(row["name"] for row in rows if row["kind"] == "template") == template_names()
    assert tuple(row["name"] for row in rows if row["kind"] == "domain") == domain_names()
    assert all(row["hash"] for row in rows if row["kind"] == "template")


def test_render_ends_with_the_sentence_asked_for_and_has_prefixes_and_rivals(cdner, quantified):
    store = Store(quantified)
    run_id = find_corpus_run(store, "film", "test")
    assert run_id
    sentence = load_corpus(store, run_id).sentences[7]
    request = json.loads(cdner("prompts", "render", "-e", "demo", "--position", 7, "--json").out)
    assert sentence.text in request["messages"][-1]["content"]
    fixed = request["messages"][0]["content"]
    assert f"PER -> {FILM.types[0]}" in fixed
    assert f"{FILM.types[0]} -> {FILM.types[1]}" in fixed


def test_the_text_shown_is_the_text_of_the_request(cdner):
    shown = cdner("prompts", "render", "-e", "demo", "--split", "dev")
    assert (shown.code, shown.err) == (0, "")
    request = json.loads(cdner("prompts", "render", "-e", "demo", "--split", "dev", "--json").out)
    assert shown.out == "".join(f"--- {m['role']} ---\n{m['content']}\n" for m in request["messages"])


def test_only_the_last_message_depends_on_the_sentence(cdner):
    one, two = (
        json.loads(cdner("prompts", "render", "-e", "demo", "--position", position, "--json").out)
        for position in (0, 1)
    )
    assert one["messages"][:-1] == two["messages"][:-1]
    assert one["messages"][-1] != two["messages"][-1]


def test_a_setting_s_switches_reach_the_prompt(cdner):
    full = cdner("prompts", "render", "-e", "demo").out
    without = cdner("prompts", "render", "-e", "demo", "--setting", "without_backward").out
    assert "backward" in full
    assert full != without


def test_describe_shows_one_type_a_request(cdner):
    """Needs WordNet, which scripts/test fetches."""
    second = json.loads(
        cdner("prompts", "render", "-e", "demo", "--what", "describe", "--position", 1, "--json").out
    )
    assert f"Type to explain: {FILM.entries[1].phrase}" in second["messages"][-1]["content"]


@pytest.mark.parametrize(
    ("arguments", "code", "wanted"),
    [
        (("-e", "demo", "--position", "60"), 2, "reason:full/test has 0, 1, 2"),
        (("-e", "demo", "--position", "-1"), 2, "--position -1"),
        (("-e", "demoo"), 2, "Did you mean 'demo'?"),
        (("-e", "demo", "--delta", "7"), 1, "Not done yet: quantify:target"),
        (("-e", "demo", "--set", "reasn.n_examples=1"), 2, "reason"),
    ],
)
def test_a_prompt_that_cannot_be_shown_is_one_line(cdner, arguments, code, wanted):
    shown = cdner("prompts", "render", *arguments)
    assert shown.code == code
    assert wanted in shown.err
    assert (shown.out, shown.err.count("\n")) == ("", 1)


def test_hostile_text_is_inert_on_screen_and_exact_in_json(capsys, tmp_path):
    """A sentence with an escape sequence reaches the prompt as it is; only the screen spells it out."""
    cdner = Shell(capsys, tmp_path / "s.duckdb")
    for split in ("train", "dev", "test"):
        (tmp_path / f"{split}.txt").write_text(f"{HOSTILE} B-person\n{MARKUP} B-place\n", encoding="utf-8")
        assert cdner("import", "conll", tmp_path / f"{split}.txt", "--domain", "odd").code == 0
    assert cdner("import", "demo").code == 0
    options = ("corpora.target=odd", "reason.n_examples=0", "corpora.n_target_test=0")
    quantify(
        cdner.store,
        compose_experiment("demo", {}, options),
        domain_from_labels("odd", ("person", "place"), "target"),
    )
    command = ("prompts", "render", "-e", "demo", *(part for option in options for part in ("--set", option)))
    shown = cdner(*command)
    assert shown.code == 0, shown.err
    assert "\x1b" not in shown.out
    assert f"\\x1b[31mred\\x1b[0m {MARKUP}" in shown.out
    exact = json.loads(cdner(*command, "--json").out)
    assert f"{HOSTILE} {MARKUP}" in exact["messages"][-1]["content"]
