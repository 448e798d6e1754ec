"""Finds the predictions whose models explain a sentence: made with reasoning texts or verdicts, and finished.

Where there are none, says which step of the experiment is the first that is missing. Computes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from cdner.config import SETTINGS, Label, parts_of
from cdner.errors import InputError, UsageError, unknown_name
from cdner.store.connection import Store

# In the order in which an experiment makes them, with the command that makes each.
_STEPS = (
    ("train:source", "train"),
    ("train:without_all", "train --setting without_all"),
    ("quantify:target", "quantify"),
    ("reason:{setting}/train", "reason --setting {setting}"),
    ("train:{setting}", "train --setting {setting}"),
    ("predict:{setting}/{split}", "predict --setting {setting}"),
)
_FUSED_STEPS = (
    ("predict:{judged}/{split}", "predict --setting {judged}"),
    ("judge:{judged}/{split}", "judge --setting {setting}"),
    ("fuse:{setting}/{split}", "predict --setting {setting}"),
)


@dataclass(frozen=True, slots=True)
class Reasoned:
    """A finished predict run whose sentences had reasoning texts, or a finished fuse run."""

    run_id: str
    setting: str
    target: str
    experiments: tuple[str, ...]  # that it belongs to; a cell of one that varies is called "name[axis=value]"


def find_fused_prediction(
    store: Store, *, setting: str, experiment: str | None = None, target: str | None = None
) -> Reasoned:
    """As ``find_reasoned_prediction``, of a fused setting: the fuse run finished last."""
    return _latest(store, _fused(store), setting=setting, experiment=experiment, target=target)


def fused_prediction(store: Store, run_id: str) -> Reasoned | None:
    """What this run is; None unless it is a fuse run. InputError unless it is finished."""
    found = [row for row in _fused(store, done=False) if row.run_id == run_id]
    if found and not any(row.run_id == run_id for row in _fused(store)):
        raise InputError(f"Run {run_id} is not finished. Run the command that made it again.")
    return found[0] if found else None


def find_reasoned_prediction(
    store: Store, *, setting: str, experiment: str | None = None, target: str | None = None
) -> Reasoned:
    """The one finished last, of an experiment (all cells of one that varies) or of the whole store.

    InputError where there is none, with the command that makes it; UsageError for an unknown experiment, and for one
    that has no such setting or target.
    """
    return _latest(store, _reasoned(store), setting=setting, experiment=experiment, target=target)


def _latest(
    store: Store, rows: list[Reasoned], *, setting: str, experiment: str | None, target: str | None
) -> Reasoned:
    found = [
        row
        for row in rows
        if row.setting == setting
        and target in (None, row.target)
        and (experiment is None or any(_is_cell(name, experiment) for name in row.experiments))
    ]
    if found:
        return found[0]
    if experiment is not None:
        raise _missing_step(store, experiment, setting, target)
    on = f" on {target}" if target else ""
    flags = f"--setting {setting}" + (f" --target {target}" if target else "")
    raise InputError(
        f"{store.path} has no finished predictions of the setting '{setting}'{on}. Make them with: "
        f"cdner run EXPERIMENT, or cdner predict {flags}."
    )


def reasoned_prediction(store: Store, run_id: str) -> Reasoned:
    """What this predict run is. InputError unless it is finished, UsageError unless it read reasoning texts."""
    found = [row for row in _reasoned(store, done=False) if row.run_id == run_id]
    if not found:
        raise UsageError(
            f"Run {run_id} predicts without reasoning texts of an LLM, so there is nothing to set beside it. "
            "Name a predict run of a setting with reasoning, such as full."
        )
    if not any(row.run_id == run_id for row in _reasoned(store)):
        raise InputError(f"Run {run_id} is not finished. Run the command that made it again.")
    return found[0]


def _reasoned(store: Store, *, done: bool = True) -> list[Reasoned]:
    """The latest first."""
    with store.reading() as connection:
        rows = connection.execute(
            """
            SELECT made.run_id, texts.settings ->> 'setting', any_value(corpus.domain),
                   list(DISTINCT experiment) FILTER (experiment IS NOT NULL)
            FROM latest_attempt AS made
            JOIN run_input ON run_input.run_id = made.run_id
            JOIN run AS texts ON texts.run_id = run_input.input_run_id AND texts.step = 'reason'
            JOIN run_input AS read_corpus ON read_corpus.run_id = made.run_id
            JOIN corpus ON corpus.run_id = read_corpus.input_run_id
            LEFT JOIN experiment_run ON experiment_run.run_id = made.run_id
            WHERE made.step = 'predict' AND (made.status = 'done' OR NOT $done)
            GROUP BY made.run_id, texts.settings, made.finished_utc
            ORDER BY made.finished_utc DESC NULLS LAST, made.run_id
            """,
            {"done": done},
        ).fetchall()
    return [Reasoned(row[0], row[1], row[2], tuple(sorted(row[3] or ()))) for row in rows]


def _fused(store: Store, *, done: bool = True) -> list[Reasoned]:
    """The latest first. A fuse run's settings do not say whose entities are judged: its predictions do."""
    (told,) = (setting for setting, parts in SETTINGS.items() if parts.told)
    with store.reading() as connection:
        rows = connection.execute(
            """
            SELECT made.run_id,
                   any_value(if(texts.step = 'tell', $told, texts.settings ->> 'setting')),
                   any_value(corpus.domain),
                   list(DISTINCT experiment) FILTER (experiment IS NOT NULL)
            FROM latest_attempt AS made
            JOIN run_input AS judged ON judged.run_id = made.run_id AND judged.position = 0
            JOIN prediction_corpus ON prediction_corpus.run_id = judged.input_run_id
            JOIN corpus ON corpus.run_id = corpus_run_id
            LEFT JOIN run_input ON run_input.run_id = judged.input_run_id
            LEFT JOIN run AS texts
                   ON texts.run_id = run_input.input_run_id AND texts.step IN ('reason', 'tell')
            LEFT JOIN experiment_run ON experiment_run.run_id = made.run_id
            WHERE made.step = 'fuse' AND (made.status = 'done' OR NOT $done)
            GROUP BY made.run_id, made.finished_utc
            ORDER BY made.finished_utc DESC NULLS LAST, made.run_id
            """,
            {"done": done, "told": told},
        ).fetchall()
    names: dict[str, str] = {parts.fused: setting for setting, parts in SETTINGS.items() if parts.fused}
    return [
        Reasoned(run_id, names[judged or "without_all"], target, tuple(sorted(experiments or ())))
        for run_id, judged, target, experiments in rows
        if (judged or "without_all") in names
    ]


def _is_cell(name: str, experiment: str) -> bool:
    return name == experiment or name.startswith(f"{experiment}[")


def _missing_step(store: Store, experiment: str, setting: str, target: str | None) -> InputError | UsageError:
    with store.reading() as connection:
        rows = connection.execute(
            "SELECT experiment, label, coalesce(status, 'absent') FROM experiment_run"
            " LEFT JOIN latest_attempt USING (run_id) ORDER BY experiment, label"
        ).fetchall()
    mine = {label: state for name, label, state in rows if _is_cell(name, experiment)}
    if not mine:
        return unknown_name("experiment in the store", experiment, {name for name, _, _ in rows})
    named = [Label.of(label) for label in mine]
    targets = {label.subject for label in named if label.kind == "import"}
    if target is not None and target not in targets:
        return UsageError(f"Experiment '{experiment}' reads {', '.join(sorted(targets))}, not '{target}'.")
    judged = parts_of(setting).fused or setting
    splits = [label.split for label in named if (label.kind, label.subject) == ("predict", judged)]
    for label, command in _STEPS if judged == setting else _FUSED_STEPS:
        missing = label.format(setting=setting, judged=judged, split=splits[-1] if splits else "test")
        if mine.get(missing, "absent") != "done":
            return InputError(
                f"Experiment '{experiment}': {missing} is not done ({mine.get(missing, 'absent')}). Make it with: "
                f"cdner {command.format(setting=setting, judged=judged)} -e {experiment}."
            )
    return InputError(f"Experiment '{experiment}' has no finished predictions of '{setting}' on {target}.")
