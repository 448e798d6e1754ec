"""The queries that have a name against slow twins in plain Python, and what their files say of themselves."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import pytest
from cli_stores import finish_run
from query_stores import (
    CELL,
    CELLS,
    MATRIX,
    SETTINGS,
    TYPES,
    Told,
    exact,
    mention,
    outcome_counts,
    scored,
    told_store,
)

from cdner.errors import UsageError
from cdner.evaluate import score
from cdner.store import Store
from cdner.store.confusion import save_confusion, save_rivals
from cdner.store.llm_log import save_completions, save_reasoning, save_requests
from cdner.store.runs import label_experiment
from cdner.store.sql import find_query, named_queries, parse_query, query
from cdner.types import (
    Completion,
    ConfusionMatrix,
    Entity,
    Gap,
    Message,
    ReasoningChain,
    ReasoningRequest,
    Sampling,
)

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    return told_store(tmp_path_factory.mktemp("queries") / "cdner.duckdb")


def ask(told: Told, name: str, **given: Any) -> list[dict[str, Any]]:
    """All rows of a named query, through the sealed child."""
    named = find_query(name)
    if "limit" in {parameter.name for parameter in named.parameters}:
        given = {"limit": 10_000, **given}
    columns, rows = query(told.store, named.sql, parameters=named.values(given))
    return [dict(zip(columns, row, strict=True)) for row in rows]


# --- files -------------------------------------------------------------------------------------------------


def test_every_view_is_read_by_a_query():
    views = {path.stem.partition("_")[2] for path in (ROOT / "store" / "views").glob("*.sql")}
    read = {word for found in named_queries().values() for word in re.findall(r"[a-z_]+", found.sql)}
    assert views - read == set()
    assert len(views) > 12


@pytest.mark.parametrize("name", sorted(named_queries()))
def test_every_query_runs_with_its_defaults_and_uses_each_parameter(told, name):
    named = find_query(name)
    assert named.answers.endswith(".")
    comments, _, statement = named.sql.partition("\nSELECT" if "\nWITH" not in named.sql else "\nWITH")
    for parameter in named.parameters:
        assert f"${parameter.name}" in statement, parameter
        assert comments.count(f"-- ${parameter.name} ") == 1
    columns, _ = query(told.store, named.sql, parameters=named.values({}))
    assert len(set(columns)) == len(columns)


def test_a_query_file_says_what_it_answers_and_what_can_be_chosen():
    text = "-- How many.\n-- $split text = test: the split\n-- $n integer: how\nSELECT $split, $n"
    found = parse_query("count", text)
    assert (found.answers, found.sql) == ("How many.", text)
    assert [(p.name, p.kind, p.default, p.meaning) for p in found.parameters] == [
        ("split", "text", "test", "the split"),
        ("n", "integer", None, "how"),
    ]
    assert found.values({"n": "7"}) == {"split": "test", "n": 7}
    with pytest.raises(UsageError, match=r"No parameter of @count named 'splt'\. Did you mean 'split'"):
        found.values({"splt": "dev"})
    with pytest.raises(UsageError, match=r"\$n must be of kind integer, not 'seven'"):
        found.values({"n": "seven"})
    with pytest.raises(UsageError, match="Did you mean 'most_confused'"):
        find_query("@most_confusd")
    for broken in ("SELECT 1", "-- What.\n-- $x date: when\nSELECT $x"):
        with pytest.raises(ValueError, match=r"count\.sql"):
            parse_query("count", broken)


def test_values_are_bound_and_never_pasted(told):
    hostile = "x' OR 1=1 --"
    assert ask(told, "most_confused", domain=hostile) == []
    assert query(told.store, "SELECT $a AS a", parameters={"a": hostile}) == (("a",), [(hostile,)])
    with pytest.raises(UsageError, match=r"has \$b, which has no value: --param b=VALUE"):
        query(told.store, "SELECT $a, $b", parameters={"a": 1})
    with pytest.raises(UsageError, match=r"has no \$b; it has \$a"):
        query(told.store, "SELECT $a", parameters={"a": 1, "b": 2})


# --- slow twins --------------------------------------------------------------------------------------------


def test_most_confused_counts_pairs_of_every_run_of_the_matrix(told):
    expected = {}
    for part, predicted in told.predicted.items():
        pairs = Counter(
            (gold.type, taken)
            for position, entities in predicted.items()
            for gold in told.gold[position].entities
            if (taken := exact(entities, gold)) not in (None, gold.type)
        )
        n_gold = Counter(gold.type for position in predicted for gold in told.gold[position].entities)
        step = "extract" if part[1] == "llm_only" else "predict"
        run_id = told.runs[part[0], f"{step}:{part[1]}/test"]
        expected |= {(run_id, *pair): (n, n_gold[pair[0]], ":".join(part)) for pair, n in pairs.items()}
    rows = ask(told, "most_confused", experiment=MATRIX)
    assert {
        (r["run_id"], r["gold_type"], r["predicted_type"]): (r["n_confused"], r["n_gold"], r["part"])
        for r in rows
    } == expected
    assert [r["n_confused"] for r in rows] == sorted((r["n_confused"] for r in rows), reverse=True)
    one = ask(told, "most_confused", experiment=CELLS[1], setting="full", gold="actor", predicted="misc")
    assert [r["part"] for r in one] == [f"{CELLS[1]}:full"]
    assert ask(told, "most_confused", split="dev") == []


def test_pair_errors_stand_beside_the_reasoning_of_their_own_model(told):
    for setting in SETTINGS:
        part = (CELLS[0], setting)
        expected = []
        for position, entities in told.predicted[part].items():
            text = told.reasoned.get(part, {}).get(position)
            reasoning: tuple[str | None, ...] = (None, None, None)
            if text is not None:
                is_gap = isinstance(text, Gap)
                reasoning = ("", "", text.reason) if is_gap else (text.initial, text.bidirectional, None)
            expected += [
                (
                    position,
                    mention(told.gold[position], (g.start, g.end)),
                    told.gold[position].text,
                    *reasoning,
                )
                for g in told.gold[position].entities
                if g.type == "actor" and exact(entities, g) == "misc"
            ]
        rows = ask(told, "pair_errors", experiment=CELLS[0], setting=setting, gold="actor", predicted="misc")
        columns = ("position", "mention", "sentence_text", "initial", "bidirectional", "gap_reason")
        assert [tuple(r[name] for name in columns) for r in rows] == expected
        assert expected


def test_errors_dropped_are_types_with_fewer_errors_after(told):
    expected = {}
    for cell in CELLS:
        before, after = (outcome_counts(told, (cell, name)) for name in ("without_backward", "full"))
        for name in TYPES:
            dropped = sum(before[name, kind] - after[name, kind] for kind in ("wrong", "missed"))
            if dropped > 0:
                expected[cell, name] = (dropped, before[name, "wrong"], after[name, "wrong"])
    rows = ask(told, "errors_dropped", experiment=MATRIX)
    assert {
        (r["experiment"], r["entity_type"]): (
            r["dropped"],
            r["misclassified_before"],
            r["misclassified_after"],
        )
        for r in rows
    } == expected
    assert expected
    back = ask(told, "errors_dropped", before="full", after="without_backward")
    assert {(r["experiment"], r["entity_type"]) for r in back}.isdisjoint(expected)
    assert ask(told, "errors_dropped", before="full", after="full") == []  # as many is not fewer


def test_disagreements_say_who_is_right_on_every_span_of_either(told):
    expected = set()
    for cell in CELLS:
        llm, backbone = told.predicted[cell, "llm_only"], told.predicted[cell, "without_all"]
        for position in llm.keys() & backbone.keys():
            sides = (told.gold[position].entities, llm[position], backbone[position])
            for start, end in {(e.start, e.end) for side in sides for e in side}:
                gold, by_llm, by_backbone = (exact(side, Entity(start, end, "")) for side in sides)
                if by_llm != by_backbone:
                    right = "LLM" if by_llm == gold else "backbone" if by_backbone == gold else "neither"
                    expected.add((cell, position, start, right, gold, by_llm, by_backbone))
    rows = ask(told, "disagreements", experiment=MATRIX)
    columns = (
        *("experiment", "position", "start_token", "who_is_right", "gold_type", "llm_type", "backbone_type"),
    )
    found = [tuple(r[name] for name in columns) for r in rows]
    assert set(found) == expected
    assert len(found) == len(expected)
    assert {row[3] for row in found} == {"LLM", "backbone", "neither"}


def f1_of(told: Told, part: tuple[str, str]) -> float:
    rows = score(*scored(told, part), TYPES)
    return next(row.f1 for row in rows if (row.metric, row.entity_type) == ("strict", "*"))


def test_cost_per_point_counts_each_answer_once_whichever_run_paid(told):
    rows = {(r["experiment"], r["setting"]): r for r in ask(told, "cost_per_point", experiment=MATRIX)}
    assert rows.keys() == {(cell, name) for cell in CELLS for name in SETTINGS if name != "without_all"}
    signs = set()
    for part, row in rows.items():
        calls = told.calls[part]
        gain = 100 * (f1_of(told, part) - f1_of(told, (part[0], "without_all")))
        cost = sum(call.cost_usd for call in calls if call.cost_usd is not None)
        assert row["gain"] == pytest.approx(gain)
        assert row["n_calls"] == len(calls)
        assert row["n_calls_without_price"] == sum(call.cost_usd is None for call in calls) > 0
        assert row["cost_usd"] == pytest.approx(cost)
        assert row["n_output_tokens"] == sum(call.output_tokens for call in calls)
        assert row["usd_per_point"] == (pytest.approx(cost / gain) if gain > 0 else None)
        assert row["seconds_per_point"] == (
            pytest.approx(sum(call.seconds for call in calls) / gain) if gain > 0 else None
        )
        signs.add(gain > 0)
    assert signs == {True, False}


def test_an_answer_two_runs_use_is_counted_once(tmp_path):
    """Reasoning for training and for prediction may ask the same."""
    store = Store(tmp_path / "cdner.duckdb")
    (asked,) = save_requests(store, "scripted", "m", [ReasoningRequest((Message("user", "?"),), Sampling(9))])
    reasons = [finish_run(store, "reason", seed=seed) for seed in (1, 2)]
    save_completions(store, reasons[0], [(asked, Completion("text", "stop", 50, 10, 7))])
    for reason in reasons:
        save_reasoning(store, reason, [(0, asked, ReasoningChain("i", "b"))])
    finish_run(store, "evaluate", finish_run(store, "predict", *reasons))
    assert query(store, "SELECT n_calls, n_output_tokens FROM llm_cost")[1] == [(1, 7)]


def test_missed_by_all_seeds_are_gold_entities_no_seed_found(told):
    by_seed = [told.predicted[cell, "full"] for cell in CELLS]
    expected = [
        (position, gold.start, gold.type, CELL, 2)
        for position, sentence in enumerate(told.gold)
        for gold in sentence.entities
        if all(exact(found[position], gold) is None for found in by_seed)
    ]
    rows = ask(told, "missed_by_all_seeds", experiment=MATRIX, min_seeds=2)
    columns = ("position", "start_token", "gold_type", "cell", "n_seeds")
    assert [tuple(r[name] for name in columns) for r in rows] == expected
    assert 0 < len(expected) < sum(len(sentence.entities) for sentence in told.gold)
    assert ask(told, "missed_by_all_seeds", min_seeds=3) == []
    one = ask(told, "missed_by_all_seeds", experiment=CELLS[0])
    assert len(one) > len(rows)


def test_the_leaderboard_averages_seeds_and_ranks_the_llm_alone_too(told):
    expected = {name: [f1_of(told, (cell, name)) for cell in CELLS] for name in SETTINGS}
    rows = ask(told, "leaderboard", experiment=MATRIX)
    assert [r["setting"] for r in rows] == sorted(SETTINGS, key=lambda name: -fmean(expected[name]))
    assert [r["place"] for r in rows] == [1, 2, 3, 4]
    for row in rows:
        values = expected[row["setting"]]
        assert (row["cell"], row["n_seeds"]) == (CELL, 2)
        assert row["f1"] == pytest.approx(fmean(values))
        assert row["deviation"] == pytest.approx(stdev(values))
    assert {r["deviation"] for r in ask(told, "leaderboard", experiment=CELLS[0])} == {None}


def test_llm_usage_names_the_part_each_run_plays(told):
    rows = ask(told, "llm_usage", experiment=CELLS[0])
    assert {r["part"] for r in rows} == {
        f"{CELLS[0]}/{label}"
        for label in ("reason:full/test", "reason:without_backward/test", "extract:llm_only/test")
    }
    assert [r["n_calls"] for r in rows] == [40, 40, 40]
    assert [r["n_calls"] for r in ask(told, "llm_usage", experiment=CELLS[1])] == [1, 1, 1]


def test_error_proportions_are_shares_of_the_gold_entities(told):
    rows = ask(told, "error_proportions", experiment=CELLS[0], setting="llm_only", gold="actor")
    counts = outcome_counts(told, (CELLS[0], "llm_only"))
    found = told.predicted[CELLS[0], "llm_only"]
    n_gold = sum(gold.type == "actor" for position in found for gold in told.gold[position].entities)
    assert [(r["n_gold"], r["missed"], r["misclassified"]) for r in rows] == [
        (
            n_gold,
            pytest.approx(counts["actor", "missed"] / n_gold),
            pytest.approx(counts["actor", "wrong"] / n_gold),
        )
    ]


@pytest.mark.parametrize("name", ["missed", "spurious", "boundaries"])
def test_errors_by_kind_are_those_of_the_run(told, name):
    part = (CELLS[0], "full")
    expected: Counter[tuple[int, str]] = Counter()
    for position, entities in told.predicted[part].items():
        gold = told.gold[position].entities
        for one in gold:
            touching = [e for e in entities if e.start < one.end and one.start < e.end]
            if exact(entities, one) is None:
                expected[position, one.type] += {"missed": 1, "spurious": 0, "boundaries": len(touching)}[
                    name
                ]
        if name == "spurious":
            for one in entities:
                expected[position, one.type] += not any(e.start < one.end and one.start < e.end for e in gold)
    column = "predicted_type" if name == "spurious" else "gold_type"
    rows = ask(told, name, experiment=CELLS[0])
    assert Counter((r["position"], r[column]) for r in rows) == +expected
    assert rows


def test_the_outdated_run_of_a_part_is_left_out(told):
    """``full`` of the first cell was labelled twice: its first run missed everything in sentence 0."""
    rows = ask(told, "spurious", experiment=CELLS[0]) + ask(told, "boundaries", experiment=CELLS[0])
    assert not [r for r in rows if (r["position"], r.get("predicted_mention")) == (0, told.gold[0].text)]
    assert {r["run_id"] for r in rows} == {told.runs[CELLS[0], "predict:full/test"]}


def test_confusion_lists_pairs_by_v_conf(told):
    run_id = finish_run(told.store, "quantify", told.corpus_run)
    scores = np.array([[0.0, 0.75, 0.25], [0.5, 0.0, 0.125], [0.3, 0.7, 0.0]])
    save_confusion(told.store, run_id, [ConfusionMatrix("v_conf", TYPES, scores)])
    save_rivals(told.store, run_id, {"director": [("actor", 0.75)], "actor": (), "misc": ()})
    label_experiment(told.store, "measured", [(run_id, "quantify:target")])
    rows = ask(told, "confusion", experiment="measured")
    assert [(r["gold_type"], r["confused_type"], r["v_conf"], r["rival_rank"]) for r in rows] == [
        ("director", "actor", 0.75, 1),
        ("misc", "actor", 0.7, None),
        ("actor", "director", 0.5, None),
        ("misc", "director", 0.3, None),
        ("director", "misc", 0.25, None),
        ("actor", "misc", 0.125, None),
    ]


def test_reasoning_coverage_counts_what_the_texts_name(told):
    (row,) = ask(told, "reasoning_coverage", setting="full")
    texts = without = 0
    named, types, right = [], [], []
    for cell in CELLS:
        for position, chain in told.reasoned[cell, "full"].items():
            entities = told.gold[position].entities
            if isinstance(chain, Gap) or not entities:
                continue
            texts += 1
            without += not chain.bidirectional
            told_of = f"{chain.initial} {chain.bidirectional}".lower()
            for entity in entities:
                named.append(mention(told.gold[position], (entity.start, entity.end)).lower() in told_of)
                types.append(entity.type in told_of)
                right.append(entity in told.predicted[cell, "full"][position])
    assert 0 < without < texts
    assert (row["n_texts"], row["n_gold"]) == (texts, len(named))
    assert row["without_bidirectional"] == pytest.approx(without / texts)
    assert (row["mention_named"], row["type_named"]) == (
        pytest.approx(fmean(named)),
        pytest.approx(fmean(types)),
    )
    for column, wanted in (("recall_where_named", True), ("recall_elsewhere", False)):
        kept = [found for found, is_named in zip(right, named, strict=True) if is_named is wanted]
        assert row[column] == pytest.approx(fmean(kept)), column


def test_lineage_attempts_and_reasoning_are_those_of_the_run(told):
    predict, reason = (told.runs[CELLS[0], f"{step}:full/test"] for step in ("predict", "reason"))
    rows = ask(told, "lineage", run=predict)
    assert {(r["ancestor_run_id"], r["depth"]) for r in rows} == {(told.corpus_run, 1), (reason, 1)}
    assert [(r["step"], r["status"]) for r in ask(told, "attempts", run=predict)] == [("predict", "done")]
    texts = ask(told, "reasoning", run=reason)
    wanted = [(i, c.initial) for i, c in told.reasoned[CELLS[0], "full"].items() if not isinstance(c, Gap)]
    assert [(r["position"], r["initial"]) for r in texts] == wanted
    assert ask(told, "published") == []  # nobody has published anything on films
