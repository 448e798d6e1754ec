"""The one class of all command groups: an unknown command gets a suggestion, a file is imported when it is needed.

Knows no command.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from cdner.errors import unknown_name


class CommandGroup(click.Group):
    """A group whose commands may lie in files that are imported on first use.

    ``lazy`` maps a command to (module, one-line help); the help stands there so that --help imports no module.
    ``for_paths``: the command that is meant where a path stands in the place of a command.
    """

    def __init__(
        self,
        *args: Any,
        lazy: Mapping[str, tuple[str, str]] | None = None,
        for_paths: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.lazy = lazy or {}
        self.for_paths = for_paths

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*self.lazy, *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.lazy:
            return super().get_command(ctx, cmd_name)
        module = self.lazy[cmd_name][0]
        command = import_module(f"cdner.{module}").COMMANDS[cmd_name]
        if not isinstance(command, click.Command):
            raise TypeError(f"cdner.{module} defines no command '{cmd_name}'")
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        known = self.list_commands(ctx)
        if self.for_paths and args[0] not in known and Path(args[0]).exists():
            args = [self.for_paths, *args]
        is_option = args[0].startswith("-")
        if (
            not is_option and args[0] not in known and not ctx.resilient_parsing
        ):  # not while a shell completes
            raise unknown_name("command", args[0], known)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        if not self.lazy:
            return super().format_commands(ctx, formatter)
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in self.lazy.items()])
        return None
