"""``cdner explain``: one sentence through the whole method, step by step in the terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from cdner.config import REASONING_SETTINGS, SETTINGS, Experiment, Prediction, Setting, parts_of
from cdner.console.experiment_options import REPLAY, compose_experiment, shipped_experiments
from cdner.console.named_runs import experiment_name
from cdner.console.output import json_text
from cdner.console.progress import StderrProgress
from cdner.errors import InputError, UsageError
from cdner.explain import printed

if TYPE_CHECKING:
    from cdner.explain.explanation import Found, Method
    from cdner.explain.explanation import Reasoned as ReasonedText
    from cdner.explain.queries import Reasoned
    from cdner.steps.context import Context
    from cdner.store import Store
    from cdner.store.runs import RunSpec
    from cdner.types import ReasoningChain, Sentence

Made = TypeVar("Made")

# Fused settings that can be explained: judged models that read no told verdicts, which a new sentence does not have.
EXPLAINED_FUSED = tuple(
    setting for setting, parts in SETTINGS.items() if parts.fused and not SETTINGS[parts.fused].told
)


@click.command("explain")
@click.option("--sentence", required=True, help="The sentence, as you would write it.")
@click.option(
    "--tokens",
    "is_tokenised",
    is_flag=True,
    help="It is cut into tokens already: white space alone separates them.",
)
@click.option("--target", help="Target domain.  [default: that of --experiment or --run]")
@click.option(
    "--experiment",
    "-e",
    help="The models of this experiment in the store, or of its file.  [default: the latest finished]",
)
@click.option(
    "--setting",
    type=click.Choice((*REASONING_SETTINGS, *EXPLAINED_FUSED)),
    help="Which setting's reasoning and model, or whose verdicts.  [default: full]",
)
@click.option(
    "--run",
    "run",
    help="The models of this predict or fuse run: EXPERIMENT:SETTING/SPLIT, or a beginning of its id.",
)
@click.option("--prompt", "whole_prompt", is_flag=True, help="Show the whole prompt.")
@click.option(
    "--backend",
    type=click.Choice((REPLAY,)),
    help="'replay' asks only the store; without it the LLM of the experiment is asked.",
)
@click.option("--model", help="Folder of the LLM's weights, where the store knows them by checksum alone.")
@click.option(
    "--encoder",
    metavar="FOLDER",
    help="Of a fused setting: what finds the nearest labelled mentions, where the store knows it by checksum alone.",
)
@click.option("--base-url", multiple=True, help="OpenAI-compatible server of the LLM.")
@click.option("--device", help="auto, cpu, cuda, cuda:1 ...")
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="How it is carried out, e.g. execution.timeout_seconds=600.",
)
@click.option("--json", "as_json", is_flag=True, help="Everything as one JSON object.")
@click.pass_context
def explain(
    ctx: click.Context,
    /,
    sentence: str,
    target: str | None,
    experiment: str | None,
    setting: str | None,
    run: str | None,
    model: str | None,
    encoder: str | None,
    overrides: tuple[str, ...],
    *,
    is_tokenised: bool,
    whole_prompt: bool,
    as_json: bool,
    **flags: Any,
) -> None:
    """Run one sentence through the whole method, from the coarse types to the entities with and without reasoning.

    Tokens are separated by white space; punctuation at either end of a word is split off as in the corpora, a full stop
    stays with initials and abbreviations, an apostrophe begins a token (--tokens: white space alone).

    A fused setting shows for each predicted mention the model's first types with their probabilities, the labelled
    mentions that the LLM is shown, its verdict, and the fused decision.

    The LLM's answer is stored, so that the same sentence asks nobody again; it enters no experiment's results.
    """
    from cdner.store import Store

    tokenised = _tokenised(sentence, is_tokenised=is_tokenised)
    store = Store(ctx.obj["store"])
    if not store.path.exists():
        raise InputError(f"There is no store at {store.path}. Make models first: cdner run EXPERIMENT.")
    chosen = _chosen_run(store, run, experiment, setting=setting, target=target)
    given = _given_settings(experiment, flags, overrides)
    options = _Options(tokenised, quiet=ctx.obj["quiet"], prints=not as_json, whole_prompt=whole_prompt)
    if parts_of(chosen.setting).fused:
        found = _explain_fused(store, chosen, given, options, model=model, encoder=encoder)
    elif encoder is not None:
        raise UsageError(f"--encoder: the setting {chosen.setting} shows no labelled mentions to an LLM.")
    else:
        found = _explain_reasoned(store, chosen, given, options, model=model)
    if as_json:
        click.echo(json_text({"experiments": chosen.experiments, **found}))


@dataclass(frozen=True, slots=True)
class _Options:
    sentence: Sentence
    quiet: bool
    prints: bool
    whole_prompt: bool


def _explain_reasoned(
    store: Store, chosen: Reasoned, given: Experiment, options: _Options, *, model: str | None
) -> dict[str, Any]:
    from cdner.explain.explanation import check_models, load_method, method_experiment
    from cdner.steps.context import open_context

    if model is None and Path(given.reason.model).is_dir():
        model = given.reason.model
    method = load_method(store, chosen.run_id)
    check_models(method, store)
    made_with = method_experiment(method, given.execution)
    with open_context(store.path, made_with, progress=StderrProgress(quiet=True)) as context:
        title = f"{method.source} -> {method.target}, {method.setting}, {_run_and_experiments(chosen)}"
        walk = _Walk(
            *(options.sentence, method, context),
            quiet=options.quiet,
            prints=options.prints,
            whole_prompt=options.whole_prompt,
        )
        return walk.all_steps(title, weights=model)


def _explain_fused(
    store: Store,
    chosen: Reasoned,
    given: Experiment,
    options: _Options,
    *,
    model: str | None,
    encoder: str | None,
) -> dict[str, Any]:
    from cdner.explain.explanation import check_model
    from cdner.explain.printed_verdicts import Walk
    from cdner.explain.verdicts import fused_experiment, load_explained_judge, load_fused_method
    from cdner.steps.context import open_context

    setting = cast(Setting, chosen.setting)
    if model is None and Path(given.judging.model).is_dir():
        model = given.judging.model
    method = load_fused_method(store, chosen.run_id, setting=setting)
    check_model("of the setting", method.model, store, setting=cast(Setting, SETTINGS[setting].fused))
    made_with = fused_experiment(method, given.execution)
    with open_context(store.path, made_with, progress=StderrProgress(quiet=True)) as context:
        judge, changed = load_explained_judge(method, context, model=model, encoder=encoder)
        walk = Walk(
            *(options.sentence, method, judge, context),
            quiet=options.quiet,
            prints=options.prints,
            whole_prompt=options.whole_prompt,
        )
        title = f"{method.target}, {method.setting}, {_run_and_experiments(chosen)}"
        return walk.all_steps(title, changed, weights=model)


def _run_and_experiments(chosen: Reasoned) -> str:
    return f"run {chosen.run_id} ({', '.join(chosen.experiments)})"


def _tokenised(sentence: str, *, is_tokenised: bool) -> Sentence:
    """UsageError for a sentence without a word, and for bytes that are no text."""
    from cdner.corpora.plain_text import tokenise
    from cdner.types import Sentence

    if not sentence.isprintable() and any("\ud800" <= char <= "\udfff" for char in sentence):
        raise UsageError("--sentence is not valid UTF-8.")
    tokens = tuple(sentence.split()) if is_tokenised else tokenise(sentence)
    if not tokens:
        raise UsageError("--sentence is empty.")
    return Sentence(tokens)


def _chosen_run(
    store: Store, run: str | None, experiment: str | None, *, setting: str | None, target: str | None
) -> Reasoned:
    """The predict or fuse run whose models are meant, and the experiments it belongs to."""
    from cdner.explain.queries import (
        find_fused_prediction,
        find_reasoned_prediction,
        fused_prediction,
        reasoned_prediction,
    )
    from cdner.store.find import find_prediction_run

    if run is None:
        name = experiment_name(experiment) if experiment else None
        find = find_fused_prediction if setting and parts_of(setting).fused else find_reasoned_prediction
        return find(store, setting=setting or "full", experiment=name, target=target)
    if experiment is not None or setting is not None:
        raise UsageError("--run says it all: leave --experiment and --setting off.")
    run_id = find_prediction_run(store, run)
    found = fused_prediction(store, run_id) or reasoned_prediction(store, run_id)
    if found.setting not in (*REASONING_SETTINGS, *EXPLAINED_FUSED):
        raise UsageError(
            f"Run {run_id} is of the setting '{found.setting}', whose model reads verdicts on the mentions of another "
            f"model: that is not explained. Name a run of {', '.join(EXPLAINED_FUSED)} or of a setting with reasoning."
        )
    if target not in (None, found.target):
        raise UsageError(f"--target {target}: run {found.run_id} predicts {found.target}.")
    return found


def _given_settings(experiment: str | None, flags: dict[str, Any], overrides: tuple[str, ...]) -> Experiment:
    """How it is carried out: by the experiment's file where one is named, with the flags on top."""
    for override in overrides:
        if not override.startswith("execution."):
            raise UsageError(
                f"--set {override}: what the models were made with is fixed; only execution.* is free."
            )
    is_file = experiment is not None and (experiment.endswith(".toml") or experiment in shipped_experiments())
    return compose_experiment(experiment if is_file else None, flags, overrides)


@dataclass(frozen=True, slots=True)
class _Walk:
    """The steps in their order; each is printed when it is done."""

    sentence: Sentence
    method: Method
    context: Context
    quiet: bool
    prints: bool
    whole_prompt: bool

    def all_steps(self, title: str, *, weights: str | None) -> dict[str, Any]:
        """Everything there is to tell, as JSON knows it."""
        from cdner.explain import explanation as steps
        from cdner.explain.explanation import changes

        sentence, method, context = self.sentence, self.method, self.context
        llm, settings = context.experiment.reason, context.experiment.predict
        started = time.monotonic()
        self._print(printed.print_head, title, sentence, steps.changed_prompt(method, context))
        coarse = self._found("M_src", method.source_model, context.experiment.evidence)
        self._print(printed.print_coarse, sentence, coarse, self._short_names())
        types = steps.chosen_types(method, context)
        request = steps.prompt_about(sentence, method, context)
        self._print(printed.print_prompt, types, request, whole=self.whole_prompt)
        with printed.Listening(f"reasoning by {llm.backend} {llm.model}", quiet=self.quiet) as listening:
            reasoned = steps.reason_about(sentence, method, context, weights=weights, on_text=listening.hear)
        self._print(printed.print_reasoning, reasoned, llm.model)
        without = self._found("M_tgt", method.target_model, settings)
        augmented = self._found("M_aug", method.augmented_model, settings, reasoned.chain)
        rows = changes(sentence, without.prediction.entities, augmented.prediction.entities)
        models = {"source_model": coarse, "target_model": without, "augmented_model": augmented}
        seconds = _seconds(models, reasoned, time.monotonic() - started)
        self._print(printed.print_entities, sentence, without, augmented, rows, seconds)
        return {
            **_method_json(method),
            "tokens": sentence.tokens,
            "coarse": _found_json(sentence, coarse),
            "types": [asdict(row) for row in types],
            "prompt": [asdict(message) for message in request.messages],
            "reasoning": _reasoned_json(reasoned, model=llm.model),
            "without_reasoning": _found_json(sentence, without),
            "with_reasoning": _found_json(sentence, augmented),
            "changes": [asdict(row) for row in rows],
            "seconds": seconds,
        }

    def _found(
        self, label: str, model: RunSpec, settings: Prediction, chain: ReasoningChain | None = None
    ) -> Found:
        from cdner.explain.explanation import find_entities

        return self._step(
            label,
            lambda: find_entities(self.sentence, model, self.context, chain=chain, settings=settings),
        )

    def _step(self, label: str, make: Callable[[], Made]) -> Made:
        """Progress ends before anything is printed: its bar would take stdout for itself."""
        with StderrProgress(quiet=self.quiet) as progress:
            self.context.progress = progress
            progress.start(label)
            return make()

    def _print(self, printer: Callable[..., None], *values: Any, **options: Any) -> None:
        if self.prints:
            printer(*values, **options)

    def _short_names(self) -> dict[str, str]:
        source = self.context.domain(self.method.source, "source")
        return {entry.name: entry.short for entry in source.entries}


# --- as JSON ---------------------------------------------------------------------------------------------


def _method_json(method: Method) -> dict[str, Any]:
    names = ("prediction", "source_model", "target_model", "augmented_model", "confusion", "reasoning")
    return {
        "source": method.source,
        "target": method.target,
        "setting": method.setting,
        "runs": {name: getattr(method, name).run_id for name in names},
    }


def _reasoned_json(reasoned: ReasonedText, *, model: str) -> dict[str, Any]:
    return {
        **asdict(reasoned.chain),
        "request_id": reasoned.request_id,
        "was_stored": reasoned.was_stored,
        "model": model,
        "completion": asdict(reasoned.completion),
    }


def _found_json(sentence: Sentence, found: Found) -> dict[str, Any]:
    return {
        "entities": [
            {**asdict(entity), "mention": " ".join(sentence.tokens[entity.start : entity.end])}
            for entity in found.prediction.entities
        ],
        "generated": found.prediction.generated,
        "malformed": found.prediction.malformed,
        "n_input_tokens": found.generation.n_input_tokens,
        "n_truncated_tokens": found.generation.n_truncated_tokens,
    }


def _seconds(models: Mapping[str, Found], reasoned: ReasonedText, total: float) -> dict[str, Any]:
    seconds: dict[str, Any] = {
        name: {"loading": round(found.seconds_loading, 3), "predicting": round(found.seconds_predicting, 3)}
        for name, found in models.items()
    }
    return {**seconds, "reasoning": round(reasoned.seconds, 3), "total": round(total, 3)}


COMMANDS = {"explain": explain}
