"""Options shared by several subcommands, and the preset keys that they set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from engine import __version__
from engine.config.errors import UserError
from engine.config.hooks import shipped_hooks
from engine.config.method_specs import method_names, method_spec
from engine.config.settings import Flat, parse_overrides
from engine.config.text import listed
from tui.cli import completion
from tui.output import streams


def _version(requested: bool) -> None:
    if requested:
        streams.write(f"ftbench {__version__}\n")
        raise typer.Exit()


def _ascii_output(requested: bool) -> bool:
    if requested:
        streams.use_ascii()
    return requested


Runs = Annotated[Path | None, typer.Option("--runs", metavar="DIR", help="Directory of runs (default: the runs home).")]
Ascii = Annotated[bool, typer.Option("--ascii", callback=_ascii_output, help="Print ASCII characters only.")]
Mouse = Annotated[bool, typer.Option("--mouse/--no-mouse", help="Use the mouse in the bench.")]
Version = Annotated[
    bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
]
Preset = Annotated[
    str,
    typer.Option(
        "--preset", help="Preset whose model, data and length settings apply.", autocompletion=completion.presets
    ),
]
PresetName = Annotated[
    str, typer.Argument(metavar="PRESET", help="Preset name or TOML file.", autocompletion=completion.presets)
]
Json = Annotated[bool, typer.Option("--json", help="Print results and errors as JSON.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Set a preset key.", autocompletion=completion.settings),
]
DeviceSettings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Set a device, or where the model or data is now.",
        autocompletion=completion.settings,
    ),
]
Method = Annotated[
    str | None,
    typer.Option(
        "--method",
        metavar="METHOD",
        help=f"Fine-tuning method: {listed(method_names(), 'or')}.",
        autocompletion=completion.methods,
    ),
]
Compared = Annotated[
    list[str],
    typer.Argument(
        metavar="LADDER|RUN...",
        help="A ladder or several runs: name, part of it, path, 'last'.",
        autocompletion=completion.runs_and_ladders,
    ),
]
Pairs = Annotated[list[str] | None, typer.Option("--pair", metavar="A,B", help="Compare these two rungs; repeatable.")]
Price = Annotated[
    str | None,
    typer.Option("--price", metavar="IN,OUT", help="Price per million tokens, of prompts and of answers."),
]
Model = Annotated[
    str | None,
    typer.Option(
        "--model", help="Model: catalog name, folder, .gguf file or Hub id.", autocompletion=completion.models
    ),
]
Data = Annotated[
    str | None,
    typer.Option("--data", help="Dataset: name, file, folder or Hub id.", autocompletion=completion.data),
]
DataName = Annotated[
    str, typer.Argument(metavar="DATA", help="Dataset: name, file, folder or Hub id.", autocompletion=completion.data)
]
Device = Annotated[
    str | None,
    typer.Option("--device", metavar="DEVICE", help="cpu, or a GPU's index or UUID: 0, GPU-…, MIG-… (default: auto)."),
]
Devices = Annotated[
    str | None,
    typer.Option(
        "--devices",
        "--device",
        metavar="DEVICES",
        help="Devices that runs use at the same time: all (GPUs), 0,1 or UUIDs, cpu, cpu:2 (halves of the CPU).",
    ),
]
Share = Annotated[
    int | None,
    typer.Option(
        "--share", metavar="N", min=2, max=16, help="Runs at a time on each device, each in its part of the memory."
    ),
]
From = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="RUN",
        help="Finished run whose adapter or model the run starts from.",
        autocompletion=completion.runs,
    ),
]
Executor = Annotated[
    str | None,
    typer.Option(
        "--executor",
        metavar="NAME",
        help=f"Where workers run: {listed(('local', *shipped_hooks('ftbench.executors')), 'or')}.",
    ),
]
Partition = Annotated[str | None, typer.Option("--partition", help="Partition of the jobs.")]
Time = Annotated[
    str | None,
    typer.Option("--time", metavar="LIMIT", help="Time limit of a job: minutes, 12:00:00 or 2-00:00:00."),
]
Gres = Annotated[str | None, typer.Option("--gres", help="Resources of a job, such as gpu:1.")]
Now = Annotated[bool, typer.Option("--now", help="Start immediately, even if the GPU is busy.")]
Detach = Annotated[bool, typer.Option("--detach", help="Start in the background and return.")]
Seeds = Annotated[int, typer.Option("--seeds", min=1, max=20, help="Seeds per rung; one run each.")]
DemoSeeds = Annotated[
    int | None,
    typer.Option("--seeds", min=1, max=20, help="Seeds per rung; one run each (default: 3, with --quick 1)."),
]
Fresh = Annotated[bool, typer.Option("--fresh", help="Do not reuse finished runs.")]
Shots = Annotated[
    str | None,
    typer.Option(
        "--base-shots", metavar="N,N", help="Also score the base model with N training rows in each prompt: 0,4."
    ),
]
Retime = Annotated[bool, typer.Option("--retime", help="Repeat runs with disturbed timings instead of reusing them.")]
Run = Annotated[
    str,
    typer.Argument(
        metavar="RUN",
        help="Run or ladder: name, part of it, path, or 'last'.",
        autocompletion=completion.runs_and_ladders,
    ),
]
Margin = Annotated[
    float,
    typer.Option(
        "--margin", min=0, help="Accepted decrease in quality: percentage points; for a loss, hundredths of nats/token."
    ),
]


def chosen_method(name: str | None) -> str | None:
    """Return the value of --method. Raises UserError for an unknown method."""
    return None if name is None else method_spec(name).name


OPTION_KEYS = {
    "--model": "model.id",
    "--data": "data.id",
    "--method": "method",
    "--micro-batch": "train.micro_batch",
    "--from": "model.from_run",
    "--executor": "executor.name",
    "--partition": "executor.partition",
    "--time": "executor.time",
    "--gres": "executor.gres",
    "--device": "hardware.device",
}
"""Option -> the preset key that it sets."""


def overrides(settings: list[str] | None, share: int | None = None, **options: Any) -> Flat:
    """Return the command line as preset keys; `options` are those of OPTION_KEYS, None where not given.

    With a `share`, the device has this number of slots: `0,1:2`. Raises UserError where --devices has a number itself,
    and where an option and --set give a key different values.
    """
    if share is not None:
        device = options.get("device")
        if device is not None and ":" in device:
            problem, hint = f"--devices {device} and --share {share} given together", "keep one of them"
            raise UserError(problem, hint=hint, code="cli.conflicting_values")
        options["device"] = f"{device or 'auto'}:{share}"
    values = parse_overrides(settings or [])
    for option, key in OPTION_KEYS.items():
        value = options.get(option.removeprefix("--").replace("-", "_"))
        if value is None:
            continue
        if key in values and values[key] != value:
            problem = f"different values for {key}: {option} {value} and --set {key}={values[key]}"
            raise UserError(problem, hint="keep one of them", code="cli.conflicting_values")
        if key != "method":  # the method is a separate argument, because it decides which settings are read
            values[key] = value
    return values
