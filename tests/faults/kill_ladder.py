"""Kill ladders, rungs and terminals at random moments, count lost results, and print a table.

python tests/faults/kill_ladder.py --kills 20
"""

from __future__ import annotations

import argparse
import os
import pty
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

sys.path.insert(0, str(Path(__file__).parent.parent))

from command import FTBENCH, ON_SMALL, ftbench
from forked import ForkedProcess
from forked import ftbench as forked_ftbench

from engine.runs.ladder.ladder_dir import LadderDir
from engine.runs.run.run_dir import RunDir

SHORT = [
    *ON_SMALL,
    *("--set", "train.steps=6"),
    *("--set", "train.batch=4"),
    *("--set", "train.checkpoint_every=2"),
    *("--set", "train.probe=false"),
    *("--set", "data.validation=0.005"),
    *("--set", "data.max_rows=200"),
    *("--set", "evaluation.rows=4"),
    *("--set", "evaluation.max_new_tokens=4"),
    *("--set", 'evaluation.forgetting_text="none"'),
]
T = TypeVar("T")
VICTIMS = ("ladder", "rung", "terminal")
TerminalProcess = tuple["subprocess.Popen[bytes] | ForkedProcess", int]
"""A process as session leader on a new pty, and our end of the pty."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("FTBENCH_LOCKS", f"{folder}/locks")
        counts, lost, state = kill_many(Path(folder) / "runs", options.kills, random.Random(options.seed))
    print("| killed | count |\n|---|---|")
    print("\n".join(f"| {victim} | {count} |" for victim, count in counts.items()))
    print(f"\nfinished runs lost or repeated: {lost}; final state of the ladders: {state}")
    return int(bool(lost) or state != "finished")


def kill_many(
    runs: Path, kills: int, rng: random.Random, rungs: str = "lora,full", wait: float = 12.0, forks: bool = False
) -> tuple[dict[str, int], int, str]:
    """(kills by victim, finished runs lost, how the ladders ended); every kill is followed by resume or attach.

    forks: of a process that has imported the libraries, instead of installed commands.
    """
    counts = dict.fromkeys(VICTIMS, 0)
    lost, states = 0, set[str]()
    while sum(counts.values()) < kills:
        known = {ladder.path for ladder in LadderDir.iterate(runs)}
        terminal = open_terminal(runs, ["ladder", "demo", *SHORT, "--rung", rungs, "--no-probe", "--fresh"], forks)
        folder = wait_for(
            lambda known=known: next(
                (candidate for candidate in LadderDir.iterate(runs) if candidate.path not in known), None
            )
        )
        finished: dict[str, bytes] = {}
        while not has_ended(folder):
            time.sleep(rng.uniform(0.0, wait))
            if sum(counts.values()) < kills and not has_ended(folder):
                victim = rng.choice(VICTIMS)
                counts[victim] += strike(victim, folder, terminal)
            lost += sum(read(path) != text for path, text in finished.items())
            finished = {str(run.result_file): read(str(run.result_file)) for run in finished_runs(folder)}
            time.sleep(0.3)
            if not folder.is_active() and not has_ended(folder):
                (forked_ftbench if forks else ftbench)("resume", str(folder.path), "--detach")
            if terminal[0].poll() is not None:
                terminal = open_terminal(runs, ["attach", str(folder.path)], forks)
        lost += sum(read(path) != text for path, text in finished.items())
        close(terminal)
        state = folder.state()
        states.add(state.status if state else "nothing")
    return counts, lost, ", ".join(sorted(states))


def strike(victim: str, folder: LadderDir, terminal: TerminalProcess) -> int:
    """SIGKILL the ladder's process or its active run's, or close the terminal; 0 if it had ended already."""
    if victim == "terminal":
        return close(terminal)
    live = next((run for entry in entries(folder) if (run := RunDir(folder.runs / entry)).is_active()), None)
    pid = folder.pid() if victim == "ladder" else live.pid() if live else None
    if pid is None:
        return 0
    os.kill(pid, signal.SIGKILL)
    return 1


def open_terminal(runs: Path, arguments: list[str], forks: bool = False) -> TerminalProcess:
    """`ftbench ARGUMENTS` as session leader on a new pty, and our end of the pty."""
    ours, theirs = pty.openpty()
    process = (ForkedProcess if forks else subprocess.Popen)(
        [FTBENCH, *arguments, "--runs", str(runs)], stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    )
    os.close(theirs)
    os.set_blocking(ours, False)
    return process, ours


def close(terminal: TerminalProcess) -> int:
    process, ours = terminal
    if process.poll() is not None:
        return 0
    os.close(ours)
    process.kill()
    process.wait()
    return 1


def entries(folder: LadderDir) -> list[str]:
    state = folder.state()
    return [entry.run for entry in state.entries if entry.run] if state else []


def finished_runs(folder: LadderDir) -> list[RunDir]:
    runs = [RunDir(folder.runs / name) for name in entries(folder)]
    return [run for run in runs if run.state() == "finished"]


def read(path: str) -> bytes:
    """Content of a result, b'' if it is missing."""
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        return b""


def has_ended(folder: LadderDir) -> bool:
    state = folder.state()
    return state is not None and state.status != "running" and not folder.is_active()


def wait_for(condition: Callable[[], T | None], seconds: float = 600.0) -> T:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if result := condition():
            return result
        time.sleep(0.05)
    raise TimeoutError(f"not true within {seconds:.0f} s")


if __name__ == "__main__":
    sys.exit(main())
