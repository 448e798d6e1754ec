"""``cdner backends``: the registered LLM backends, what each needs, and whether that is here."""

from __future__ import annotations

import click

from cdner.console.output import format_options, print_rows


@click.command("backends")
@format_options
def backends(output_format: str | None) -> None:
    """List LLM backends, what each needs and whether it is here. Asks no server; 'cdner doctor' looks closer."""
    from cdner.doctor.readiness import readiness
    from cdner.registry import names

    rows = [
        (name, *readiness(name), implementation) for name, implementation in sorted(names("backend").items())
    ]
    print_rows(("backend", "needs", "ready", "implementation"), rows, output_format)


COMMANDS = {"backends": backends}
