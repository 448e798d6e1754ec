"""The frame of the command line: what it imports, how errors and interrupts leave it, where options come from."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest
from cli_stores import finish_run, start_cdner

from cdner import cli
from cdner.cli import COMMANDS, run_cli
from cdner.errors import BackendError, InputError, PartialError, StoreError, UsageError
from cdner.store import Store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("main") / "cdner.duckdb"
    finish_run(Store(path), "import")
    return path


HEAVY = ("torch", "transformers", "nltk", "duckdb", "pydantic", "rich", "openai", "peft", "jinja2", "numpy")


def imported_by(*arguments: str) -> set[str]:
    """Which of the heavy modules a command line imports, asked in a fresh interpreter."""
    code = (
        "import sys; from cdner.cli import run_cli; code = run_cli(sys.argv[1:]);"
        f" print(code, *[name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True, timeout=60
    )
    code_text, *names = done.stderr.splitlines()[-1].split()
    assert code_text == "0", done.stderr
    return set(names)


def test_help_imports_nothing_heavy():
    assert imported_by("--help") == set()


def test_sql_imports_no_model_library(store):
    names = imported_by("--store", str(store), "sql", "SELECT 1")
    assert names.isdisjoint({"torch", "transformers", "nltk", "openai", "peft"})


@pytest.mark.parametrize("arguments", [("backends",), ("prompts", "list"), ("models",), ("run", "--list")])
def test_a_light_command_imports_no_model_library(arguments):
    assert imported_by(*arguments).isdisjoint({"torch", "transformers", "duckdb", "openai", "peft"})


def test_help_answers_at_once():
    """0.3 s is the aim on an idle machine; the bound allows for a busy one. Torch alone would take longer."""
    seconds = []
    for _ in range(3):
        started = time.monotonic()
        subprocess.run([sys.executable, "-m", "cdner", "--help"], capture_output=True, check=True)
        seconds.append(time.monotonic() - started)
    assert min(seconds) < 1.0


def test_help_lists_every_command(capsys):
    assert run_cli(["--help"]) == 0
    out = capsys.readouterr().out
    listed = [line.split()[0] for line in out.partition("Commands:")[2].splitlines() if line[:3].strip(" ")]
    assert [name for name in COMMANDS if f"\n  {name} " in out] == list(COMMANDS), listed


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_command_answers_help(name, capsys):
    assert run_cli([name, "--help"]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith(f"Usage: cdner {name}")
    assert captured.err == ""


def test_no_command_shows_the_help_as_it_is_and_counts_as_wrong_usage(capsys):
    assert run_cli([]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines()[0].startswith("Usage: cdner")
    assert run_cli(["corpora-"]) == 2


def test_version_names_the_program(capsys):
    assert run_cli(["--version"]) == 0
    assert capsys.readouterr().out.startswith("cdner, version ")


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["confusoin"], "Did you mean 'confusion'?"),
        (["confusion", "shwo"], "Did you mean 'show'?"),
        (["runs", "--stp", "import"], "--step"),
        (["runs", "--step", "imprt"], "Did you mean 'import'?"),
        (["models", "fetch", "embeded"], "Did you mean 'embedded'?"),
        (["import", "crossner", "--domain", "politcs"], "Did you mean 'politics'?"),
        (["errors", "x", "--kind", "typ"], "'type'"),
        (["run", "demo", "--in-process"], "--in-process is no option any more. vLLM runs as a server"),
    ],
)
def test_an_unknown_name_gets_a_suggestion_on_one_line_and_exit_code_2(arguments, wanted, capsys):
    assert run_cli(arguments) == 2
    captured = capsys.readouterr()
    assert wanted in captured.err
    assert captured.err.startswith("Error: ")
    assert captured.err.count("\n") == 1
    assert captured.out == ""


GROUPS = ("batches", "bundle", "confusion", "corpora", "import", "models", "prompts", "store")


@pytest.mark.parametrize("path", [(), *((name,) for name in GROUPS)])
def test_an_unknown_command_of_any_group_is_answered_as_at_the_top(path, capsys):
    group = cli.cli
    for name in path:
        group = group.get_command(click.Context(group), name)
    known = group.list_commands(click.Context(group))
    for wrong, guess in (("zzzzzz", ""), (f"{known[0]}x", f" Did you mean '{known[0]}'?")):
        assert run_cli([*path, wrong]) == 2
        captured = capsys.readouterr()
        assert captured.err == (
            f"Error: No command named '{wrong}'.{guess} Known: {', '.join(sorted(known))}.\n"
        )
        assert captured.out == ""


def test_every_group_is_among_those_asked_for_an_unknown_command():
    context = click.Context(cli.cli)
    found = [name for name in COMMANDS if isinstance(cli.cli.get_command(context, name), click.Group)]
    assert sorted(found) == sorted(GROUPS)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InputError("a\nb \x1b[31mc"), 1),
        (StoreError("x"), 1),
        (BackendError("x"), 1),
        (UsageError("x"), 2),
        (PartialError("x"), 3),
        (KeyboardInterrupt(), 130),
    ],
)
def test_every_expected_failure_is_one_line_and_its_exit_code(error, code, capsys, monkeypatch):
    @click.command("backends")
    def failing() -> None:
        raise error

    monkeypatch.setattr("cdner.cli.backends.COMMANDS", {"backends": failing})
    assert run_cli(["backends"]) == code
    captured = capsys.readouterr()
    assert captured.err.startswith("Error: ")
    assert captured.err.count("\n") == 1
    assert "\x1b" not in captured.err
    assert captured.out == ""


def test_a_fault_of_ours_keeps_its_traceback(monkeypatch):
    @click.command("backends")
    def failing() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("cdner.cli.backends.COMMANDS", {"backends": failing})
    with pytest.raises(ZeroDivisionError):
        run_cli(["backends"])


def test_an_interrupt_ends_with_130_and_one_line(store):
    endless = "SELECT count(*) FROM range(1000000) a, range(1000000) b WHERE hash(a.range + b.range) = 1"
    child = start_cdner("--store", store, "sql", endless, "--seconds", 60)
    time.sleep(3)
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=30)
    assert child.returncode == 130
    assert err.splitlines() == [
        "Error: interrupted; finished work is stored, run the same command again to go on"
    ]


def test_a_reader_that_goes_away_is_met_with_silence(store):
    for form in ((), ("--nl",)):
        command = ("--store", store, "sql", "SELECT repeat('x', 300) FROM range(1000)", *form)
        child = start_cdner(*command)
        assert child.stdout
        child.stdout.read(1)
        child.stdout.close()
        assert child.stderr
        assert child.stderr.read() == ""
        assert child.wait(60) == 0


TABLE_AND_LINES = pytest.mark.parametrize("form", [(), ("--nl",), ("--csv",)])


def run_in_shell(command: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """A shell's command line in which "$@" is cdner with these arguments."""
    words = [sys.executable, "-P", "-m", "cdner", *map(str, arguments)]
    return subprocess.run(
        ["sh", "-c", command, "sh", *words],
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[2])},
    )


@TABLE_AND_LINES
def test_a_full_disk_behind_stdout_is_one_line_and_exit_code_1(store, form):
    done = run_in_shell('"$@" >/dev/full', "--store", store, "runs", *form)
    assert done.stderr == "Error: No space left on device.\n"
    assert done.returncode == 1


@TABLE_AND_LINES
def test_a_closed_stdout_is_no_error(store, form):
    done = run_in_shell('"$@" >&-', "--store", store, "runs", *form)
    assert (done.returncode, done.stderr) == (0, "")


def test_an_operating_system_s_error_names_the_file(capsys, monkeypatch, tmp_path):
    @click.command("backends")
    def failing() -> None:
        (tmp_path / "absent").read_text(encoding="utf-8")

    monkeypatch.setattr("cdner.cli.backends.COMMANDS", {"backends": failing})
    assert run_cli(["backends"]) == 1
    assert capsys.readouterr().err == f"Error: {tmp_path / 'absent'}: No such file or directory.\n"


def test_the_store_comes_from_option_environment_or_folder(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CDNER_STORE", raising=False)

    def path(*arguments: str) -> str:
        assert run_cli([*arguments, "store", "path"]) == 0
        return capsys.readouterr().out.rstrip("\n")

    assert path() == str(tmp_path / "cdner.duckdb")
    (tmp_path / "store").mkdir()
    assert path() == str(tmp_path / "store" / "cdner.duckdb")
    monkeypatch.setenv("CDNER_STORE", "other.duckdb")
    assert path() == str(tmp_path / "other.duckdb")
    assert path("--store", "third.duckdb") == str(tmp_path / "third.duckdb")
    assert not list(tmp_path.rglob("*.duckdb")), "asking where the store is makes none"


def test_options_are_taken_from_the_environment(capsys, tmp_path, monkeypatch):
    store = str(tmp_path / "s.duckdb")
    assert run_cli(["--store", store, "import", "demo"]) == 0
    assert "newsdesk" in capsys.readouterr().err
    monkeypatch.setenv("CDNER_QUIET", "1")
    monkeypatch.setenv("CDNER_CORPORA_SHOW_LIMIT", "2")
    monkeypatch.setenv("CDNER_CORPORA_SHOW_OUTPUT_FORMAT", "json")
    assert run_cli(["--store", store, "corpora", "show", "film"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 2
    assert run_cli(["--store", store, "corpora", "show", "film", "--limit", "3"]) == 0, "options win"
    assert len(json.loads(capsys.readouterr().out)) == 3
    assert run_cli(["--store", store, "import", "demo"]) == 0
    assert capsys.readouterr().err == ""


def test_shell_completion_is_click_s():
    child = start_cdner(_CDNER_COMPLETE="bash_source")
    out, _ = child.communicate(timeout=60)
    assert "complete" in out


def test_every_command_of_the_list_is_the_one_in_its_file():
    context = click.Context(cli.cli)
    for name, (module, text) in COMMANDS.items():
        command = cli.cli.get_command(context, name)
        assert command is not None
        assert command.name == name
        assert (Path(cli.__file__).parents[1] / f"{module.replace('.', '/')}.py").is_file()
        assert text.endswith(".")


def test_run_with_a_target_alone_plans_the_own_experiment(capsys, tmp_path):
    sentences = "Ada B-person\nsang O\n\n"
    for split in ("train", "dev", "test"):
        file = tmp_path / f"{split}.txt"
        file.write_text(sentences, encoding="utf-8")
        arguments = ["import", "conll", str(file), "--domain", "mine", "--split", split]
        assert run_cli(["--store", str(tmp_path / "s.duckdb"), *arguments]) == 0
    capsys.readouterr()
    code = run_cli(["--store", str(tmp_path / "s.duckdb"), "run", "--target", "mine", "--dry-run", "--json"])
    steps = {row["step"] for row in json.loads(capsys.readouterr().out)}
    assert code == 0
    assert {"train:without_all", "judge:without_all/dev", "fuse:fused/test"} <= steps
    assert not any(step.startswith(("describe", "reason", "quantify")) for step in steps)
