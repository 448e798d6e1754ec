"""Settings: the paper's constants, strictness at every level, one identity for equal settings."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from cdner import config
from cdner.config import (
    REASONING_SETTINGS,
    REMOVED,
    Confusion,
    Experiment,
    Llm,
    Settings,
    load_experiment,
    parse_experiment,
)
from cdner.errors import UsageError
from cdner.files import content_hash, resource_root
from cdner.prompts.domains import load_domain
from cdner.registry import names

SHIPPED = sorted(resource_root("experiments").glob("*.toml"))
PAPER = [path for path in SHIPPED if path.stem.startswith("paper-")]
SECTIONS = [
    name
    for name, field in Experiment.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
]


def _parse(**table: object) -> Experiment:
    return parse_experiment({"name": "x", **table}, where="here")


def _refused(**table: object) -> str:
    with pytest.raises(UsageError) as caught:
        _parse(**table)
    message = str(caught.value)
    assert message.startswith("here: ")
    assert "\n" not in message
    return message


# --- the paper --------------------------------------------------------------------------------------------


def test_defaults_are_the_constants_of_b2() -> None:
    experiment = Experiment(name="x")
    for stage in (experiment.train_source, experiment.train_target, experiment.train_augmented):
        assert (stage.learning_rate, stage.batch_size) == (1e-5, 10)
    scores = experiment.confusion
    assert (scores.alpha, scores.beta, scores.delta, scores.w0) == (0.5, 0.5, 1.0, 2.5)
    assert scores.rivals == "top1"
    assert experiment.reason.n_examples == 10
    assert experiment.reason.model == experiment.describe.model == "gpt-4o-mini"


@pytest.mark.parametrize("path", PAPER, ids=lambda path: path.stem)
def test_paper_files_write_the_constants_of_b2_out(path: Path) -> None:
    """Read as plain TOML: a default that changes later must not change what these files say."""
    table: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    for stage in ("train_source", "train_target", "train_augmented"):
        assert table[stage]["learning_rate"] == 1e-5
        assert table[stage]["batch_size"] == 10
    assert table["confusion"] == {"alpha": 0.5, "beta": 0.5, "delta": 1.0, "w0": 2.5}
    assert table["reason"]["n_examples"] == 10
    assert table["reason"]["model"] == table["describe"]["model"] == "gpt-4o-mini"
    assert table["backbone"]["model"] == f"google/{path.stem.removeprefix('paper-')}"


def test_paper_files_effective_batch_is_the_papers() -> None:
    assert {path.stem for path in PAPER} == {"paper-flan-t5-base", "paper-flan-t5-large"}
    for path in PAPER:
        experiment = load_experiment(path)
        for stage in (experiment.train_source, experiment.train_target, experiment.train_augmented):
            assert stage.batch_size * stage.gradient_accumulation == 10
        assert {"without_all", *REASONING_SETTINGS} == set(experiment.settings)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_experiment_loads_under_its_name_with_known_parts(path: Path) -> None:
    experiment = load_experiment(path)
    assert experiment.name == path.stem
    assert experiment.backbone.family in names("backbone")
    assert {experiment.reason.backend, experiment.describe.backend} <= set(names("backend"))
    assert load_domain(experiment.corpora.source).role == "source"
    assert load_domain(experiment.corpora.target).role == "target"


def test_experiments_are_shipped() -> None:
    assert {"demo", "crossner-ai-cpu", "paper-flan-t5-base", "paper-flan-t5-large"} <= {
        path.stem for path in SHIPPED
    }


# --- strictness -------------------------------------------------------------------------------------------


def test_unknown_section_suggests_the_nearest() -> None:
    message = _refused(corprora={})
    assert "unknown key 'corprora'. Did you mean 'corpora'? Known: backbone, confusion, corpora," in message


@pytest.mark.parametrize("section", SECTIONS)
def test_unknown_key_suggests_the_nearest_in_every_section(section: str) -> None:
    known = sorted(getattr(Experiment(name="x"), section).model_dump())
    for key in known:
        message = _refused(**{section: {f"{key}x": 1}})
        assert f"unknown key '{section}.{key}x'. Did you mean '{key}'? Known: {', '.join(known)}." in message


def test_a_removed_setting_says_what_to_do_instead() -> None:
    for key, instead in REMOVED.items():
        section, _, name = key.partition(".")
        assert f"'{key}' is no setting any more. {instead}" in _refused(**{section: {name: True}})


def test_unknown_key_far_from_all_gets_no_suggestion() -> None:
    assert _refused(confusion={"zzzz": 1}).startswith(
        "here: unknown key 'confusion.zzzz'. Known: alpha, beta,"
    )


def test_missing_name_is_said_without_the_whole_table() -> None:
    with pytest.raises(UsageError) as caught:
        parse_experiment({"description": "nobody wants to read this here"}, where="here")
    assert str(caught.value) == "here: 'name' is missing."


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("confusion", "alpha", "0.5"),
        ("confusion", "alpha", True),
        ("confusion", "alpha", -0.1),
        ("confusion", "w0", 0),
        ("confusion", "w0", float("inf")),
        ("confusion", "margin", float("nan")),
        ("confusion", "rivals", "top2"),
        ("train_target", "epochs", 1.0),
        ("train_target", "epochs", True),
        ("train_target", "batch_size", 0),
        ("train_target", "batch_size", "10"),
        ("train_target", "learning_rate", 0.0),
        ("train_target", "warmup_ratio", 1),
        ("backbone", "dtype", "float16"),
        ("backbone", "model", 5),
        ("reason", "structured", 1),
        ("reason", "structured", "true"),
        ("predict", "decoding", ["free"]),
        ("execution", "timeout_seconds", 0),
    ],
)
def test_wrong_value_is_refused_with_its_place_and_itself(section: str, key: str, value: object) -> None:
    message = _refused(**{section: {key: value}})
    assert f"'{section}.{key}': " in message
    assert "(got " in message


def test_settings_that_do_not_go_together_are_refused_in_words() -> None:
    with pytest.raises(UsageError) as caught:
        parse_experiment({"name": "x", "judge": {"neighbours_of": "sentence"}}, where="x.toml")
    said = "'judge': neighbours_of = 'sentence' takes template = 'judge.v2' or a later one"
    assert str(caught.value) == f"x.toml: {said}."


def test_value_where_a_section_belongs_is_refused() -> None:
    assert "'corpora': " in _refused(corpora="ai")
    assert "'corpora': " in _refused(corpora=[{"target": "ai"}])


def test_half_precision_does_not_exist() -> None:
    """Flan-T5 overflows in fp16 (B.2)."""
    assert "'auto', 'bfloat16' or 'float32' (got 'float16')" in _refused(backbone={"dtype": "float16"})


def test_settings_cannot_be_changed_afterwards() -> None:
    experiment = _parse()
    with pytest.raises(ValidationError, match="frozen"):
        experiment.confusion.alpha = 1.0  # type: ignore[misc]


# --- arrays -----------------------------------------------------------------------------------------------


def test_arrays_become_tuples() -> None:
    experiment = _parse(settings=["full"], splits=["test"])
    assert experiment.settings == ("full",)
    assert experiment.splits == ("test",)


def test_item_of_an_array_is_refused_with_its_number() -> None:
    assert "'settings.1': " in _refused(settings=["full", "fulll"])
    assert "'splits.0': " in _refused(splits=["train"])


def test_arrays_become_tuples_at_every_depth(monkeypatch: pytest.MonkeyPatch) -> None:
    class Inner(Settings):
        layers: tuple[tuple[int, ...], ...]

    class Outer(Settings):
        name: str
        inner: Inner
        many: tuple[Inner, ...] = ()

    monkeypatch.setattr(config, "Experiment", Outer)
    read = parse_experiment(
        tomllib.loads('name="x"\ninner={layers=[[1],[2]]}\nmany=[{layers=[[3]]}]'), where="here"
    )
    assert read.model_dump() == {
        "name": "x",
        "inner": {"layers": ((1,), (2,))},
        "many": ({"layers": ((3,),)},),
    }


def test_what_was_parsed_parses_again() -> None:
    """Flags are laid over a dumped experiment, so a dump must be valid input."""
    experiment = _parse(settings=["full"], confusion={"alpha": 1})
    assert parse_experiment(experiment.model_dump(mode="python"), where="here") == experiment


# --- identity ---------------------------------------------------------------------------------------------


def test_one_and_one_point_zero_are_the_same_setting() -> None:
    one, other = (_parse(confusion={"alpha": alpha}).confusion for alpha in (1, 1.0))
    assert content_hash(one.identity()) == content_hash(other.identity())
    assert isinstance(one.alpha, float)


def test_stating_a_default_changes_nothing() -> None:
    stated = _parse(confusion={"alpha": 0.5, "rivals": "top1"}).confusion
    assert content_hash(stated.identity()) == content_hash(Confusion().identity())


@pytest.mark.parametrize("section", SECTIONS)
def test_empty_section_is_the_default_section(section: str) -> None:
    assert getattr(_parse(**{section: {}}), section) == getattr(_parse(), section)


def test_one_key_of_describe_leaves_its_other_defaults() -> None:
    describe = _parse(describe={"model": "other"}).describe
    assert (describe.model, describe.max_tokens, describe.structured) == ("other", 160, False)


@pytest.mark.parametrize(
    ("key", "value"),
    [("alpha", 0.6), ("beta", 0.6), ("delta", 2.0), ("w0", 3.0), ("rivals", "adaptive"), ("margin", 0.5)],
)
def test_every_changed_setting_changes_the_identity(key: str, value: object) -> None:
    changed = _parse(confusion={key: value}).confusion
    assert content_hash(changed.identity()) != content_hash(Confusion().identity())


# --- files ------------------------------------------------------------------------------------------------


def _message_of(path: Path) -> str:
    with pytest.raises(UsageError) as caught:
        load_experiment(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_broken_toml_names_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "broken.toml"
    path.write_text('name = "x"\n\n[corpora]\nsource = conll\n', encoding="utf-8")
    assert f"{path} is not valid TOML: " in _message_of(path)
    assert "line 4" in _message_of(path)


def test_key_given_twice_is_broken_toml(tmp_path: Path) -> None:
    path = tmp_path / "twice.toml"
    path.write_text('name = "x"\nname = "y"\n', encoding="utf-8")
    assert "line 2" in _message_of(path)


def test_wrong_key_in_a_file_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "typo.toml"
    path.write_text('name = "x"\n[train_target]\nepoch = 3\n', encoding="utf-8")
    assert _message_of(path).startswith(f"{path}: unknown key 'train_target.epoch'. Did you mean 'epochs'?")


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    latin = tmp_path / "latin.toml"
    latin.write_bytes(b'name = "caf\xe9"\n')
    for path in (tmp_path / "absent.toml", tmp_path, latin):
        assert _message_of(path).startswith(f"Cannot read experiment {path}: ")


def test_no_retries_leave_the_identity_of_runs_made_before_there_were_any() -> None:
    known = {"backend", "model", "max_tokens", "temperature", "seed", "structured"}
    identity = Llm(retries=0).identity()
    assert isinstance(identity, dict) and set(identity) == known
    assert Llm(retries=1).identity() == identity | {"retries": 1}


def test_an_experiment_takes_from_the_one_it_extends_what_it_does_not_say(tmp_path: Path) -> None:
    (tmp_path / "base.toml").write_text(
        'name = "base"\nsettings = ["full"]\n[train_target]\nepochs = 3\nbatch_size = 5\n', encoding="utf-8"
    )
    own = tmp_path / "own.toml"
    own.write_text('extends = "base"\nname = "own"\n[train_target]\nepochs = 4\n', encoding="utf-8")
    experiment = load_experiment(own)
    assert (experiment.name, experiment.settings) == ("own", ("full",))
    assert (experiment.train_target.epochs, experiment.train_target.batch_size) == (4, 5)


@pytest.mark.parametrize(
    ("base", "complaint"),
    [
        ('"gone"', "Cannot read experiment .*gone.toml"),
        ('"../base"', "no name of an experiment beside it"),
        ("3", "no name of an experiment beside it"),
        ('"own"', "only one step is followed"),
    ],
)
def test_what_cannot_be_extended_is_refused(tmp_path: Path, base: str, complaint: str) -> None:
    own = tmp_path / "own.toml"
    own.write_text(f'extends = {base}\nname = "own"\n', encoding="utf-8")
    with pytest.raises(UsageError, match=complaint):
        load_experiment(own)
