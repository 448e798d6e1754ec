"""From options to an experiment: a file or the defaults, then flags on top. Flags win.

Every verb that makes runs uses the same options, so what works in one works in all.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from cdner.config import REMOVED, Experiment, load_experiment, parse_experiment, read_table
from cdner.errors import UsageError, unknown_name
from cdner.files import resource_root
from cdner.matrix import with_profile

REPLAY = "replay"
Command = TypeVar("Command", bound=Callable[..., Any])

# option -> (keys it sets, type, help)
_FLAGS: dict[str, tuple[tuple[str, ...], type, str]] = {
    "--source": (("corpora.source",), str, "Source domain."),
    "--target": (("corpora.target",), str, "Target domain."),
    "--backend": (
        ("reason.backend", "describe.backend"),
        str,
        "LLM backend; 'auto' takes what this machine can run, 'replay' asks only the store.",
    ),
    "--model": (("reason.model", "describe.model"), str, "LLM model."),
    "--base-url": (
        ("execution.base_urls",),
        tuple,
        "OpenAI-compatible server of the LLM; several share the work.",
    ),
    "--vllm-python": (("execution.vllm_python",), str, "Interpreter of the environment with vLLM."),
    "--vllm-arg": (("execution.vllm_args",), tuple, "Handed to vLLM's server, e.g. --vllm-arg=--seed=1."),
    "--gpu-memory": (("execution.gpu_memory",), float, "GiB for vLLM on a GPU; 0 = computed."),
    "--batch": (("execution.batch",), bool, "OpenAI's Batch API: half the price, within a day."),
    "--max-cost": (("execution.max_cost",), float, "US dollars this command may spend on an LLM."),
    "--max-requests": (("execution.max_requests",), int, "LLM calls this command may make."),
    "--concurrency": (("execution.concurrency",), int, "LLM requests at once."),
    "--n-examples": (("reason.n_examples",), int, "In-context examples (0 to 10)."),
    "--backbone": (("backbone.family",), str, "Backbone family: seq2seq, causal or tagger."),
    "--backbone-model": (
        ("backbone.model",),
        str,
        "Backbone: hub name, folder, or a name of 'cdner models'.",
    ),
    "--device": (("execution.device",), str, "auto, cpu, cuda, cuda:1 ..."),
    "--batch-size": (("execution.batch_size",), int, "Prediction batch size."),
    "--decoding": (("predict.decoding",), str, "free or grounded."),
    "--engine": (
        ("predict.engine",),
        str,
        "torch, or int8 (CTranslate2), which decodes freely.",
    ),
    "--alpha": (("confusion.alpha",), float, "Weight of u_hie (eq. 9)."),
    "--beta": (("confusion.beta",), float, "Weight of u_sim (eq. 9)."),
    "--w0": (("confusion.w0",), float, "Softmax coefficient (eq. 10, 12)."),
    "--delta": (("confusion.delta",), float, "Scaling of u_hie (eq. 4)."),
    "--rivals": (("confusion.rivals",), str, "top1 (the paper) or adaptive."),
}


# option that there was -> the setting whose removal says what to do instead
_REMOVED = {"--in-process": "execution.in_process"}


def _refuse_removed(_context: click.Context, option: click.Parameter, given: bool) -> None:
    if given:
        name = option.opts[0]
        raise UsageError(f"{name} is no option any more. {REMOVED[_REMOVED[name]]}")


def experiment_options(command: Command) -> Command:
    """Add the experiment options; the command gets ``experiment`` and ``corpora_from``."""
    for option in _REMOVED:
        command = click.option(
            option,
            is_flag=True,
            hidden=True,
            expose_value=False,
            callback=_refuse_removed,
            help="Removed.",
        )(command)
    for option in reversed(_FLAGS):
        keys, kind, text = _FLAGS[option]
        name = option.removeprefix("--").replace("-", "_")
        told = f"{text}  [{', '.join(keys)}]"
        if kind is bool:
            command = click.option(option, name, is_flag=True, default=None, help=told)(command)
        elif kind is tuple:
            command = click.option(option, name, multiple=True, default=None, help=told)(command)
        else:
            command = click.option(option, name, type=kind, help=told)(command)
    command = click.option(
        "--set",
        "overrides",
        multiple=True,
        metavar="KEY=VALUE",
        help="Any setting, e.g. train_target.epochs=8.",
    )(command)
    command = click.option(
        "--profile", help="The experiment on other means: a shipped profile (cpu) or a TOML file."
    )(command)
    return click.option(
        "--corpora-from",
        type=click.Path(path_type=Path, file_okay=False),
        help="Folder with the CrossNER files, instead of a download.",
    )(command)


def experiment_option(command: Command) -> Command:
    """``--experiment FILE`` for verbs where the experiment is not an argument."""
    return click.option(
        "--experiment", "-e", "experiment_name", help="Experiment file or the name of a shipped one."
    )(command)


def shipped_experiments() -> dict[str, Path]:
    """Name -> file of the experiments that come with cdner."""
    return {path.stem: path for path in sorted(resource_root("experiments").glob("*.toml"))}


def recorded_answers() -> dict[str, Path]:
    """Name of a shipped experiment -> bundle of what an LLM answered when it was run."""
    return {path.stem: path for path in sorted((resource_root("experiments") / "recorded").glob("*.zip"))}


def shipped_profiles() -> dict[str, Path]:
    """Name -> file of the profiles that come with cdner."""
    return {path.stem: path for path in sorted((resource_root("experiments") / "profiles").glob("*.toml"))}


def _profile_file(name: str) -> Path:
    if Path(name).suffix == ".toml":
        return Path(name)
    if name not in shipped_profiles():
        raise unknown_name("profile", name, shipped_profiles())
    return shipped_profiles()[name]


def find_experiment(name: str) -> Experiment:
    """Load a file, or a shipped experiment by its name."""
    path = Path(name)
    if path.suffix == ".toml" and path.is_file():
        return load_experiment(path)
    shipped = shipped_experiments()
    if path.name.removesuffix(".toml") in shipped and path.name == name:
        return load_experiment(shipped[path.name.removesuffix(".toml")])
    if path.suffix == ".toml":
        raise UsageError(f"No experiment file {name}. Shipped experiments: {', '.join(shipped)}.")
    raise unknown_name("experiment", name, shipped)


def compose_experiment(
    name: str | None, options: Mapping[str, object], overrides: tuple[str, ...]
) -> Experiment:
    """The named experiment (or the defaults) with flags and ``--set`` applied, validated as a whole."""
    base = find_experiment(name) if name else Experiment(name="flags")
    profile = options.get("profile")
    if isinstance(profile, str):
        base = with_profile(base, read_table(_profile_file(profile)), name=Path(profile).stem)
    table: dict[str, Any] = base.model_dump(mode="python")
    for option, (keys, _, _) in _FLAGS.items():
        value = options.get(option.removeprefix("--").replace("-", "_"))
        if value is None or value == ():
            continue
        if option == "--backend" and value == REPLAY:
            table["execution"]["replay"] = True
            continue
        for key in keys:
            _assign(table, key, value)
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator:
            raise UsageError(f"--set {override}: expected KEY=VALUE.")
        _assign(table, key.strip(), _toml_value(text.strip()))
    if options.get("base_url") or any(
        one.partition("=")[0].strip() == "execution.base_urls" for one in overrides
    ):
        table["execution"]["base_urls_from_file"] = False  # the user named these servers
    experiment = parse_experiment(table, where="options")
    for section, llm in (("reason", experiment.reason), ("describe", experiment.describe)):
        if llm.backend == REPLAY:
            raise UsageError(
                f"{section}.backend = '{REPLAY}': replay is a way to run, not who wrote the texts. Name the "
                f"backend that wrote them and run with --backend {REPLAY} (execution.replay = true)."
            )
    return _with_chosen_llm(experiment)


def _with_chosen_llm(experiment: Experiment) -> Experiment:
    """Put an LLM of this machine wherever the backend is "auto", and say which, in one line."""
    from cdner.llm.automatic import AUTO, choose_llm

    asked = [name for name in ("reason", "describe") if getattr(experiment, name).backend == AUTO]
    judge = experiment.judge
    if not asked and judge.backend != AUTO:
        return experiment
    chosen = choose_llm(experiment.execution)
    changes: dict[str, Any] = {name: chosen.of(getattr(experiment, name)) for name in asked}
    if judge.backend == AUTO:
        changes["judge"] = judge.model_copy(
            update={"backend": chosen.backend, "model": judge.model or chosen.model}
        )
    click.echo(f"LLM: {chosen.backend}, {chosen.model} ({chosen.why}).", err=True)
    return experiment.model_copy(update=changes)


def _assign(table: dict[str, Any], key: str, value: object) -> None:
    *path, last = key.split(".")
    for part in path:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise UsageError(f"--set {key}: '{part}' is a value, not a section.")
    table[last] = tuple(value) if isinstance(value, list) else value


def _toml_value(text: str) -> object:
    """A TOML value, or the bare text where that is no TOML (names need no quotes on a command line)."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
