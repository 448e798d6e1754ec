"""``cdner backends``: the registered LLM backends."""

from __future__ import annotations

import click

from cdner.cli.output import format_options, print_rows


@click.command("backends")
@format_options
def backends(output_format: str | None) -> None:
    """List LLM backends and where each is implemented."""
    from cdner.registry import names

    print_rows(("backend", "implementation"), sorted(names("backend").items()), output_format)


COMMANDS = {"backends": backends}
