"""The subcommands of `ftbench`, and how its command line is parsed. `tui.start` opens the bench without this module.

Typer accepts an option in one command only and keeps the last of several values. Here every subcommand also accepts
the options of `ftbench` itself, and two different values of one option are an error.
"""

from __future__ import annotations

import copy
import inspect
import sys
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption
from typer.exceptions import TyperException
from typer.main import get_command

from engine.config.errors import UserError
from engine.config.home import keep_hub_cache_in_home
from engine.config.hooks import FIX, hooks
from engine.runs.home import runs_home
from tui.cli import options
from tui.cli.gone import refuse_gone
from tui.output import streams

Table = dict[str, tuple[str, Any]]
"""Name of a subcommand -> its help, and `module:function`, whose parameters are the options of the subcommand; for a
group of subcommands its help, and their table.
"""
SUBCOMMANDS: Table = {
    "run": ("Train and evaluate one run. Ctrl+C asks: detach or stop.", "run:run"),
    "attach": ("Replay and follow a run, ladder or sweep.", "attach:attach"),
    "stop": ("Stop a run, ladder or sweep, with a checkpoint.", "attach:stop"),
    "resume": ("Resume a run, ladder or sweep.", "attach:resume"),
    "runs": ("List runs and ladders.", "runs:runs"),
    "data": (
        "Check and preview data before training.",
        {
            "check": ("Check a dataset: how each column and row is used, and warnings.", "data:check"),
            "show": ("Show rows token by token, with the tokens in the loss marked.", "data:show"),
        },
    ),
    "presets": (
        "List, show and create presets.",
        {
            "list": ("List presets; invalid ones with their error.", "presets:show_list"),
            "show": ("Show the effective configuration and each value's origin.", "presets:show"),
            "new": ("Create your own preset from an existing one.", "presets:new"),
        },
    ),
    "plan": ("Predict memory, time and cost of each method.", "plan:plan"),
    "demo": ("Run the default ladder on the embedded model and data.", "ladder:demo"),
    "ladder": ("Compare methods on the same model and data: quality and cost.", "ladder:ladder"),
    "judge": ("Let a model compare the answers of rungs, in both orders.", "judge:judge"),
    "rate": ("Compare the answers of two rungs without their names.", "judge:rate"),
    "report": ("Write the report of a ladder or sweep; print its path.", "ladder:report"),
    "export": ("Export a run, or a ladder's recommended one, and check it.", "export:export"),
    "gate": ("Exit with 0 only if a gain's lower bound reaches --min-gain.", "gate:gate"),
    "pull": ("Download a model of the catalog or of the Hub.", "pull:pull"),
    "completion": ("Print the completion script of bash or zsh.", "completion:completion"),
    "schema": ("Print the JSON Schema of a file or of --json output.", "schema:schema"),
    "clean": ("Show what takes disk space, and remove what is named.", "disk:clean"),
    "queue": ("Show who uses each device and who waits, since when.", "monitor:queue"),
    "monitor": ("Show GPUs, memory and the queue, as they change.", "monitor:monitor"),
    "home": ("Show where runs and caches are, or choose another place.", "disk:home"),
}
"""Those of the core, whose modules are in `tui.cli`; `with_extensions` adds those of extensions."""
MAX_LISTED = 8
"""Commands of a group that an error lists."""
_GIVEN = "ftbench.global_options"
"""Key of the global options given so far in a context's `meta`, which nested contexts share."""


class _Strict:
    """Mixin for commands and groups, placed before typer's class."""

    def get_params(self, ctx: Any) -> list[Any]:
        """The command's parameters and, hidden from its help, the global options that it does not use."""
        own: list[Any] = super().get_params(ctx)  # type: ignore[misc]
        names = {parameter.name for parameter in own}
        root = ctx.find_root().command
        if not hasattr(root, "hidden_options"):
            root.hidden_options = [copy.copy(option) for option in global_options(root)]
            for option in root.hidden_options:
                option.hidden, option.expose_value = True, False
        return own + [option for option in root.hidden_options if option.name not in names]

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse with the global options given to the outer commands.

        Raises UserError for a blank value, and for two different values of an option that takes one.
        """
        if not args and getattr(self, "no_args_is_help", False):
            return super().parse_args(ctx, args)  # type: ignore[misc,no-any-return]
        args = [*ctx.meta.get(_GIVEN, []), *args]
        everywhere = {option.name for option in global_options(ctx.find_root().command)}
        words: list[str] = []
        for parameter, values in self._given(ctx, args):
            is_argument = isinstance(parameter, TyperArgument)
            name = (parameter.metavar or parameter.name).upper() if is_argument else parameter.opts[0]
            if any(isinstance(value, str) and not value.strip() for value in values):
                hint = "give a value or omit the option"
                raise UserError(f"empty value for {name}", hint=hint, code="cli.empty_value")
            if not is_argument and not parameter.multiple and len(set(values)) > 1:
                if parameter.is_flag:
                    problem = f"{' and '.join([*parameter.opts, *parameter.secondary_opts])} given together"
                else:
                    problem = f"different values for {name}: {' and '.join(dict.fromkeys(map(str, values)))}"
                raise UserError(problem, hint="keep one of them", code="cli.conflicting_values")
            if parameter.name in everywhere and parameter.is_flag:
                words.append(name if values[0] else parameter.secondary_opts[0])
            elif parameter.name in everywhere:
                words += [name, str(values[0])]
        ctx.meta[_GIVEN] = words
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
    """A subcommand. Its module is imported when its options are needed, which `ftbench --help` does not list."""

    def __init__(self, name: str, help: str, place: str) -> None:
        super().__init__(name, help=help, rich_markup_mode=None)
        self.place = place

    def load(self) -> None:
        """Read options and function from the module."""
        if self.callback is None:
            module, _, function = self.place.partition(":")
            app = typer.Typer(add_completion=False)
            app.command()(getattr(import_module(module), function))
            command = get_command(app)
            self.params, self.callback = command.params, command.callback

    def get_params(self, ctx: Any) -> list[Any]:
        self.load()
        return super().get_params(ctx)

    def invoke(self, ctx: Any) -> None:
        """Call the function, which returns the exit status; None is 0."""
        raise typer.Exit(super().invoke(ctx) or 0)


class Group(_Strict, TyperGroup):
    """`ftbench`, or a group of its subcommands (`ftbench data`)."""

    def __init__(self, table: Table | None = None, **settings: Any) -> None:
        """`table`: by default all subcommands of `ftbench`."""
        settings["commands"] = {
            name: Group(work, name=name, help=about, no_args_is_help=True, rich_markup_mode=None)
            if isinstance(work, dict)
            else Subcommand(name, about, work)
            for name, (about, work) in (with_extensions() if table is None else table).items()
        }
        super().__init__(**settings)


def with_extensions() -> Table:
    """All subcommands, with those of extensions: one named `presets import` is in the group `presets`.

    Raises UserError for one whose name is taken.
    """

    def placed(table: Table) -> Table:
        return {
            name: (about, placed(work) if isinstance(work, dict) else f"tui.cli.{work}")
            for name, (about, work) in table.items()
        }

    extended = placed(SUBCOMMANDS)
    for hook in hooks("ftbench.commands").values():
        *group, name = hook.name.split()
        commands = extended[group[0]][1] if group else extended
        if name in commands:
            raise UserError(f"two commands are named {hook.name!r}", hook.place, FIX, "extension.name_taken")
        commands[name] = (hook.about or inspect.getdoc(hook.load()) or "").partition("\n")[0], hook.place
    return extended


def global_options(root: Any) -> list[TyperOption]:
    """The options of `ftbench` itself."""
    return [parameter for parameter in root.params if isinstance(parameter, TyperOption)]


app = typer.Typer(
    name="ftbench",
    cls=Group,
    help="Measure quality and cost of QLoRA, LoRA and full fine-tuning on your model, your data and your GPU.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: options.Version = False,
    runs: options.Runs = None,
    ascii_only: options.Ascii = False,
    mouse: options.Mouse = True,
) -> None:
    if context.invoked_subcommand is not None:
        return
    if not streams.is_terminal():
        streams.write(f"{context.get_help()}\n")
        raise typer.Exit()
    from tui.cli import bench

    raise typer.Exit(bench.open_bench(runs_home(runs), ascii_only, mouse))


def run_command() -> None:
    """Run the subcommand that the command line names.

    Raises UserError for an invalid command line. Replaces typer's own error handling, which prints an error on four
    lines and reports a closed pipe (`| head`) as a failure.
    """
    refuse_gone(sys.argv[1:])
    command = get_command(app)
    keep_hub_cache_in_home()
    try:
        with command.make_context("ftbench", sys.argv[1:]) as context:
            command.invoke(context)
    except typer.Exit as done:
        sys.exit(done.exit_code)
    except TyperException as error:
        at = getattr(error, "ctx", None)
        message = " ".join(error.format_message().split())
        if at and message == " ".join(at.get_help().split()):  # a group without a subcommand: print its help
            streams.write_help(at.get_help())
            sys.exit(2)
        path = at.command_path if at else " ".join(["ftbench", *sys.argv[1:2]])
        names = at.command.list_commands(at) if at and isinstance(at.command, TyperGroup) else []
        known = f"its commands are {', '.join(names)}; " if 0 < len(names) <= MAX_LISTED else ""
        raise UserError(message.rstrip("."), hint=f"{known}see `{path} --help`", code="cli.usage") from error
