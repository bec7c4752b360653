"""Kill workers, nodes, controllers, ladders and terminals while a ladder runs as a Slurm job array; print what is lost.

    python tests/faults/kill_slurm.py --kills 20

Needs Debian's slurmctld, slurmd and slurm-client. The ladder's scores and losses are compared with those of the same
ladder on this machine, and each run has to be executed by one worker at a time.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from command import events_of, ftbench
from slurm_sandbox import NODES, Sandbox

from engine.extensions.slurm.slurm import SlurmQueue
from engine.runs.ladder.ladder_dir import LadderDir
from engine.runs.run.run_dir import RunDir
from faults.kill_ladder import SHORT, close, finished_runs, has_ended, open_terminal, read, wait_for

VICTIMS = ("worker", "node", "controller", "ladder", "terminal")
LADDER = ["ladder", "demo", *SHORT, "--rung", "lora", "--rung", "full", "--seeds", "3", "--no-probe", "--fresh"]
DOWN_SECONDS = 5.0
"""How long a killed node or controller stays away."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ.setdefault("FTBENCH_LOCKS", f"{folder}/locks")
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        expected = undisturbed(folder / "local")
        sandbox = Sandbox(folder / "slurm")
        sandbox.up()
        os.environ.update({key: sandbox.environment()[key] for key in ("SLURM_CONF", "PATH")})
        try:
            counts, problems, rounds = kill_many(sandbox, folder, expected, options.kills, random.Random(options.seed))
        finally:
            sandbox.down()
    print("| killed | count |\n|---|---|")
    print("\n".join(f"| {victim} | {count} |" for victim, count in counts.items()))
    print(f"\n{rounds} ladders of {len(expected)} runs; lost, repeated or different: {len(problems)}")
    print("\n".join(problems))
    return int(bool(problems))


Outcome = dict[str, tuple[object, dict[int, float]]]
"""Rung and seed -> (score, loss by step)."""


def undisturbed(runs: Path) -> Outcome:
    done = ftbench(*LADDER, "--runs", str(runs))
    assert done.returncode == 0, done.stderr
    return outcome(LadderDir.find(runs, "last"))[0]


def outcome(folder: LadderDir) -> tuple[Outcome, list[str]]:
    """What the ladder's runs gave, and what is wrong in their directories."""
    state = folder.state()
    assert state is not None
    results: Outcome = {}
    problems = []
    for entry in state.entries:
        run = RunDir(folder.runs / entry.run)
        result = run.result()
        score = result.after.score if result and result.after else None
        losses: dict[int, float] = {}
        for event in events_of(run.path):
            if event["type"] == "step" and losses.setdefault(event["step"], event["loss"]) != event["loss"]:
                problems.append(f"{run.name}: step {event['step']} was repeated with another loss")
        sequence = [event["seq"] for event in events_of(run.path)]
        if sequence != sorted(set(sequence)):
            problems.append(f"{run.name}: two workers wrote events at the same time")
        results[f"{entry.rung} {entry.seed}"] = (score, losses)
    if extra := {run.name for run in RunDir.iterate(folder.runs)} - {entry.run for entry in state.entries}:
        problems.append(f"runs that no entry has: {', '.join(sorted(extra))}")
    return results, problems


def kill_many(
    sandbox: Sandbox, home: Path, expected: Outcome, kills: int, rng: random.Random
) -> tuple[dict[str, int], list[str], int]:
    """(kills by victim, problems, ladders)."""
    counts, problems, rounds = dict.fromkeys(VICTIMS, 0), list[str](), 0
    while sum(counts.values()) < kills:
        rounds += 1
        runs = home / f"round-{rounds}"
        terminal = open_terminal(runs, [*LADDER, "--executor", "slurm"])
        folder = wait_for(lambda runs=runs: next(LadderDir.iterate(runs), None))
        finished: dict[str, bytes] = {}
        while not has_ended(folder):
            time.sleep(rng.uniform(0.0, 8.0))
            if sum(counts.values()) < kills and not has_ended(folder):
                victim = rng.choice(VICTIMS)
                counts[victim] += strike(victim, sandbox, folder, terminal)
            problems += [f"{path} was lost or repeated" for path, text in finished.items() if read(path) != text]
            finished = {str(run.result_file): read(str(run.result_file)) for run in finished_runs(folder)}
            if not folder.is_active() and not has_ended(folder):
                ftbench("resume", str(folder.path), "--detach")
            if terminal[0].poll() is not None:
                terminal = open_terminal(runs, ["attach", str(folder.path)])
        close(terminal)
        got, wrong = outcome(folder)
        problems += wrong
        problems += [f"round {rounds}: {key} differs" for key in expected if got.get(key) != expected[key]]
    return counts, problems, rounds


def strike(victim: str, sandbox: Sandbox, folder: LadderDir, terminal: tuple[subprocess.Popen[bytes], int]) -> int:
    """Kill one of them; 0 if it had ended already."""
    if victim == "terminal":
        return close(terminal)
    if victim == "controller":
        sandbox.kill_controller()
        time.sleep(DOWN_SECONDS)
        sandbox.start_controller()
        return 1
    state = folder.state()
    runs = [RunDir(folder.runs / entry.run) for entry in state.entries if entry.run] if state else []
    working = next((run for run in runs if run.is_locked()), None)
    if victim == "node":
        job = working.job() if working else None
        node = SlurmQueue().state(job).node if job else ""
        if node not in NODES:
            return 0
        sandbox.kill_node(node)
        time.sleep(DOWN_SECONDS)
        sandbox.start_node(node)
        return 1
    pid = folder.pid() if victim == "ladder" else working.pid() if working else None
    if pid is None:
        return 0
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return 0
    return 1


if __name__ == "__main__":
    sys.exit(main())
