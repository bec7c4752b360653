"""The entry point of `ftbench`: opens the workbench at once, and leaves subcommands and help to `tui.cli.main`.

The command-line parser is not imported for the workbench: that would take a third of the time to the first frame.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence
from typing import Any

from tui.cli import COMPLETION
from tui.cli.errors import handle_errors
from tui.output import streams


def main() -> None:
    options = bench_options(sys.argv[1:])
    if options is None or not streams.is_terminal() or COMPLETION in os.environ:
        handle_errors(_run_subcommand)
    else:
        handle_errors(lambda: _open_bench(**options))


def bench_options(arguments: Sequence[str]) -> dict[str, Any] | None:
    """The options of `_open_bench` if the command line has nothing else, else None.

    An option given twice and an empty folder are left to `tui.cli.main`, which reports the error.
    """
    options, rest = dict[str, Any](), list(arguments)
    names = [word.partition("=")[0] for word in rest if word.startswith("--")]
    if len(names) > len(set(names)) or not all(map(str.strip, rest)) or "--runs=" in rest:
        return None
    while rest:
        option = rest.pop(0)
        if option == "--ascii":
            options["ascii_only"] = True
        elif option in ("--mouse", "--no-mouse"):
            options["mouse"] = option == "--mouse"
        elif option == "--runs" and rest:
            options["runs"] = rest.pop(0)
        elif option.startswith("--runs="):
            options["runs"] = option.partition("=")[2]
        else:
            return None
    return options


def _run_subcommand() -> None:
    from tui.cli.main import run_command

    run_command()


def _open_bench(runs: str | None = None, ascii_only: bool = False, mouse: bool = True) -> None:
    """The options of `ftbench` without a subcommand, as in `tui.cli.main`."""
    os.environ.setdefault("ESCDELAY", "25")  # milliseconds after which Textual takes an escape for the key
    gc.disable()  # until the first frame: all that is imported stays, and collecting garbage takes a fifth of the time
    from pathlib import Path

    from engine.runs.home import runs_home
    from tui.cli.bench import open_bench

    sys.exit(open_bench(runs_home(Path(runs) if runs else None), ascii_only, mouse))
