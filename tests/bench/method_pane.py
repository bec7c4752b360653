"""Time from a key press until the method pane shows the memory estimate of the new selection.

`python tests/bench/method_pane.py [ROUNDS]` prints a Markdown table with median and range of ROUNDS (20 by default).
The terminal is a pty of 160 by 45; the time ends when the expected figure, or the mark of the method, has arrived.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
sys.path.insert(0, str(Path(__file__).parent / "workbench"))

from command import FTBENCH
from session import Session

from engine.config.method_specs import method_title
from engine.config.model_files import find_model
from engine.config.quantities import size
from tui.live.machine import MachineSampler, WatchedProcess
from tui.preview.method_estimate import memory_budget, method_estimates
from tui.selection import MARK, Selection

MAX_SECONDS = 0.050
"""Target."""
SETTLED = 0.4
"""Seconds between two key presses."""
PRESETS = {"2": "demo-lora", "5": "smollm2-lora", "8": "48gb-lora"}
METHODS = ("full", "qlora", "lora")
"""In the order of `m`, starting from LoRA."""


def figure(preset: str) -> bytes:
    """Expected text of the pane for a preset's method: its peak."""
    selection = Selection(preset)
    chosen = selection.effective()
    found = method_estimates(
        selection, find_model(chosen.config.model), memory_budget(MachineSampler().look(WatchedProcess()))
    )
    one = next(one for one in found if one.method == chosen.config.method)
    assert one.estimate is not None
    return size(one.estimate.peak).encode()


def pressed(session: Session, key: str, mark: bytes) -> float:
    """Seconds from a key press until the mark is shown."""
    time.sleep(SETTLED)
    since, began = session.written(), time.perf_counter()
    session.press(key)
    return session.until(mark, since) - began


def measured(session: Session, rounds: int) -> Iterator[tuple[str, list[float]]]:
    """Select presets with other models by their keys, then change the method."""
    marks = {key: figure(preset) for key, preset in PRESETS.items()}
    seconds: dict[str, list[float]] = {f"key {key}: {preset}": [] for key, preset in PRESETS.items()}
    seconds |= {f"key m: to {method_title(method)}": [] for method in METHODS}
    for _ in range(rounds):
        for key, preset in PRESETS.items():
            seconds[f"key {key}: {preset}"].append(pressed(session, key, marks[key]))
        for method in METHODS:
            name = method_title(method)
            seconds[f"key m: to {name}"].append(pressed(session, "m", f"{MARK}{name}".encode()))
    yield from seconds.items()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rounds", nargs="?", type=int, default=20)
    rounds, met = parser.parse_args().rounds, True
    with tempfile.TemporaryDirectory() as folder:
        session = Session([FTBENCH, "--runs", str(Path(folder) / "runs")])
        try:
            session.until(b"formula, ")  # the memory of the machine is known
            pressed(session, "3", b"Full")
            print("| key | median | range | target | met |\n|---|---|---|---|---|")
            for what, values in measured(session, rounds):
                middle = statistics.median(values)
                met &= middle <= MAX_SECONDS
                spread = f"{min(values) * 1000:.0f}–{max(values) * 1000:.0f}"
                yes = "yes" if middle <= MAX_SECONDS else "NO"
                print(f"| {what} | {middle * 1000:.0f} ms | {spread} | ≤ {MAX_SECONDS * 1000:.0f} ms | {yes} |")
        finally:
            session.end()
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
