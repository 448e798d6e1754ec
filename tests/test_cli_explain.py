"""``cdner explain`` by its command line: what is printed, what JSON holds, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pipeline_experiments import (
    CALLS,
    calls,
    cdner,
    copy_of,
    finished_store,
    shared_folder,
    sql,
    write_experiment,
)

HOSTILE = "\x1b[31mMara Holt\x1b[0m filmed [bold]Oslo[/bold]."


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy: explanations are added to it."""
    return copy_of(finished_store("seq2seq"), tmp_path_factory.mktemp("explained"))


@pytest.fixture(autouse=True)
def _log_of_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared_folder()
    monkeypatch.setenv(CALLS, str(tmp_path / "calls"))


def test_json_holds_everything_and_the_second_time_nobody_is_asked(store):
    command = ("explain", "--sentence", "Mara Holt's film won.", "--target", "film", "--json")
    first, second = (cdner(store, *command) for _ in range(2))
    assert (first.code, second.code) == (0, 0), first.err
    found, again = json.loads(first.out), json.loads(second.out)
    assert len(calls()) == 1
    assert found["tokens"] == ["Mara", "Holt", "'s", "film", "won", "."]
    assert (found["source"], found["target"], found["setting"]) == ("newsdesk", "film", "full")
    assert len(found["types"]) == 11
    assert found["prompt"][-1]["content"].count("Mara Holt 's film won .") == 1
    assert found["reasoning"]["initial"].startswith("The initial_reasoning of text")
    assert [one["reasoning"].pop("was_stored") for one in (found, again)] == [False, True]
    assert found.pop("seconds").keys() == again.pop("seconds").keys()
    for one in (found, again):
        one["reasoning"]["completion"].pop("seconds")
    assert found == again


def test_the_steps_are_printed_in_their_order_and_the_prompt_is_shortened(store):
    ran = cdner(store, "explain", "--sentence", "Mara Holt's film won.", "-e", "tiny", "--setting", "full")
    assert ran.code == 0, ran.err
    titles = (
        *("newsdesk -> film, full, run ", "6 tokens: Mara Holt 's film won .", "Coarse types (M_src)"),
        *(
            "Target types: prefix",
            "Prompt (",
            "characters ...]",
            "Reasoning by listener (",
            "Initial reasoning: The",
        ),
        *("Bidirectional reasoning: The", "without reasoning (M_tgt)", "What changed (", "Time: M_src"),
    )
    places = [ran.out.index(title) for title in titles]
    assert places == sorted(places)
    assert "M_aug ..." in ran.err


def test_the_reasoning_is_shown_while_it_is_written_and_not_when_quiet(store):
    asked = ("explain", "-e", "tiny", "--sentence")
    ran = cdner(store, *asked, "Greta left early.")
    assert '"initial_reasoning": "The initial_reasoning of text' in ran.err
    assert '"initial_reasoning": "The' not in ran.out
    quiet = cdner(store, "--quiet", *asked, "Greta left late.")
    assert quiet.code == 0 and quiet.err == ""
    again = cdner(store, *asked, "Greta left early.")  # from the store: nobody writes
    assert '"initial_reasoning"' not in again.err


def test_the_whole_prompt_is_what_is_stored(store):
    ran = cdner(store, "explain", "--sentence", "Mara Holt's film won.", "-e", "tiny", "--prompt")
    texts = sql(
        store,
        "SELECT DISTINCT text FROM prompt_text JOIN request_message USING (text_id)"
        " JOIN run ON request_id = settings ->> 'request_id' WHERE step = 'explain'",
    )
    assert texts
    assert all(text in ran.out for (text,) in texts if "Mara" in text or "expert" in text)
    assert "characters ...]" not in ran.out


def test_control_characters_of_a_sentence_do_nothing_in_a_terminal(store):
    ran = cdner(store, "explain", "--sentence", HOSTILE, "--tokens", "-e", "tiny", "--prompt")
    assert ran.code == 0, ran.err
    assert "\x1b" not in ran.out + ran.err
    assert "tokens: \\x1b[31mMara Holt\\x1b[0m filmed" in ran.out
    assert "[bold]Oslo[/bold]." in ran.out


def test_a_sentence_of_tokens_is_cut_at_white_space_alone(store):
    ran = cdner(store, "explain", "--sentence", "Mara's film, won.", "--tokens", "-e", "tiny", "--json")
    assert json.loads(ran.out)["tokens"] == ["Mara's", "film,", "won."]


def test_a_run_is_named_as_everywhere(store):
    command = ("explain", "--sentence", "Mara Holt's film won.", "--json")
    by_label = cdner(store, *command, "--run", "tiny:without_initial/test")
    found = json.loads(by_label.out)
    assert found["setting"] == "without_initial"
    by_id = cdner(store, *command, "--run", found["runs"]["prediction"][:10])
    assert json.loads(by_id.out)["runs"] == found["runs"]


@pytest.mark.parametrize(
    ("options", "code", "told"),
    [
        (("--sentence", " "), 2, "--sentence is empty"),
        (("--sentence", "\udcff"), 2, "not valid UTF-8"),
        (
            ("--sentence", "x", "--target", "politics"),
            1,
            "no finished predictions of the setting 'full' on politics",
        ),
        (
            ("--sentence", "x", "-e", "tinny"),
            2,
            "No experiment in the store named 'tinny'. Did you mean 'tiny'?",
        ),
        (
            ("--sentence", "x", "-e", "tiny", "--target", "ai"),
            2,
            "Experiment 'tiny' reads film, newsdesk, not 'ai'",
        ),
        (("--sentence", "x", "--run", "tiny:full/test", "-e", "tiny"), 2, "--run says it all"),
        (("--sentence", "x", "--run", "tiny:full/test", "--target", "ai"), 2, "predicts film"),
        (("--sentence", "x", "--run", "tiny:without_all/test"), 2, "predicts without reasoning texts"),
        (("--sentence", "x", "--set", "confusion.alpha=1"), 2, "only execution.* is free"),
        (("--sentence", "Nobody asked", "--backend", "replay"), 1, "not in the store"),
    ],
)
def test_what_cannot_be_explained_is_one_line(store, options, code, told):
    ran = cdner(store, "--quiet", "explain", *options)
    assert ran.code == code, ran.err
    assert told in ran.err
    assert len(ran.err.splitlines()) == 1
    assert calls() == []


def test_without_a_store_there_is_nothing_to_explain_with(tmp_path):
    ran = cdner(tmp_path / "none.duckdb", "explain", "--sentence", "x")
    assert (ran.code, ran.err.count("\n")) == (1, 1)
    assert "cdner run EXPERIMENT" in ran.err
    assert not (tmp_path / "none.duckdb").exists()


def test_an_experiment_file_stands_for_its_name(store, tmp_path):
    path = write_experiment(tmp_path)
    ran = cdner(store, "explain", "--sentence", "Mara Holt's film won.", "-e", path, "--json")
    assert json.loads(ran.out)["experiments"] == ["tiny"]
