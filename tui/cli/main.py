"""The subcommands of `ftbench`, and their start by Typer. `tui.start` opens the bench without this module."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable
from importlib import import_module
from itertools import pairwise
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup, TyperOption
from typer.exceptions import TyperException
from typer.main import get_command

from engine.config.errors import UserError
from engine.config.home import keep_hub_cache_in_home
from engine.config.hooks import FIX, hooks
from engine.runs.home import runs_home
from tui.cli import COMPLETION, options
from tui.cli.gone import refuse_gone
from tui.output import streams

Table = dict[str, tuple[str, Any]]
"""Name of a subcommand -> its help, and `module:function`, whose parameters are the options of the subcommand; for a
group of subcommands its help, and their table.
"""
SUBCOMMANDS: Table = {
    "run": ("Train and evaluate one run. Ctrl+C asks: detach or stop.", "run:run"),
    "attach": ("Replay and follow a run or ladder.", "attach:attach"),
    "stop": ("Stop a run or ladder, with a checkpoint.", "attach:stop"),
    "resume": ("Resume a run or ladder.", "attach:resume"),
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
    "report": ("Write the report of a ladder; print its path.", "ladder:report"),
    "export": ("Export a run, or a ladder's recommended one, and check it.", "export:export"),
    "gate": ("Exit with 0 only if a gain's lower bound reaches --min-gain.", "gate:gate"),
    "pull": ("Download a model of the catalog or of the Hub.", "pull:pull"),
    "schema": ("Print the JSON Schema of a file or of --json output.", "schema:schema"),
    "clean": ("Show what takes disk space, and remove what is named.", "disk:clean"),
    "queue": ("Show who uses each device and who waits, since when.", "monitor:queue"),
    "monitor": ("Show GPUs, memory and the queue, as they change.", "monitor:monitor"),
    "home": ("Show where runs and caches are, or choose another place.", "disk:home"),
}
"""Those of the core, whose modules are in `tui.cli`; `with_extensions` adds those of extensions."""
MAX_LISTED = 8
"""Commands of a group that an error lists."""


class _Strict:
    """Mixin for commands and groups, placed before Typer's class."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Raises UserError for an option that takes one value and is repeated, of which Typer takes the last."""
        order = [] if ctx.resilient_parsing else self.make_parser(ctx).parse_args(args=[*args])[2]  # type: ignore[attr-defined]
        for option in order:
            if isinstance(option, TyperOption) and not (option.multiple or option.is_flag) and order.count(option) > 1:
                problem = f"{option.opts[0]} is given {order.count(option)} times"
                raise UserError(problem, hint="keep one of them", code="cli.conflicting_values")
        return super().parse_args(ctx, args)  # type: ignore[misc,no-any-return]


class Subcommand(_Strict, TyperCommand):
    """A subcommand. Its module is imported when its options are needed, which `ftbench --help` does not list."""

    def __init__(self, path: str, help: str, place: str) -> None:
        """`path`: `data check`."""
        super().__init__(path.split()[-1], help=help, rich_markup_mode=None)
        self.path, self.place = path, place

    def load(self) -> None:
        """Read options and function from the module."""
        if self.callback is None:
            module, _, function = self.place.partition(":")
            app = typer.Typer(add_completion=False)
            app.command()(with_added_options(self.path, getattr(import_module(module), function)))
            command = get_command(app)
            self.params, self.callback = command.params, command.callback

    def get_params(self, ctx: Any) -> list[Any]:
        self.load()
        return super().get_params(ctx)

    def invoke(self, ctx: Any) -> None:
        """Call the function, which returns the exit status; None is 0."""
        raise typer.Exit(super().invoke(ctx) or 0)


def with_added_options(command: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function of a command with the options that extensions add, in the place of its parameter `added`, which gets
    what they return.

    Raises UserError for options of a command that has no such parameter.
    """
    adders = [hook for name, hook in hooks("ftbench.options").items() if name.rpartition(" ")[0] == command]
    own = inspect.signature(function, eval_str=True).parameters
    if "added" not in own:
        if adders:
            problem = f"`ftbench {command}` takes no options of extensions"
            raise UserError(problem, adders[0].place, FIX, "extension.invalid")
        return function
    parts = [(adder, inspect.signature(adder, eval_str=True).parameters) for adder in (hook.load() for hook in adders)]

    def call(**values: Any) -> Any:
        given = [adder(**{name: values.pop(name) for name in part}) for adder, part in parts]
        return function(**values, added=[work for work in given if work is not None])

    added = [parameter for _, part in parts for parameter in part.values()]
    every = [choice for name, known in own.items() for choice in (added if name == "added" else [known])]
    call.__signature__ = inspect.Signature(every)  # type: ignore[attr-defined]
    return call


class Group(_Strict, TyperGroup):
    """`ftbench`, or a group of its subcommands (`ftbench data`)."""

    def __init__(self, table: Table | None = None, path: str = "", **settings: Any) -> None:
        """`table`: by default all subcommands of `ftbench`."""
        settings["commands"] = {
            name: Group(work, name, name=name, help=about, no_args_is_help=True, rich_markup_mode=None)
            if isinstance(work, dict)
            else Subcommand(f"{path} {name}".strip(), about, work)
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


app = typer.Typer(
    name="ftbench",
    cls=Group,
    help="Measure quality and cost of QLoRA, LoRA and full fine-tuning on your model, your data and your GPU.",
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
        if runs is not None:  # for each subcommand that has the option
            context.default_map = {name: {"runs": str(runs)} for name in with_extensions()}
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
    for before, word in pairwise(["ftbench", *sys.argv[1:]]):
        name, equals, value = word.partition("=") if word.startswith("--") else ("", "", "")
        if not (value if equals else word).strip():  # of an unset variable; '' is a part of each name, and a folder
            raise UserError(
                f"empty value after {name or before}", hint="omit it, or give a value", code="cli.empty_value"
            )
    command = get_command(app)
    if COMPLETION in os.environ:
        command.main(prog_name="ftbench")
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
        refuse_gone(path, sys.argv[1:])
        names = at.command.list_commands(at) if at and isinstance(at.command, TyperGroup) else []
        known = f"its commands are {', '.join(names)}; " if 0 < len(names) <= MAX_LISTED else ""
        raise UserError(message.rstrip("."), hint=f"{known}see `{path} --help`", code="cli.usage") from error
