"""Commands of another package: `ftbench steps RUN`, and `ftbench presets count` in one of ftbench's groups."""

from __future__ import annotations

from engine.config.preset_library import list_presets
from engine.runs.run.run_dir import RunDir
from tui.cli import options
from tui.cli.lookup import find_named
from tui.output.console import print_json, say


def steps(name: options.Run = "last", runs: options.Runs = None) -> int:
    """Print the number of steps of a run; exit with 1 if it has not ended."""
    run = find_named(runs, name, (RunDir,))
    result = run.result()
    say(f"{result.steps} steps" if result else "not ended")
    return int(result is None)


def count(json: options.Json = False) -> None:
    """Print the number of presets."""
    print_json(len(list_presets()))
