"""What cannot work on this machine is said before the first step, and a plan is printed all the same."""

from __future__ import annotations

from pathlib import Path

import pytest
from pipeline_experiments import CALLS, cdner, sql, write_experiment

from cdner.confusion.descriptions import read_descriptions
from cdner.files import cache_root
from cdner.prompts import load_domain

FULL = ("full",)


@pytest.fixture(autouse=True)
def _bare_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CALLS, str(tmp_path / "calls"))
    monkeypatch.setenv("NLTK_DATA", str(cache_root() / "nltk_data"))  # WordNet is here, models are not
    monkeypatch.setenv("CDNER_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.mark.parametrize(
    ("options", "code", "complaint"),
    [
        (("--backend", "opnai"), 2, "Did you mean 'openai'"),
        (("--set", "reason.backend=openai"), 1, "Set OPENAI_API_KEY"),
        (("--n-examples", "50"), 2, "reason.n_examples = 50, but 'film' has"),
        (("--set", "reason.template=ner.v1"), 2, "not a template for reasoning texts"),
        (("--set", "reason.backend=local"), 1, "Set retries = 0"),
        (
            tuple(f"--set=describe.{key}" for key in ("backend=local", "model=embedded", "retries=0")),
            1,
            "models fetch embedded",
        ),
        (("--backbone", "encoder"), 2, "No backbone named 'encoder'"),
        (("--backbone-model", "embedded"), 1, "models fetch embedded"),
        (("--device", "gpu"), 2, "No device named 'gpu'"),
    ],
)
def test_what_cannot_work_ends_before_any_attempt(
    options: tuple[str, ...], code: int, complaint: str, tmp_path: Path
) -> None:
    store, experiment = tmp_path / "s.duckdb", write_experiment(tmp_path, settings=FULL)
    refused = cdner(store, "run", experiment, *options)
    assert refused.code == code
    assert complaint in refused.err
    assert refused.err.count("\n") == 1
    assert not store.exists()
    planned = cdner(store, "run", experiment, *options, "--dry-run", "--json")
    assert planned.code == 0
    assert "reason:full/train" in {row["step"] for row in planned.rows}
    assert f"Warning: {refused.err.removeprefix('Error: ')}" in planned.err


def test_a_verb_checks_only_the_steps_it_stands_for(tmp_path: Path) -> None:
    store = tmp_path / "s.duckdb"
    options = ("-e", write_experiment(tmp_path, settings=FULL), "--set", "reason.backend=openai")
    assert cdner(store, "describe", *options).code == 0
    refused = cdner(store, "reason", *options)
    assert (refused.code, refused.err.count("OPENAI_API_KEY")) == (1, 1)


@pytest.mark.parametrize(
    ("option", "name", "complaint"),
    [
        ("--source", "film", "corpora.source = 'film', but 'film' is a target domain"),
        ("--target", "newsdesk", "corpora.target = 'newsdesk', but 'newsdesk' is a source domain"),
        ("--target", "../../x", "is no name of a domain"),
    ],
)
def test_a_domain_must_be_one_and_of_its_role(option: str, name: str, complaint: str, tmp_path: Path) -> None:
    planned = cdner(tmp_path / "s.duckdb", "run", write_experiment(tmp_path), option, name, "--dry-run")
    assert planned.code == 2
    assert complaint in planned.err
    assert planned.err.count("\n") == 1


@pytest.mark.parametrize("section", ["reason", "describe"])
def test_replay_is_no_backend_that_wrote_texts(section: str, tmp_path: Path) -> None:
    experiment = write_experiment(tmp_path, settings=FULL)
    refused = cdner(
        tmp_path / "s.duckdb", "run", experiment, "--set", f"{section}.backend=replay", "--dry-run"
    )
    assert refused.code == 2
    assert "run with --backend replay" in refused.err
    assert refused.err.count("\n") == 1


def test_replay_needs_no_backend(tmp_path: Path) -> None:
    experiment = write_experiment(tmp_path, settings=FULL)
    options = ("--set", "reason.backend=openai", "--backend", "replay", "--dry-run")
    planned = cdner(tmp_path / "s.duckdb", "run", experiment, *options)
    assert planned.code == 0
    assert [line for line in planned.err.splitlines() if not line.startswith("Time to go: ")] == []


def test_descriptions_from_a_file_are_stored_as_imported_and_known_by_content(
    tmp_path: Path, shared_data: Path
) -> None:
    store, file = tmp_path / "s.duckdb", tmp_path / "texts.json"
    file.write_bytes((shared_data / "descriptions" / "slimer_gpt35.json").read_bytes())
    command = ("describe", "-e", write_experiment(tmp_path, settings=FULL), "--target", "politics", "--json")
    options = ("--set", "describe.backend=file", "--set", "reason.n_examples=0")
    described = cdner(store, *command, *options, "--set", f"describe.model={file}")
    assert described.code == 0, described.err
    expected = read_descriptions(file, load_domain("politics")).texts
    stored = sql(store, "SELECT entity_type, description, origin, request_id FROM type_description")
    assert sorted(stored) == sorted((name, text, "imported", None) for name, text in expected.items())
    moved = file.rename(tmp_path / "elsewhere.json")
    again = cdner(store, *command, *options, "--set", f"describe.model={moved}")
    assert [(row["run_id"], row["state"]) for row in again.rows] == [(described.rows[0]["run_id"], "found")]
    moved.write_text(moved.read_text() + "\n")
    assert cdner(store, *command, *options, "--set", f"describe.model={moved}").rows[0]["state"] == "done"
    gone = cdner(store, *command, *options, "--set", f"describe.model={file}")
    assert (gone.code, gone.err) == (
        1,
        f"Error: No file of texts at '{file}' (describe.model, reason.model).\n",
    )
