"""The bench and the command line can do the same things: every subcommand, option and key is in one of these tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from subcommands import subcommands
from typer.core import TyperOption
from typer.main import get_command

from engine.config.setting_specs import setting_specs
from tui.cli.main import app
from tui.commands import all_commands
from tui.preview.ladder_launch import LadderLaunch
from tui.preview.launch_context import LaunchContext
from tui.preview.launches import RunLaunch
from tui.selection import Selection

EVERYWHERE = ("--runs", "--json", "--ascii", "--no-mouse", "--version", "--help", "--detach")
"""Options on how `ftbench` starts and prints; the bench always detaches."""
ON_BENCH: dict[str, dict[str, str]] = {
    "demo": {
        "": "bench.run_ladder",
        "--seeds": "ladder: seeds",
        "--quick": "ladder: epochs",
        "--fresh": "ladder: fresh",
        "--devices": "bench.device",
        "--share": "set: hardware.device",
        "--executor": "set: executor.name",
    },
    "ladder": {
        "": "bench.run_ladder",
        "PRESET": "preset.1",
        "--rung": "ladder: rungs",
        "--seeds": "ladder: seeds",
        "--learning-rates": "ladder: learning rates",
        "--margin": "ladder: margin",
        "--ship": "ladder: artifacts",
        "--model": "models.select",
        "--data": "data.select",
        "--set": "config.edit",
        "--probe": "ladder: timing probe",
        "--fresh": "ladder: fresh",
        "--devices": "bench.device",
        "--share": "set: hardware.device",
        "--executor": "set: executor.name",
    },
    "report": {"": "ladder.report", "LADDER": "ladder.next", "--markdown": "ladder.report"},
    "run": {
        "": "bench.start",
        "PRESET": "preset.1",
        "--method": "bench.method",
        "--model": "models.select",
        "--data": "data.select",
        "--set": "config.edit",
        "--from": "runs.continue",
        "--now": "launch.now",
        "--device": "bench.device",
        "--share": "set: hardware.device",
        "--executor": "set: executor.name",
    },
    "attach": {"": "bench.ladder", "RUN": "runs.attach"},
    "stop": {"": "bench.stop", "RUN": "runs.stop"},
    "resume": {"": "bench.resume", "RUN": "runs.resume"},
    "runs": {"": "bench.runs"},
    "pull": {"": "models.pull", "NAME": "models.pull"},
    "plan": {"": "bench.methods", "PRESET": "preset.1", "--method": "bench.method", "--set": "config.edit"}
    | {"--model": "models.select", "--data": "data.select", "--micro-batch": "set: train.micro_batch"}
    | {"--device": "bench.device"},
    "export": {"": "runs.export", "RUN": "runs.export", "--to": "runs.export", "--type": "runs.export"},
    "try": {
        "": "runs.try",
        "RUN...": "runs.mark",
        "--prompt": "try.write",
        "--items": "try.next",
        "--system": "try.system",
        "--temperature": "try.sampling",
        "--top-p": "try.sampling",
        "--seed": "try.sampling",
        "--max-new-tokens": "try.sampling",
        "--device": "try.cpu",
        "--now": "try.now",
    },
    "data check": {"": "data.inspect", "DATA": "data.select", "--preset": "preset.1", "--model": "models.select"}
    | {"--set": "config.edit"},
    "data show": {"": "data.inspect", "DATA": "data.select", "--preset": "preset.1", "--model": "models.select"}
    | {"--set": "config.edit", "--rows": "inspector.next", "--split": "inspector.split"},
    "presets list": {"": "bench.presets"},
    "presets show": {"": "bench.config", "PRESET": "presets.config"}
    | {"--method": "bench.method", "--set": "config.edit"},
    "presets new": {"": "presets.duplicate", "NAME": "presets.duplicate", "--from": "presets.duplicate"}
    | {"--method": "bench.method", "--set": "config.edit", "--model": "models.select", "--data": "data.select"},
}
"""Subcommand -> its options and arguments ('' for the subcommand) -> a key's command, `set: KEY` for a setting of the
configuration screen, `run: OPTION` or `ladder: OPTION` for an option of the launch screen."""
COMMAND_LINE_ONLY = {
    "completion": "completes words in a shell",
    "schema": "describes files for other programs",
    "clean": "deletes: typed in full, shown before it is done",
    "track": "for finished runs; `track.to` is a setting",
    "ladder --vary": "a sweep is several ladders with one report",
    "ladder --budget": "a limit for a sweep",
    "ladder --retime": "repeats measurements for a report",
    "ladder --base-shots": "a question of the report; the bench shows its rung",
    "resume --set": "moves a run to other devices: rare, and typed in full",
    "gate": "an exit status for pipelines",
    "doctor": "checks the machine, also where the bench does not start",
    "monitor": "the machine pane",
    "queue": "the header of the bench shows the queue; `ftbench queue` adds times and directories",
    "runs --adopt": "moves a directory of runs once; the bench shows the command where there is one to move",
    "plan --gpu": "a GPU of another machine",
    "plan --card": "the older name of --gpu",
    "plan --length": "a question without a dataset",
    "plan --quick": "the bench shows the formula at once",
    "plan --history": "a report on earlier predictions",
    "export --out": "a folder outside the run, for scripts",
    "export --margin": "the outcome is shown with its interval",
    "export --overwrite": "for scripts",
    "export --accept-loss": "an exit status for pipelines",
    "export --push": "publishes: typed in full",
    "export --public": "publishes: typed in full",
    "export --now": "the dialog waits for the device and can be cancelled",
    "try --base": "the base is a column that can be left out of view",
}
"""Subcommands and options without a key, and why."""
OF_SCHEDULER = ("--partition", "--time", "--gres")
"""Options of `--executor slurm`."""
BENCH_ONLY = {
    "app": "how the bench looks and is left",
    "picker": "a path is typed on the command line",
    "inspector": "pages of `ftbench data show`",
    "processes": "`nvidia-smi` and `nvitop`",
    "bench.processes": "`nvidia-smi` and `nvitop`",
    "charts": "curves; `ftbench track` shows them in other tools",
    "bench.charts": "curves; `ftbench track` shows them in other tools",
    "bench.data": "`--data`",
    "bench.models": "`--model`",
    "presets.select": "PRESET",
    "bench.live": "`ftbench attach NAME`",
    "bench.pause": "`ftbench stop`, then `ftbench resume`",
    "runs.pause": "`ftbench stop`, then `ftbench resume`",
    "runs.again": "the `command` in run.toml",
    "runs.delete": "a run is a directory",
    "runs.compare": "`ftbench runs --json`",
    "presets.edit": "a preset is a file",
    "presets.delete": "a preset is a file",
    "presets.save": "`ftbench presets new`",
    "data.add": "`--data`",
    "data.forget": "the list of recent datasets belongs to the bench",
    "try.save": "`ftbench try --json`",
}
"""Keys for what the command line does in another way, and which."""
VIEWS = (
    *("back", "sort", "reverse", "filter", "mark", "next", "previous", "view", "log_scale", "smooth", "earlier"),
    *("find", "output", "copy", "save", "clear", "right", "left", "stop", "resume", "attach", "try", "export"),
)
"""Last parts of the ids of commands that show, copy or repeat what other commands of the tables do."""


def command_of(words: str) -> Any:
    found: Any = get_command(app)
    for word in words.split():
        found = found.commands[word]
    return found


def parameters(subcommand: str) -> list[str]:
    """The names of a subcommand's options and arguments."""
    found = []
    for one in command_of(subcommand).params:
        name = one.opts[0] if isinstance(one, TyperOption) else str(one.metavar or one.name).upper()
        found.append(name)
    return [name for name in found if name not in (*EVERYWHERE, *OF_SCHEDULER)]


def test_every_subcommand_and_option_is_on_the_bench_or_has_a_reason() -> None:
    missing = []
    for subcommand in subcommands():
        if subcommand in COMMAND_LINE_ONLY:
            continue
        known = ON_BENCH.get(subcommand, {})
        for name in ["", *parameters(subcommand)]:
            if name not in known and f"{subcommand} {name}" not in COMMAND_LINE_ONLY:
                missing.append(f"{subcommand} {name}")
    assert not missing, f"{missing}: add a key or an option on the bench, or a reason"


def test_what_the_tables_name_exists(tmp_path: Path) -> None:
    ids = {command.id for command in all_commands()}
    context = LaunchContext(tmp_path)
    run = RunLaunch.of(Selection(), tmp_path, lambda: context)
    ladder = LadderLaunch.of(Selection(), tmp_path, lambda: context)
    options = {f"run: {one.name}" for one in run.options()} | {f"ladder: {one.name}" for one in ladder.options()}
    settings = {f"set: {key}" for key in setting_specs()}
    named = {place for places in ON_BENCH.values() for place in places.values()}
    assert named - ids - options - settings == set()
    assert {name.split(" --")[0] for name in COMMAND_LINE_ONLY} <= set(subcommands())
    assert {name for name in BENCH_ONLY if "." in name} <= ids


def test_every_key_is_on_the_command_line_or_has_a_reason() -> None:
    named = {place for places in ON_BENCH.values() for place in places.values()}
    missing = [
        command.id
        for command in all_commands()
        if command.id not in named
        and command.id not in BENCH_ONLY
        and command.group not in (*BENCH_ONLY, "preset", "launch", "config", "models")
        and command.id.rpartition(".")[2] not in VIEWS
    ]
    assert not missing, f"{missing}: add a subcommand or an option, or a reason"
