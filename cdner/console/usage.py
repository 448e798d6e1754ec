"""What an LLM is going to be asked (``--dry-run``) and what it was asked, as lines and rows for people and programs."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING

import click

from cdner.console.output import print_rows, readable_seconds, visible
from cdner.errors import BackendError, PartialError

if TYPE_CHECKING:
    from cdner.experiment.execute import Outcome, Preview
    from cdner.experiment.forecast import Forecast
    from cdner.experiment.plan import Plan
    from cdner.steps.context import Context
    from cdner.store.llm_log import Account, LlmUsage

DRY_RUN_HELP = "Print the plan: what is done, what is to do, LLM calls, tokens, cost, time."
_PREVIEW_COLUMNS = (
    *("step", "run_id", "state", "llm_calls", "stored", "prompt_tokens", "counted_by"),
    *("max_output_tokens", "cost_usd_from", "cost_usd_to", "seconds"),
)
_SHOWN_COLUMNS = (*("step", "run_id", "state", "llm calls", "tokens in", "out", "cost", "time"),)


@contextlib.contextmanager
def _opened_once(context: Context) -> Iterator[None]:
    """The store open for all questions of a plan: hundreds of times opening it take minutes."""
    if not context.store.path.exists():
        yield
        return
    with context.store.reading():
        yield


def print_plans(plans: Sequence[tuple[Plan, Context]], output_format: str | None) -> None:
    """Every step with what it would ask of an LLM, on stdout; what cannot work here as warnings on stderr.

    Of several plans each step stands once, in the first plan that has it, and its experiment beside it. The time all
    will take is told on stderr.
    """
    from cdner.experiment.execute import preview
    from cdner.experiment.preflight import problems

    shown = _cells if output_format else _words
    names = ("experiment",) if len(plans) > 1 else ()
    rows: dict[str, tuple[object, ...]] = {}
    seconds: dict[str, float | None] = {}
    warnings: dict[str, None] = {}
    for plan, context in plans:
        named = (plan.experiment.name,) if names else ()
        with _opened_once(context):
            steps = preview(plan, context)
        for step in steps:
            time = step.seconds if output_format else _duration(step)
            row = (*named, step.label, step.run_id, step.state, *shown(step.forecast), time)
            rows.setdefault(step.run_id, row)
            if step.state != "done":
                seconds[step.run_id] = step.seconds
        warnings.update(dict.fromkeys(str(problem) for problem in problems(plan, context)))
    if output_format:
        print_rows((*names, *_PREVIEW_COLUMNS), list(rows.values()), output_format)
    else:
        print_rows(*_without_empty((*names, *_SHOWN_COLUMNS), list(rows.values())), output_format)
    if seconds:
        click.echo(_time_to_go(list(seconds.values())), err=True)
    for problem in warnings:  # a plan can be read on a machine that cannot run it
        click.echo(f"Warning: {visible(problem)}", err=True)


def _without_empty(
    columns: Sequence[str], rows: Sequence[tuple[object, ...]]
) -> tuple[tuple[str, ...], list[tuple[object, ...]]]:
    """Without columns that say nothing: the rest may fit a terminal."""
    kept = [n for n in range(len(columns)) if any(row[n] is not None for row in rows)]
    return tuple(columns[n] for n in kept), [tuple(row[n] for n in kept) for row in rows]


def _duration(step: Preview) -> str | None:
    return None if step.state == "done" or step.seconds is None else readable_seconds(step.seconds)


def _time_to_go(seconds: Sequence[float | None]) -> str:
    """What is known of the time, and of how many steps nothing is known."""
    known = [each for each in seconds if each is not None]
    n_unknown = len(seconds) - len(known)
    told = f"Time to go: about {readable_seconds(sum(known))} for {len(known)} of {len(seconds)} steps, as before here."
    if not known:
        told = "Time to go:"
    if n_unknown:
        told += (
            f" {n_unknown} unknown: nothing of the kind was done here yet, or its amount is not known yet."
        )
    return told


def _cells(expected: Forecast | None) -> tuple[object, ...]:
    if expected is None:
        return (None,) * 7
    return (
        *(expected.n_calls, expected.n_stored, expected.n_prompt_tokens, expected.counted_by),
        *(expected.max_output_tokens, expected.cost_usd_from, expected.cost_usd_to),
    )


def _words(expected: Forecast | None) -> tuple[object, ...]:
    """The same for people, within a line: estimated tokens as "~", costs as a range."""
    if expected is None or not expected.n_calls:
        return (expected.n_calls if expected else None, None, None, None)
    tokens = "unknown"
    if expected.n_prompt_tokens is not None:
        tokens = f"{'~' if expected.counted_by == 'estimate' else ''}{expected.n_prompt_tokens:,}"
    output = None if expected.max_output_tokens is None else f"<= {expected.max_output_tokens:,}"
    cost = None
    if expected.cost_usd_to is not None:
        cost = f"${expected.cost_usd_from:.4f} to {expected.cost_usd_to:.4f}"
    return (expected.n_calls, tokens, output, cost)


def execute_and_account(
    plan: Plan, context: Context, *, quiet: bool, force: set[str] | None = None
) -> list[Outcome]:
    """Execute the plan and print what its LLM calls took, also when it ends early with what arrived stored."""
    from cdner.experiment.execute import execute

    try:
        outcomes = execute(plan, context, force=force)
    except (PartialError, BackendError):
        if not quiet:
            _print_usage(plan, context)
        raise
    if not quiet:
        _print_usage(plan, context, found={each.run_id for each in outcomes if each.state == "found"})
    return outcomes


def _print_usage(plan: Plan, context: Context, *, found: Collection[str] = ()) -> None:
    """One line on stderr for every step of the plan that asks an LLM; those found done did not ask now."""
    from cdner.steps.kinds import KINDS
    from cdner.store.llm_log import load_accounts

    labels = {step.spec.run_id: step.label for step in plan.steps if KINDS[step.kind].asks}
    accounts = load_accounts(context.store, labels)
    for run_id, label in labels.items():
        what = f"{label} (done before, nothing asked now)" if run_id in found else label
        for usage in accounts.get(run_id, ()):
            click.echo(visible(f"{what}: {usage_line(usage)}"), err=True)


def usage_line(usage: LlmUsage | Account) -> str:
    """``openai gpt-4o-mini: 100 calls (2 retries), 5 answers reused; 210,000 prompt tokens, 94 % cached, ...``"""
    from cdner.store.llm_log import LlmUsage

    if isinstance(usage, LlmUsage):
        account = usage.account
        retries = f" ({_count(usage.n_retries, 'retry', 'retries')})" if usage.n_retries else ""
        more = f"{retries}, {_count(usage.n_reused, 'answer')} of other runs reused"
    else:
        account = usage
        more = " (retries and answers of other runs: cdner sql @llm_usage)"
    parts = [_count(account.n_calls, "call") + more, *_spent(account)]
    if account.n_parse_failures:
        parts.append(f"{_count(account.n_parse_failures, 'text')} in use without a part that was asked for")
    if account.n_gaps:
        parts.append(_count(account.n_gaps, "gap"))
    return f"{account.backend_family} {account.model}: " + "; ".join(parts)


def _spent(account: Account) -> Iterator[str]:
    if not account.n_calls:
        return
    tokens = f"{account.n_input_tokens:,} prompt tokens"
    if account.cached_share is not None:
        tokens += f" ({100 * account.cached_share:.0f} % cached)"
    yield f"{tokens}, {account.n_output_tokens:,} written"
    yield "no price known" if account.cost_usd is None else f"${account.cost_usd:.4f}"
    yield f"{account.wall_seconds or 0:.1f} s"
    by_reason = sorted(account.finish_reasons.items(), key=lambda item: (-item[1], item[0]))
    yield "finish " + ", ".join(f"{reason} {n}" for reason, n in by_reason)


def _count(n: int, one: str, many: str = "") -> str:
    return f"{n:,} {one if n == 1 else many or one + 's'}"
