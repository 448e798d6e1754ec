"""The command line: lazy commands, one place for errors and exit codes.

Importing this package imports click only, so ``cdner --help`` answers at once; each command's file is imported when
that command runs. Results go to stdout, everything else to stderr.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
from pathlib import Path
from types import FrameType

import click

from cdner.console.groups import CommandGroup
from cdner.errors import CdnerError, UsageError
from cdner.files import expanded
from cdner.version import __version__

# Command -> (file in this package, one-line help). The help stands here so that --help imports none of the files.
COMMANDS: dict[str, tuple[str, str]] = {
    "import": ("cli.import_", "Bring corpora into the store."),
    "describe": ("cli.verbs", "Write the type descriptions (WordNet gloss, enriched by an LLM)."),
    "train": ("cli.verbs", "Train the models of one setting."),
    "quantify": ("cli.verbs", "Measure confusion between target types (MCQM)."),
    "reason": ("cli.verbs", "Let an LLM write two-stage reasoning texts (PBRC)."),
    "judge": ("cli.verbs", "Ask an LLM for the probability of each type of each mention (verdicts)."),
    "predict": ("cli.verbs", "Predict entities with a trained model."),
    "evaluate": ("cli.verbs", "Score predictions and count errors."),
    "run": ("cli.run", "Run a whole experiment; resumes where it stopped."),
    "runs": ("cli.runs", "List runs and their state."),
    "confusion": ("cli.confusion", "Show confusion matrices, prefixes and rivals."),
    "errors": ("cli.errors", "List prediction errors of a run."),
    "compare": ("compare.command", "Say whether one setting is better than another, and what changed."),
    "explain": ("explain.command", "Run one sentence through the whole method, step by step."),
    "annotate": ("annotate.command", "Annotate the sentences of a file with a trained model."),
    "export": ("export.command", "Write predictions in the formats of other tools."),
    "report": ("report.command", "Write a page or tables of what experiments found."),
    "prompts": ("cli.prompts", "Show exactly what an LLM is asked."),
    "corpora": ("cli.corpora", "List corpora and show their sentences."),
    "backends": ("cli.backends", "List LLM backends."),
    "batches": ("cli.batches", "List and cancel batches at OpenAI's Batch API."),
    "serve": ("cli.serve", "Keep a vLLM server running for many commands."),
    "serve-model": ("serving.command", "Serve a trained model over HTTP, also to Label Studio."),
    "models": ("cli.models", "List and fetch local models and WordNet."),
    "bundle": ("bundle.command", "Pack what an LLM wrote, to repeat an experiment without one."),
    "doctor": ("doctor.command", "Examine this machine and the store; say how to mend what is wrong."),
    "store": ("cli.store", "Where the store is, and whether it is sound."),
    "sql": ("cli.sql", "Query the store, read-only and sealed."),
}


_INTERRUPTED = 130  # exit code


def default_store() -> Path:
    """``store/cdner.duckdb`` of the current folder when it has a ``store`` folder, else ``cdner.duckdb`` here."""
    return Path("store/cdner.duckdb") if Path("store").is_dir() else Path("cdner.duckdb")


@click.group(
    cls=CommandGroup,
    lazy=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "CDNER"},
)
@click.option(
    "--store",
    "store_path",
    envvar="CDNER_STORE",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    help="The DuckDB store.  [default: store/cdner.duckdb, or cdner.duckdb without a store folder]",
)
@click.option("--quiet", "-q", is_flag=True, help="No progress on stderr.")
@click.version_option(__version__, prog_name="cdner")
@click.pass_context
def cli(ctx: click.Context, store_path: Path | None, *, quiet: bool) -> None:
    """Cross-domain named entity recognition from 100 to 200 labelled sentences.

    Measures which entity types a model confuses (MCQM) and uses an LLM's reasoning about exactly those (PBRC).
    Exit codes: 0 done, 1 failed, 2 usage, 3 partial and stored (run again to resume), 130 interrupted.
    """
    ctx.obj = {"store": expanded(store_path or default_store()), "quiet": quiet}


def main(arguments: list[str] | None = None) -> None:
    """Entry point: every expected failure is one line on stderr and its exit code."""
    take_signals()
    sys.exit(run_cli(arguments))


def take_signals() -> None:
    """Ctrl-C and SIGTERM interrupt, once: what runs is ended and recorded, exit code 130. Another one leaves at once.

    That harms no more than a kill -9: the store holds whole transactions, and what we started ends with us.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup, or a shell's background job
            signal.signal(number, _interrupt)
            atexit.register(
                signal.signal, number, signal.SIG_IGN
            )  # all is done: no signal changes the exit code


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: os._exit(_INTERRUPTED))
    raise KeyboardInterrupt


def run_cli(arguments: list[str] | None = None) -> int:
    """Run one command line and return its exit code."""
    try:
        return _carried_out(arguments)
    except CdnerError as error:
        _complain(str(error))
        return error.exit_code
    except (KeyboardInterrupt, click.Abort) as stop:
        # A note is added by whoever leaves something behind that goes on without us.
        notes = [f". {note}" for note in getattr(stop, "__notes__", ()) if note]
        _complain(
            "".join(["interrupted; finished work is stored, run the same command again to go on", *notes])
        )
        return _INTERRUPTED
    except click.ClickException as error:
        if isinstance(error, click.exceptions.NoArgsIsHelpError):
            click.echo(error.format_message(), err=True)
        else:
            _complain(error.format_message())
        return UsageError.exit_code
    except BrokenPipeError:  # the reader went away (cdner ... | head)
        _drop_unwritable_output()
        return 0
    except OSError as error:  # a full disk, an unwritable folder
        _drop_unwritable_output()
        where = f"{error.filename}: " if error.filename is not None else ""
        _complain(f"{where}{error.strerror or error}.")
        return CdnerError.exit_code


def _carried_out(arguments: list[str] | None) -> int:
    """The command; where a launcher started several processes, in one of them, and the others help it train."""
    if not {"WORLD_SIZE", "MASTER_ADDR"} & os.environ.keys():
        return _invoke(arguments)
    from cdner.models import distributed

    if distributed.several_started():
        return distributed.run(lambda: _invoke(arguments), _take_part)
    if warning := distributed.single_process_warning():
        click.echo(f"Warning: {warning}", err=True)
    return _invoke(arguments)


def _take_part(message: bytes) -> None:
    from cdner.models.training import take_part  # imports torch

    take_part(message)


def _invoke(arguments: list[str] | None) -> int:
    """What ``click``'s ``main`` does, except that interrupts and broken pipes arrive at ours as they are."""
    if "_CDNER_COMPLETE" in os.environ:
        cli.main(args=arguments, prog_name="cdner")  # a shell asks for completions
    try:
        with cli.make_context("cdner", list(sys.argv[1:] if arguments is None else arguments)) as context:
            result = cli.invoke(context)
            if sys.stdout is not None:  # None: started with stdout closed
                sys.stdout.flush()
    except click.exceptions.Exit as leaving:  # --help, --version
        return leaving.exit_code
    return result if isinstance(result, int) else 0


def _drop_unwritable_output() -> None:
    """What stdout does not take goes to nothing, else the interpreter tries again at its end, with a traceback."""
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _complain(message: str) -> None:
    from cdner.console.output import visible

    click.echo(f"Error: {visible(' '.join(message.split()))}", err=True)
