"""Where `ftbench` begins. The workbench is opened straight away; a verb, or help, is the business of `tui.cli.app`.

Over SSH one waits for the first picture: the machinery of the verbs, a third of the time to it, is not imported.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from tui.cli.errors import at_the_edge
from tui.output import streams


@dataclass
class Opening:
    """The options of `ftbench` without a verb, as `tui.cli.app` has them."""

    runs: str | None = None
    ascii_only: bool = False
    mouse: bool = True


def main() -> None:
    """The console script."""
    opening = bench_options(sys.argv[1:])
    if opening is None or not streams.is_terminal():
        at_the_edge(_verb)
    else:
        at_the_edge(lambda: _open(opening))


def bench_options(arguments: Sequence[str]) -> Opening | None:
    """The options where there is nothing else on the command line, else None.

    An option given twice is left to `tui.cli.app`, which refuses values in conflict; so is a blank folder.
    """
    found, rest = Opening(), list(arguments)
    names = [word.partition("=")[0].replace("--no-mouse", "--mouse") for word in rest if word.startswith("--")]
    if len(names) > len(set(names)) or not all(map(str.strip, rest)) or "--runs=" in rest:
        return None
    while rest:
        option = rest.pop(0)
        if option == "--ascii":
            found.ascii_only = True
        elif option in ("--mouse", "--no-mouse"):
            found.mouse = option == "--mouse"
        elif option == "--runs" and rest:
            found.runs = rest.pop(0)
        elif option.startswith("--runs="):
            found.runs = option.partition("=")[2]
        else:
            return None
    return found


def _verb() -> None:
    from tui.cli.app import verbs

    verbs()


def _open(opening: Opening) -> None:
    gc.disable()  # until the first picture: all that is imported stays, and looking for rubbish in it takes a fifth
    from pathlib import Path

    from engine.runs.home import runs_home
    from tui.cli.bench import open_bench

    runs = runs_home(Path(opening.runs) if opening.runs else None)
    sys.exit(open_bench(runs, opening.ascii_only, opening.mouse, hints=opening.runs is None))
