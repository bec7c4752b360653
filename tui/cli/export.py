"""`export`: write a finished run's model as an artifact and check that nothing was lost."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from engine.config.files import check_utf8, working_directory
from engine.config.text import visible
from engine.runs.exports import ExportKind, Fidelity, WeightType
from engine.runs.fidelity_text import fidelity_facts
from engine.runs.rpc_client import ask
from engine.runs.run_dir import RunDir
from tui.cli.data import shown_progress
from tui.output.console import print_json, say

STYLES = {"pass": "green", "worse": "red", "undecided": "yellow"}


@dataclass(frozen=True)
class ExportOptions:
    """The options of `ftbench export`."""

    kind: ExportKind
    type: WeightType | None
    out: Path | None
    margin: float
    """In points of a share, or hundredths of nats/token of a loss."""
    overwrite: bool
    accept_loss: bool
    now: bool
    json: bool


def export(run: RunDir, options: ExportOptions) -> int:
    """Export and print the check. Returns 1 if the artifact is worse than the run, unless that is accepted."""
    question: dict[str, Any] = {
        "run": str(run.path),
        "kind": options.kind,
        "type": options.type,
        "out": _absolute(options.out),
        "margin": options.margin / 100,
        "overwrite": options.overwrite,
        "wait": not options.now,
    }
    with shown_progress(options.json) as (progress, counted):
        answer = ask("export", question, progress, counted=counted)
    check = msgspec.convert(answer["fidelity"], Fidelity)
    if options.json:
        print_json(answer)
    else:
        show(Path(answer["folder"]), check)
    return 1 if check.outcome == "worse" and not options.accept_loss else 0


def show(folder: Path, check: Fidelity) -> None:
    """Print the folder and the figures of the check."""
    say(f"artifact: {visible(str(folder))}")
    for name, value in fidelity_facts(check):
        say(f"{name}: {value}", STYLES[check.outcome] if name == "outcome" else "")


def _absolute(out: Path | None) -> str | None:
    if out is None:
        return None
    check_utf8(str(out))
    return str(working_directory() / out.expanduser())
