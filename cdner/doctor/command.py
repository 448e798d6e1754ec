"""``cdner doctor``: what cdner stands on here, one line a finding, and how to mend what is not well."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from cdner.console.output import format_options, print_rows, visible

if TYPE_CHECKING:
    from cdner.doctor import Finding

COLUMNS = ("subject", "state", "found", "fix")
_COLOURS = {"ok": "green", "warning": "yellow", "problem": "red"}
_WIDTH = len("warning")


@click.command("doctor")
@click.option(
    "--deep", is_flag=True, help="Also what takes minutes: verify the store, read WordNet, import vLLM."
)
@click.option("--network", is_flag=True, help="Also ask whether the LLM's server answers. No key is sent.")
@click.option("--base-url", "base_urls", multiple=True, help="With --network: these servers.")
@click.option("--vllm-python", default="", help="Interpreter of the environment with vLLM.")
@format_options
@click.pass_context
def doctor(
    ctx: click.Context,
    base_urls: tuple[str, ...],
    vllm_python: str,
    output_format: str | None,
    *,
    deep: bool,
    network: bool,
) -> int:
    """Examine Python, packages, devices, memory, disk, models, WordNet, vLLM, keys and the store. Changes nothing.

    Exit code 0 without a problem, 1 with one; a warning is none. Keys are present or absent, never shown.
    """
    from cdner.config import Execution
    from cdner.doctor import Examined, examine

    execution = Execution(base_urls=base_urls, vllm_python=vllm_python)
    asked = Examined(ctx.obj["store"], execution, deep=deep, network=network)
    found = []
    for finding in examine(asked):
        found.append(finding)
        if not output_format:
            _print(finding)
    if output_format:
        print_rows(COLUMNS, [tuple(getattr(row, name) for name in COLUMNS) for row in found], output_format)
    else:
        _print_sum(found)
    return int(any(finding.state == "problem" for finding in found))


def _print(finding: Finding) -> None:
    state = click.style(finding.state.ljust(_WIDTH), fg=_COLOURS[finding.state])
    click.echo(f"{state}  {visible(f'{finding.subject}: {finding.found}')}")
    if finding.fix:
        click.echo(f"{' ' * _WIDTH}  -> {visible(finding.fix)}")


def _print_sum(found: Sequence[Finding]) -> None:
    n_problems, n_warnings = (sum(row.state == state for row in found) for state in ("problem", "warning"))
    click.echo(f"{n_problems} problems, {n_warnings} warnings")


COMMANDS = {"doctor": doctor}
