"""Every experiment that ships with cdner loads, plans without a download, and runs the same code on tiny models."""

from __future__ import annotations

import json
import socket
import zipfile
from collections import Counter
from pathlib import Path

import pytest
from golden import assert_golden
from pipeline_experiments import cdner, shared_folder, sql

from cdner.config import SETTINGS, parse_experiment
from cdner.console.experiment_options import (
    compose_experiment,
    find_experiment,
    recorded_answers,
    shipped_experiments,
)
from cdner.console.progress import StderrProgress
from cdner.experiment.plan import Plan, build_plan
from cdner.matrix import cells
from cdner.steps.context import open_context

PAPER = ("paper-flan-t5-base", "paper-flan-t5-large")
DEMO_CORPORA = {"source": "newsdesk", "target": "film"}


NEEDS_TWITTER = "table1"  # a corpus that only its user can bring


@pytest.mark.parametrize(
    ("name", "profile"),
    [
        *((name, ()) for name in sorted(shipped_experiments()) if name != NEEDS_TWITTER),
        *((name, ("--profile", "cpu")) for name in sorted(shipped_experiments())),
    ],
)
def test_a_shipped_experiment_plans_without_network_or_store(
    name: str, profile: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a plan needs no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setenv("CDNER_CACHE", str(tmp_path / "cache"))
    plan = cdner(tmp_path / "s.duckdb", "run", name, *profile, "--dry-run", "--json")
    assert plan.code == 0, plan.err
    experiment = compose_experiment(name, {"profile": profile[-1] if profile else None}, ())
    only = cells(experiment)[0].name  # of a single cell no name is printed
    planned = Counter((row.get("experiment", only), row["step"]) for row in plan.rows)
    assert max(planned.values()) == 1
    ids = [[row.get("experiment", only), row["step"], row["run_id"]] for row in plan.rows]
    assert_golden("run ids", {" ".join((name, *profile)): sorted(ids)})
    for cell in cells(experiment):
        for setting in cell.settings:
            trained = SETTINGS[setting].fused or setting  # the setting whose model's entities are fused
            made = "extract:llm_only/test" if setting == "llm_only" else f"train:{trained}"
            assert any(step == made for _, step in planned)
            assert all((cell.name, f"evaluate:{setting}/{split}") in planned for split in cell.splits)
    assert {row["state"] for row in plan.rows} == {"absent"}
    assert len({row["run_id"] for row in plan.rows}) == len(plan.rows)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", sorted(recorded_answers()))
def test_recorded_answers_are_those_of_the_experiment_as_it_ships(name: str, tmp_path: Path) -> None:
    """Every run of the plan that asks an LLM is in the bundle, under the same id, and the bundle holds no corpus."""
    store = tmp_path / "s.duckdb"
    bundle = recorded_answers()[name]
    with zipfile.ZipFile(bundle) as parts:
        assert not {"sentence.jsonl", "corpus_sentence.jsonl", "gold_entity.jsonl"} & set(parts.namelist())
    assert cdner(store, "import", "demo").code == 0  # texts are put together with the sentences they quote
    loaded = cdner(store, "bundle", "load", bundle)
    assert loaded.code == 0, loaded.err
    plan = cdner(store, "run", name, "--dry-run", "--json")
    assert plan.code == 0, plan.err
    asking = {
        row["run_id"] for row in plan.rows if row["step"].startswith(("judge:", "reason:", "describe:"))
    }
    answered = {
        run_id
        for (run_id,) in sql(
            store,
            "SELECT run_id FROM judged_mention UNION FROM reasoning SELECT run_id"
            " UNION FROM type_description SELECT run_id",
        )
    }
    assert asking
    assert asking <= answered


def test_a_corpus_that_only_the_user_has_is_asked_for(tmp_path: Path) -> None:
    plan = cdner(tmp_path / "s.duckdb", "run", NEEDS_TWITTER, "--dry-run")
    assert plan.code == 1
    assert "no corpus twitter/train" in plan.err and "cdner import conll" in plan.err


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_constants_are_in_its_experiments(name: str) -> None:
    experiment = find_experiment(name)
    for training in (experiment.train_source, experiment.train_target, experiment.train_augmented):
        assert (training.learning_rate, training.batch_size) == (1e-5, 10)
    confusion = experiment.confusion
    assert (confusion.alpha, confusion.beta, confusion.w0, confusion.delta) == (0.5, 0.5, 2.5, 1.0)
    assert (experiment.reason.n_examples, experiment.reason.model) == (10, "gpt-4o-mini")
    assert experiment.backbone.dtype == "bfloat16"  # fp16 overflows in T5


@pytest.mark.slow
@pytest.mark.parametrize(("name", "settings"), [(PAPER[0], None), (PAPER[1], ["without_all", "full"])])
def test_the_papers_experiments_run_with_a_tiny_t5(
    name: str, settings: list[str] | None, tmp_path: Path, shared_data: Path
) -> None:
    store, script = tmp_path / "s.duckdb", tmp_path / "script.jsonl"
    answer = {"initial_reasoning": "It has a name.", "bidirectional_reasoning": "It is one, not the other."}
    lines = [
        {"match": "Type to explain", "text": "A kind of thing with a name."},
        {"match": "", "text": json.dumps(answer)},
    ]
    script.write_text("".join(json.dumps(line) + "\n" for line in lines))
    small = {
        "backbone.dtype": '"float32"',
        "evidence.max_new_tokens": 8,
        "predict.max_new_tokens": 8,
        "splits": '["test"]',
        "reason.n_examples": 2,
        **{f"corpora.{name}": 3 for name in ("n_source_train", "n_source_dev", "n_target_train")},
        **{f"corpora.{name}": 2 for name in ("n_target_dev", "n_target_test")},
        **{f"train_{name}.epochs": 1 for name in ("source", "target", "augmented")},
        **({"settings": json.dumps(settings)} if settings else {}),
    }
    options = [f"--set={key}={value}" for key, value in small.items()]
    options += [
        "--backbone-model",
        str(shared_folder() / "t5"),
        "--backend",
        "scripted",
        "--model",
        str(script),
    ]
    options += ["--corpora-from", str(shared_data / "crossner"), "--device", "cpu"]
    ran = cdner(store, "run", name, *options, "--json")
    assert ran.code == 0, ran.err
    experiment = find_experiment(name)
    assert [row["setting"] for row in ran.rows] == list(settings or experiment.settings)
    assert sql(store, "SELECT count(*) FROM reasoning WHERE bidirectional = ''") == [(0,)]
    described = sql(store, "SELECT DISTINCT description, origin FROM type_description")
    assert described == [("A kind of thing with a name.", "llm")]  # no JSON reaches the embedding
    assert cdner(store, "store", "verify").code == 0


def test_what_mcqm_counts_and_what_is_scored_are_decoded_as_their_sections_say(tmp_path: Path) -> None:
    def plan_of(**sections: dict[str, str]) -> Plan:
        experiment = parse_experiment({"name": "e", "corpora": DEMO_CORPORA, **sections}, where="test")
        context = open_context(tmp_path / "none.duckdb", experiment, progress=StderrProgress(quiet=True))
        return build_plan(experiment, context)

    plain, grounded = plan_of(), plan_of(evidence={"decoding": "grounded"})
    scored = plan_of(predict={"decoding": "grounded"})
    for label, spec in ((label, step.spec) for label, step in grounded.by_label.items()):
        if label in ("predict:source/train", "predict:evidence/dev"):
            assert isinstance(spec.settings, dict)
            assert spec.settings["predict"] == {"decoding": "grounded", "max_new_tokens": 256}
    assert plain.by_label["quantify:target"].inputs["dev_predictions"] == "predict:without_all/dev"
    for plan, kept in ((grounded, "predict:without_all/test"), (scored, "train:full")):
        assert plan.by_label["quantify:target"].inputs["dev_predictions"] == "predict:evidence/dev"
        assert plan.by_label[kept].spec == plain.by_label[kept].spec
    for plan, other in ((grounded, "train:full"), (scored, "predict:without_all/test")):
        assert plan.by_label[other].spec != plain.by_label[other].spec
