"""Command line parsing on top of typer: global options in any position, and an error for conflicting values.

Typer accepts an option in one command only and keeps the last of several values. Here every subcommand also accepts
the options of `ftbench` itself, and two different values of one option are an error.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, TypeVar

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption

from engine.config.errors import UserError

F = TypeVar("F", bound=Callable[..., Any])
_GIVEN = "ftbench.global_options"
"""Key of the global options given so far in a context's `meta`, which nested contexts share."""


class _Strict:
    """Mixin for commands and groups, placed before typer's class."""

    def get_params(self, ctx: Any) -> list[Any]:
        """The command's parameters and, hidden from its help, the global options that it does not use."""
        own: list[Any] = super().get_params(ctx)  # type: ignore[misc]
        names = {parameter.name for parameter in own}
        return own + [option for option in _hidden(ctx.find_root().command) if option.name not in names]

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse with the global options given to the outer commands. Raises UserError for values in conflict."""
        if not args and getattr(self, "no_args_is_help", False):
            return super().parse_args(ctx, args)  # type: ignore[misc,no-any-return]
        outer: list[str] = ctx.meta.get(_GIVEN, [])
        args = [*outer, *args]
        given = self._given(ctx, args)
        for parameter, values in given:
            _check(parameter, values)
        everywhere = {option.name for option in global_options(ctx.find_root().command)}
        global_values = [(option, values[0]) for option, values in given if option.name in everywhere]
        ctx.meta[_GIVEN] = [word for option, value in global_values for word in _words(option, value)]
        return super().parse_args(ctx, args)  # type: ignore[misc,no-any-return]

    def _given(self, ctx: Any, args: list[str]) -> list[tuple[Any, list[Any]]]:
        """Every parameter on the command line with all its values, as text, in order."""
        parameters = self.get_params(ctx)
        parser = self.make_parser(ctx)  # type: ignore[attr-defined]
        for parameter in parameters:
            if isinstance(parameter, TyperOption) and not parameter.multiple:
                every = copy.copy(parameter)
                every.multiple = True
                every.add_to_parser(parser, ctx)  # replaces the parameter that keeps only the last value
        values, _, _ = parser.parse_args(args=list(args))
        given = [(param, values[param.name]) for param in parameters if values.get(param.name) is not None]
        return [(param, list(value) if isinstance(value, list | tuple) else [value]) for param, value in given]


class Subcommand(_Strict, TyperCommand):
    """A subcommand."""


class Group(_Strict, TyperGroup):
    """`ftbench`, or a group of subcommands (`ftbench data`)."""


class App(typer.Typer):
    """A typer application of these commands."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(cls=Group, **settings)

    def command(self, name: str | None = None, **settings: Any) -> Callable[[F], F]:
        return super().command(name, **{"cls": Subcommand, **settings})


def global_options(root: Any) -> list[TyperOption]:
    """The options of `ftbench` itself."""
    return [parameter for parameter in root.params if isinstance(parameter, TyperOption)]


def _hidden(root: Any) -> list[TyperOption]:
    """Copies of the global options for commands that do not use them, created once."""
    kept: list[TyperOption] | None = getattr(root, "hidden_options", None)
    if kept is None:
        kept = [copy.copy(option) for option in global_options(root)]
        for option in kept:
            option.hidden, option.expose_value = True, False
        root.hidden_options = kept
    return kept


def _check(parameter: Any, values: list[Any]) -> None:
    """Raise UserError for a blank value, and for two different values of an option that takes one."""
    name = _display_name(parameter)
    if any(isinstance(value, str) and not value.strip() for value in values):
        raise UserError(f"empty value for {name}", hint="give a value or omit the option", code="cli.empty_value")
    if isinstance(parameter, TyperArgument) or parameter.multiple or len(set(values)) == 1:
        return
    if parameter.is_flag:
        problem = f"{' and '.join([*parameter.opts, *parameter.secondary_opts])} given together"
    else:
        problem = f"different values for {name}: {' and '.join(dict.fromkeys(map(str, values)))}"
    raise UserError(problem, hint="keep one of them", code="cli.conflicting_values")


def _display_name(parameter: Any) -> str:
    """`--runs`, or `PRESET` for an argument."""
    if isinstance(parameter, TyperOption):
        return str(parameter.opts[0])
    return str(parameter.metavar or parameter.name).upper()


def _words(option: TyperOption, value: Any) -> list[str]:
    """The option as words of a command line."""
    if not option.is_flag:
        return [option.opts[0], str(value)]
    return [option.opts[0] if value else option.secondary_opts[0]]
