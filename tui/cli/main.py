"""The `ftbench` command and its subcommands.

Modules of subcommands are imported inside their functions, so that `ftbench --help` and each subcommand start fast.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException
from typer.main import get_command

from engine.config.errors import UserError
from engine.config.home import keep_hub_cache_in_home
from engine.runs.home import runs_home
from engine.runs.run import run_dir
from engine.runs.run.run_dir import RunDir
from tui.cli import options
from tui.cli.arguments import App
from tui.cli.comparing import comparing_app
from tui.cli.data_and_presets import data_app, plan_app, presets_app
from tui.cli.lookup import home, run_ladder_or_sweep, show_origin
from tui.cli.shipping import shipping_app
from tui.cli.upkeep import upkeep_app
from tui.output import streams

MAX_LISTED = 8
"""Commands of a group that an error lists."""

app = App(
    name="ftbench",
    help="Measure quality and cost of QLoRA, LoRA and full fine-tuning on your model, your data and your GPU.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(data_app, name="data")
app.add_typer(presets_app, name="presets")
app.add_typer(plan_app)
app.add_typer(comparing_app)
app.add_typer(shipping_app)
app.add_typer(upkeep_app)


@app.command()
def run(
    preset: Annotated[str, typer.Argument(metavar="PRESET", help="Preset name or TOML file.")],
    method: options.Method = None,
    model: options.Model = None,
    data: options.Data = None,
    device: options.Device = None,
    share: options.Share = None,
    settings: options.Set = None,
    start: options.From = None,
    runs: options.Runs = None,
    detach: options.Detach = False,
    now: options.Now = False,
    executor: options.Executor = None,
    partition: options.Partition = None,
    time: options.Time = None,
    gres: options.Gres = None,
    json: options.Json = False,
) -> None:
    """Train and evaluate one run. Ctrl+C asks: detach or stop."""
    from tui.cli import run as verb

    folder = home(runs, launch=True, json=json)
    from_run = None if start is None else str(run_dir.find(folder, start).path)
    where = options.shared_device(device, share)
    job = {"executor": executor, "partition": partition, "time": time, "gres": gres, "from": from_run}
    given = options.overrides(settings, model=model, data=data, method=method, device=where, **job)
    raise typer.Exit(verb.run(preset, options.chosen_method(method), given, folder, now, detach, json))


@app.command()
def attach(name: options.RunOrSweep = "last", runs: options.Runs = None, json: options.Json = False) -> None:
    """Replay and follow a run, ladder or sweep."""
    from tui.cli import ladder, run

    folder = run_ladder_or_sweep(runs, name, json)
    show_origin(folder, quiet=json)
    raise typer.Exit(run.attach(folder, json) if isinstance(folder, RunDir) else ladder.watch(folder, json))


@app.command()
def stop(name: options.RunOrSweep = "last", runs: options.Runs = None, json: options.Json = False) -> None:
    """Stop a run, ladder or sweep, with a checkpoint."""
    from tui.cli import run as verb

    folder = run_ladder_or_sweep(runs, name, json)
    show_origin(folder, quiet=json)
    raise typer.Exit(verb.stop(folder, json))


@app.command()
def resume(
    name: options.RunOrSweep = "last",
    runs: options.Runs = None,
    settings: options.DeviceSettings = None,
    detach: options.Detach = False,
    json: options.Json = False,
) -> None:
    """Resume a run, ladder or sweep."""
    from tui.cli import ladder, run

    folder = run_ladder_or_sweep(runs, name, json)
    changed = options.overrides(settings)
    show_origin(folder, quiet=json)
    if isinstance(folder, RunDir):
        raise typer.Exit(run.resume(folder, detach, json, changed))
    raise typer.Exit(ladder.resume(folder, detach, json, changed))


@app.command("runs")
def list_runs(runs: options.Runs = None, json: options.Json = False) -> None:
    """List runs and ladders."""
    from tui.cli import runs as verb

    verb.show(home(runs, json=json), json)


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
