"""Verdicts from end to end: what is asked, stored, resumed, packed and fused, with a tiny tagger and a recorded LLM."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from judged_stores import JUDGING, OPTIONS, SIZES, TRAINED, TYPES, experiment, finished
from pipeline_experiments import (
    CALLS,
    DIE_AFTER,
    GAPS,
    calls,
    cdner,
    copy_of,
    dump,
    ended,
    sql,
    start_cdner,
    write_experiment,
)

from cdner.store import Store
from cdner.store.predictions import load_predictions, load_type_probabilities
from cdner.verdicts import decide, fit_fusion

RESULTS = (
    "predicted_entity",
    "type_probability",
    "judged_mention",
    "shown_mention",
    "fusion_weight",
    "score",
)


@pytest.fixture(autouse=True)
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(CALLS, str(tmp_path / "calls"))
    return tmp_path / "calls"


def run_of(store: Path, label: str) -> str:
    ((run_id,),) = sql(store, f"SELECT run_id FROM experiment_run WHERE label = '{label}'")
    return str(run_id)


def test_every_predicted_mention_is_judged_once_with_what_was_shown():
    store = finished()
    for split in ("dev", "test"):
        predicted, judged = (
            run_of(store, f"predict:without_all/{split}"),
            run_of(store, f"judge:without_all/{split}"),
        )
        spans = "position, start_token, end_token"
        found = sql(store, f"SELECT {spans} FROM predicted_entity WHERE run_id = '{predicted}' ORDER BY ALL")
        asked = sql(store, f"SELECT {spans} FROM judged_mention WHERE run_id = '{judged}' ORDER BY ALL")
        assert asked == found
        assert len(found) > 5
        shown = sql(store, f"SELECT count(*) FROM shown_mention WHERE run_id = '{judged}'")
        assert shown == [(3 * len(found),)]
    assert cdner(store, "store", "verify").code == 0


def test_what_is_shown_are_gold_mentions_of_train_and_of_other_sentences():
    store = finished()
    n_shown, n_gold, n_same = sql(
        store,
        """
        SELECT count(*), count(gold.entity_type), count_if(own.sentence_id = other.sentence_id)
        FROM shown_mention AS shown
        JOIN run_input AS read ON read.run_id = shown.run_id AND read.position = 2
        JOIN corpus_sentence AS other ON other.run_id = read.input_run_id AND other.position = train_position
        LEFT JOIN gold_entity AS gold ON gold.run_id = read.input_run_id AND gold.position = train_position
             AND gold.start_token = train_start_token AND gold.end_token = train_end_token
        JOIN run_input AS asked ON asked.run_id = shown.run_id AND asked.position = 1
        JOIN corpus_sentence AS own ON own.run_id = asked.input_run_id AND own.position = shown.position
        """,
    )[0]
    assert n_shown == n_gold > 0
    assert n_same == 0


def opinions(store: Path, split: str):
    """Mentions with both opinions and their gold type, read by plain SQL and loops."""
    predicted, judged = (
        run_of(store, f"predict:without_all/{split}"),
        run_of(store, f"judge:without_all/{split}"),
    )
    of_backbone = load_type_probabilities(Store(store), predicted)
    rows = sql(
        store,
        f"""
        SELECT judged.position, judged.start_token, judged.end_token, log_probabilities, gold.entity_type
        FROM judged_mention AS judged
        JOIN prediction_corpus ON prediction_corpus.run_id = '{predicted}'
        LEFT JOIN gold_entity AS gold
          ON gold.run_id = corpus_run_id AND gold.position = judged.position
         AND gold.start_token = judged.start_token AND gold.end_token = judged.end_token
        WHERE judged.run_id = '{judged}' ORDER BY 1, 2, 3
        """,
    )
    backbone = np.array([[of_backbone[p][s, e][name] for name in TYPES] for p, s, e, _, _ in rows])
    llm = np.exp(np.array([figures for *_, figures, _ in rows]))
    return [row[:3] for row in rows], backbone, llm / llm.sum(1, keepdims=True), [row[4] for row in rows]


def fitted(backbone, llm, gold):
    kept = [row for row, name in enumerate(gold) if name is not None]
    indices = np.array([TYPES.index(gold[row]) for row in kept])
    return fit_fusion(backbone[kept], llm[kept], indices, penalty=1.0, biases=True)


def types_by_mention(store: Path, label: str):
    return {
        (position, entity.start, entity.end): entity.type
        for position, prediction in load_predictions(Store(store), run_of(store, label)).items()
        for entity in prediction.entities
    }


def test_test_is_decided_by_weights_fitted_on_all_of_dev():
    store = finished()
    _, *dev = opinions(store, "dev")
    mentions, backbone, llm, _ = opinions(store, "test")
    decided = decide(fitted(*dev), backbone, llm).argmax(1)
    fused = types_by_mention(store, "fuse:fused/test")
    assert fused == {key: TYPES[index] for key, index in zip(mentions, decided, strict=True)}
    before = types_by_mention(store, "predict:without_all/test")
    assert fused.keys() == before.keys()
    assert fused != before, "the LLM is heard"


def test_dev_is_decided_by_weights_that_have_not_seen_its_sentence():
    store = finished()
    mentions, backbone, llm, gold = opinions(store, "dev")
    positions = sorted({position for position, _, _ in mentions})
    fused = types_by_mention(store, "fuse:fused/dev")
    for fold in range(5):
        inside = [row for row, mention in enumerate(mentions) if positions.index(mention[0]) % 5 == fold]
        outside = [row for row in range(len(mentions)) if row not in inside]
        weights = fitted(backbone[outside], llm[outside], [gold[row] for row in outside])
        decided = decide(weights, backbone[inside], llm[inside]).argmax(1)
        for row, index in zip(inside, decided, strict=True):
            assert fused[tuple(mentions[row])] == TYPES[index]


def test_scores_and_comparison_know_the_setting():
    store = finished()
    ran = cdner(store, "sql", "@leaderboard", "--experiment", "judged", "--json")
    assert {row["setting"] for row in ran.rows} >= {"fused", "without_all"}
    compared = cdner(store, "compare", "judged:without_all/test", "judged:fused/test", "--resamples", "100")
    assert compared.code == 0, compared.err
    for setting, run in (("fused", "fuse:fused/test"), ("without_all", "predict:without_all/test")):
        where = ("--experiment", "judged", "--setting", setting, "--split", "test", "--kind", "spurious")
        listed = [
            (row["position"], row["mention"], row["probability"], row["runner_up"])
            for row in cdner(store, "errors", *where, "--limit", "999", "--json").rows
        ]
        known = sql(
            store,
            "SELECT position, mention, round(probability, 3), runner_up FROM predicted_entity"
            f" WHERE run_id = '{run_of(store, run)}'",
        )
        assert listed and set(listed) <= set(known)
    assert cdner(store, "sql", "@verdict_right", "--experiment", "judged", "--json").rows


def closing(store: Path, folder: Path) -> str:
    """What a run prints at its end, with runs of blanks as one."""
    ran = cdner(store, "run", experiment(folder), *OPTIONS)
    assert ran.code == 0, ran.err
    return " ".join(ran.out.replace("│", " ").split())


def test_the_end_of_a_run_says_which_differences_are_more_than_chance(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    said = closing(copy_of(finished(), tmp_path / "copy"), tmp_path)
    for split in ("dev", "test"):
        sides = [f"judged:{setting}/{split}" for setting in ("without_all", "fused")]
        compared = json.loads(cdner(finished(), "compare", *sides, "--json").out)["f1"]
        (row,) = [row for row in compared if row["metric"] == "strict"]
        figures = " ".join(f"{100 * row[name]:+.2f}" for name in ("difference", "low", "high"))
        assert f"fused {split} {figures} {row['p_value']:.4f}" in said


def test_the_end_of_a_run_shows_a_sentence_that_is_corrected(tmp_path, monkeypatch):
    """The types are ours: before, those of one sentence are wrong; after, all are right."""
    monkeypatch.setenv("COLUMNS", "120")
    store = copy_of(finished(), tmp_path / "copy")
    before, after = (run_of(store, label) for label in ("predict:without_all/test", "fuse:fused/test"))
    mentions = sql(
        store,
        f"""
        SELECT mention.position, mention.start_token, mention.end_token, gold.entity_type, gold.mention
        FROM predicted_entity AS mention
        JOIN run_input AS read ON read.run_id = mention.run_id
        JOIN gold_entity AS gold ON gold.run_id = read.input_run_id AND gold.position = mention.position
             AND gold.start_token = mention.start_token AND gold.end_token = mention.end_token
        WHERE mention.run_id = '{before}' ORDER BY ALL
        """,
    )
    place, first, last, gold_type, words = mentions[-1]
    assert mentions[0][0] != place
    wrong = next(name for name in TYPES if name != gold_type)
    with Store(store).transaction() as connection:
        for position, start, end, right, _ in mentions:
            for run in (before, after):
                name = wrong if (run, position) == (before, place) else right
                connection.execute(
                    "UPDATE predicted_entity SET entity_type = ?"
                    " WHERE run_id = ? AND position = ? AND start_token = ? AND end_token = ?",
                    [name, run, position, start, end],
                )
    said = closing(store, tmp_path)
    judged = run_of(store, "judge:without_all/test")
    ((name, share),) = sql(
        store,
        f"SELECT entity_type, probability FROM verdict WHERE run_id = '{judged}' AND rank = 1"
        f" AND position = {place} AND start_token = {first} AND end_token = {last}",
    )
    decided = f"{words}: {wrong} before, {gold_type} after; the LLM says {name} {share:.2f}, "
    assert decided in said, said[-900:]
    assert said.count(" before, ") == sum(row[0] == place for row in mentions)


def test_the_views_agree_with_the_tables():
    store = finished()
    judged = run_of(store, "judge:without_all/test")
    mentions, _, llm, gold = opinions(store, "test")
    rows = sql(
        store,
        "SELECT position, start_token, end_token, entity_type, probability, rank FROM verdict"
        f" WHERE run_id = '{judged}'",
    )
    stored = {(row[:3], row[3]): row[4:] for row in rows}
    for mention, shares in zip(mentions, llm, strict=True):
        for rank, index in enumerate(np.argsort(-shares, kind="stable"), start=1):
            probability, its_rank = stored[mention, TYPES[index]]
            assert probability == pytest.approx(shares[index])
            assert its_rank == rank
    before = types_by_mention(store, "predict:without_all/test")
    of_llm = [TYPES[index] for index in llm.argmax(1)]
    expected = [0, 0, 0, 0]
    for mention, said, right in zip(mentions, of_llm, gold, strict=True):
        if right is not None:
            expected[2 * (before[tuple(mention)] != right) + (said != right)] += 1
    sums = sql(
        store,
        "SELECT sum(n_both), sum(n_backbone_only), sum(n_llm_only), sum(n_neither) FROM verdict_right"
        f" WHERE run_id = '{judged}'",
    )
    assert list(sums[0]) == expected


def test_a_second_run_asks_nothing_and_a_dry_run_says_so(tmp_path):
    store = copy_of(finished(), tmp_path / "again")
    again = cdner(store, "run", experiment(tmp_path), *OPTIONS)
    assert again.code == 0, again.err
    assert calls() == []
    plan = cdner(store, "judge", "-e", experiment(tmp_path), *OPTIONS, "--dry-run", "--json")
    assert {row["state"] for row in plan.rows} == {"done"}


def test_after_a_kill_no_mention_is_asked_about_twice(tmp_path):
    store = tmp_path / "s.duckdb"
    arguments = ("run", experiment(tmp_path), *OPTIONS)
    first = start_cdner(store, *arguments, log=tmp_path / "log", **{DIE_AFTER: "7"})
    assert ended(first) == -9
    assert len(calls()) == 8
    assert cdner(store, *arguments).code == 0
    # The one that was on its way when the process died is asked about again; the others are not.
    assert len(calls()) <= len(set(calls())) + 1
    assert dump(store, tables=RESULTS) == dump(finished(), tables=RESULTS)


def test_a_mention_without_an_answer_keeps_its_type_and_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv(GAPS, "Entity")
    store = copy_of(finished(), tmp_path / "gaps")
    other = experiment(tmp_path, seed=1)
    ran = cdner(store, "run", other, *OPTIONS)
    assert ran.code == 0, ran.err
    assert "mentions have no verdict: the server was busy" in ran.err
    ((n, n_gaps),) = sql(
        store,
        "SELECT count(*), count(gap_reason) FROM judged_mention WHERE run_id ="
        f" '{run_of(store, 'judge:without_all/test')}'",
    )
    assert n == n_gaps > 0
    assert types_by_mention(store, "fuse:fused/test") == types_by_mention(store, "predict:without_all/test")


def test_a_bundle_without_the_corpus_holds_the_verdicts_and_no_sentence(tmp_path):
    bundle = tmp_path / "judged.zip"
    packed = cdner(finished(), "bundle", "pack", bundle, "--experiment", "judged")
    assert packed.code == 0, packed.err
    with zipfile.ZipFile(bundle) as archive:
        content = b"\n".join(archive.read(name) for name in archive.namelist()).decode()
    assert "judged_mention" in content
    texts = [text for (text,) in sql(finished(), "SELECT text FROM sentence")]
    assert not [text for text in texts if len(text) > 20 and text in content]
    questions = sql(finished(), "SELECT text FROM prompt_text WHERE text LIKE '%Entity: %'")
    assert len(questions) > 10
    windows = {line for (text,) in questions for line in text.splitlines() if line.startswith("Sentence: ")}
    assert not [line for line in windows if line.removeprefix("Sentence: ") in content]

    store = tmp_path / "new" / "s.duckdb"
    store.parent.mkdir()
    corpora = ('--set=splits=["dev", "test"]', *SIZES, *TRAINED)
    assert cdner(store, "run", experiment(tmp_path), *corpora, "--until", "predict").code == 0
    loaded = cdner(store, "bundle", "load", bundle)
    assert loaded.code == 0, loaded.err
    replayed = cdner(store, "run", experiment(tmp_path), *corpora, "--backend", "replay")
    assert replayed.code == 0, replayed.err
    assert calls() == []
    tables = ("predicted_entity", "fusion_weight", "score")
    assert dump(store, tables=tables) == dump(finished(), tables=tables)
    assert cdner(store, "store", "verify").code == 0


def test_a_share_asks_about_the_least_sure_ones_by_devs_quantile(tmp_path):
    store = copy_of(finished(), tmp_path / "share")
    ran = cdner(store, "run", experiment(tmp_path, share=0.4), *OPTIONS)
    assert ran.code == 0, ran.err
    assert calls() == [], "the questions are those that were asked before"

    def how_sure(split: str):
        found = load_type_probabilities(Store(store), run_of(store, f"predict:without_all/{split}"))
        return {
            (p, *span): max(shares.values()) for p, spans in found.items() for span, shares in spans.items()
        }

    threshold = np.quantile(list(how_sure("dev").values()), 0.4)
    for split in ("dev", "test"):
        asked = sql(
            store,
            "SELECT position, start_token, end_token FROM judged_mention WHERE run_id ="
            f" '{run_of(store, f'judge:without_all/{split}')}'",
        )
        assert set(asked) == {mention for mention, sure in how_sure(split).items() if sure <= threshold}
        assert 0 < len(asked) < len(how_sure(split))


def test_mentions_of_a_sentence_can_be_asked_about_behind_the_same_words(tmp_path, monkeypatch):
    from cdner.steps import judging

    monkeypatch.setattr(judging, "LIKENESS_AT_ONCE", 1)  # no part of the search cuts a sentence
    store = copy_of(finished(), tmp_path / "together")
    ran = cdner(store, "run", experiment(tmp_path, neighbours_of="sentence", template="judge.v2"), *OPTIONS)
    assert ran.code == 0, ran.err
    shown = sql(
        store,
        """
        SELECT position, count(DISTINCT start_token), count(DISTINCT shown)
        FROM (
            SELECT position, start_token,
                   list((train_position, train_start_token, train_end_token) ORDER BY place) AS shown
            FROM shown_mention
        """
        f"    WHERE run_id = '{run_of(store, 'judge:without_all/test')}' GROUP BY ALL) GROUP BY position",
    )
    assert max(n_mentions for _, n_mentions, _ in shown) > 1
    assert {n_lists for *_, n_lists in shown} == {1}
    heads = sql(
        store,
        """
        SELECT asked.position, prompt_text.text, gold.text
        FROM judged_mention AS asked
        JOIN request_message AS message USING (request_id) JOIN prompt_text USING (text_id)
        JOIN run_input AS read ON read.run_id = asked.run_id AND read.position = 1
        JOIN corpus_sentence AS place ON place.run_id = read.input_run_id AND place.position = asked.position
        JOIN sentence AS gold USING (sentence_id)
        """
        f" WHERE asked.run_id = '{run_of(store, 'judge:without_all/test')}' AND message.role = 'user'",
    )
    same = {(position, text.rpartition("\nEntity: ")[0]) for position, text, _ in heads}
    assert len(same) == len({position for position, *_ in heads})
    assert all(text.rpartition("\nEntity: ")[0].endswith(f"Sentence: {whole}") for _, text, whole in heads)
    # Fewer mentions are asked about in the same words.
    n_before = len(calls())
    fewer = experiment(tmp_path, neighbours_of="sentence", template="judge.v2", share=0.4)
    assert cdner(store, "run", fewer, *OPTIONS).code == 0
    assert len(calls()) == n_before > 0


def test_rivals_are_the_types_that_are_taken_for_the_predicted_one(tmp_path):
    store = copy_of(finished(), tmp_path / "rivals")
    ran = cdner(store, "run", experiment(tmp_path, candidates="rivals", n_rivals=2), *OPTIONS)
    assert ran.code == 0, ran.err
    predicted = types_by_mention(store, "predict:without_all/test")
    rows = sql(
        store,
        "SELECT position, start_token, end_token, candidates FROM judged_mention WHERE run_id ="
        f" '{run_of(store, 'judge:without_all/test')}'",
    )
    confusion = sql(
        store,
        "SELECT confused_type, gold_type FROM confusion WHERE dimension = 'v_conf' AND score IS NOT NULL"
        " ORDER BY score DESC, gold_position",
    )
    for *mention, candidates in rows:
        name = predicted[tuple(mention)]
        taken_for_it = [gold for confused, gold in confusion if confused == name][:2]
        assert set(candidates) == {name, *taken_for_it}
        assert candidates == [name for name in TYPES if name in candidates]


def test_predictions_without_probabilities_cannot_be_fused_and_the_message_says_how(tmp_path):
    path = write_experiment(tmp_path, "causal", name="plain", settings=("fused",))
    path.write_text(path.read_text() + JUDGING.replace("neighbours = 3", "neighbours = 0"))
    ran = cdner(
        tmp_path / "s.duckdb", "run", path, "--set=train_target.epochs=0", "--set=train_source.epochs=0"
    )
    assert ran.code == 1
    assert "predict.confidence=true" in ran.err


def test_a_replay_goes_on_without_mentions_that_are_not_recorded(tmp_path):
    store = copy_of(finished(), tmp_path / "part")
    judged, fused = run_of(store, "judge:without_all/test"), run_of(store, "fuse:fused/test")
    mentions = sql(
        store, f"SELECT position, start_token, end_token FROM judged_mention WHERE run_id = '{judged}'"
    )
    lost = min(mentions)
    with Store(store).transaction() as connection:
        for table in ("judged_mention", "shown_mention"):
            connection.execute(
                f"DELETE FROM {table} WHERE run_id = ? AND (position, start_token, end_token) = (?, ?, ?)",
                [judged, *lost],
            )
        connection.execute(
            "UPDATE attempt SET status = 'interrupted' WHERE run_id IN (?, ?)", [judged, fused]
        )
    ran = cdner(store, "run", experiment(tmp_path), *OPTIONS, "--backend", "replay")
    assert ran.code == 0, ran.err
    assert calls() == []
    assert f"1 of {len(mentions)} mentions have no verdict: not recorded, and no LLM was asked (1)" in ran.err
    before = types_by_mention(store, "predict:without_all/test")
    assert types_by_mention(store, "fuse:fused/test")[lost] == before[lost]


def test_a_replay_without_any_verdict_says_where_they_come_from(tmp_path):
    store = tmp_path / "s.duckdb"
    options = (*OPTIONS, "--backend", "replay")
    ran = cdner(store, "run", experiment(tmp_path), *options)
    assert ran.code == 1
    assert "the store has no verdict of this run. Load a bundle" in ran.err


def test_recorded_answers_come_with_an_experiment_and_no_llm_is_asked(tmp_path, monkeypatch):
    bundle, path = tmp_path / "recorded.zip", experiment(tmp_path)
    assert cdner(finished(), "bundle", "pack", bundle, "--experiment", "judged").code == 0
    store = tmp_path / "new" / "s.duckdb"
    store.parent.mkdir()
    unknown = cdner(store, "run", path, *OPTIONS, "--recorded")
    assert unknown.code == 2
    assert "No answers are recorded for" in unknown.err
    monkeypatch.setattr("cdner.cli.run.recorded_answers", lambda: {str(path): bundle})
    for _ in range(2):  # again finds it all
        ran = cdner(store, "run", path, *OPTIONS, "--recorded")
        assert ran.code == 0, ran.err
        assert calls() == []
    tables = ("predicted_entity", "fusion_weight", "score")
    assert dump(store, tables=tables) == dump(finished(), tables=tables)
