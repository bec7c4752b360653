"""Kill the processes of sweeps, of `try`, and single ranks after a checkpoint; print what is lost.

`python -m tools.attacks.run_process_kills [PART …]`: `try`, `ranks`, `sweep`; all by default.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from tools.attacks.run_common import (
    FTBENCH,
    Table,
    ended,
    ftbench,
    last_line,
    lines,
    losses,
    pairs,
    pid_of,
    start,
    tiny_with,
    wait,
    workplace,
)
from tools.attacks.run_exports import content
from tools.attacks.run_kills import differing, equal_fields

SECONDS = 60.0
"""In which processes must end whose client was killed."""
RANKS = ("--set", "train.devices=2", "--set", "hardware.device=cpu:2")


def tries(table: Table, folder: Path, rng: random.Random) -> None:
    run = start(folder / "tries")
    wait(lambda: (run / "result.json").exists() and ended(run), "the run")
    before = content(run)
    started = time.monotonic()
    done = ftbench("try", run.name, "--prompt", "hello", "--max-new-tokens", "4", runs=run.parent)
    assert done.code == 0, done.err
    longest = time.monotonic() - started
    for number in range(8):
        name = ("SIGKILL", "SIGTERM", "SIGINT", "SIGKILL", "SIGSTOP")[number % 5]
        victim = number % 3
        with table.attack(f"{name} of {('`try`', 'its process', 'a random one')[victim]}") as say:
            command = subprocess.Popen(
                [FTBENCH, "try", run.name, "--prompt", "hello", "--max-new-tokens", "64"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                env={**os.environ, "FTBENCH_RUNS": str(run.parent)},
            )
            time.sleep(rng.uniform(0.2, 0.95) * longest)
            family = below(command.pid)
            chosen = family[0] if victim == 0 or len(family) < 2 else family[-1] if victim == 1 else rng.choice(family)
            with contextlib.suppress(psutil.NoSuchProcess):
                chosen.send_signal(getattr(signal, name))
                if name == "SIGSTOP":
                    time.sleep(1)
                    chosen.send_signal(signal.SIGCONT)
            said, _ = command.communicate(timeout=300)
            say(f"{command.returncode}, {said.strip().splitlines()[-1][:80] if said.strip() else ''}")
            gone(family, "try")
            assert "Traceback" not in said, said[-400:]
            assert command.returncode in (0, 1, 2, 130, 143, -2, -9, -15), command.returncode
            assert command.returncode not in (1, 2) or said.strip(), "failed without a message"
            assert content(run) == before, "the run was changed"
    with table.attack("`try` after the kills"):
        done = ftbench("try", run.name, "--prompt", "hello", "--max-new-tokens", "4", runs=run.parent)
        assert done.code == 0, done.err


def below(pid: int) -> list[psutil.Process]:
    try:
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def gone(processes: list[psutil.Process], name: str) -> None:
    deadline = time.monotonic() + SECONDS
    while left := [process for process in processes if process.is_running() and process.status() != "zombie"]:
        assert time.monotonic() < deadline, f"{len(left)} processes of {name} are still running: {left}"
        time.sleep(0.1)


def ranks(table: Table, folder: Path, rng: random.Random) -> None:
    settings = [*RANKS, "--set", "train.steps=8", "--set", "train.keep_checkpoints=2"]
    reference = start(folder / "reference", *settings)
    wait(lambda: ended(reference), "the reference run")
    assert (reference / "result.json").exists(), lines(reference)[-1]
    expected, curve = equal_fields(reference), losses(reference)
    for number in range(5):
        run, killed = start(folder / "ranks", *settings), 0
        with table.attack(f"kills of single ranks after checkpoints, number {number}") as say:
            for step in ((2, 6), (4,), (2, 4, 6), (6,), (8,))[number % 5]:
                seen = len(lines(run))
                wait(
                    lambda: any(e["type"] == "checkpoint" and e["step"] >= step for e in lines(run)) or ended(run),  # noqa: B023
                    "a checkpoint",
                )
                pid = pid_of(run)
                if pid is None:
                    break
                children = [p for p in below(pid)[1:] if any("rank" in word for word in p.cmdline())] or below(pid)[1:]
                victims = children or below(pid)
                victim = victims[(number + killed) % len(victims)]
                name = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV)[number % 4]
                say(f"{name.name} of {victims.index(victim) + 1} of {len(victims)}")
                with contextlib.suppress(psutil.NoSuchProcess):
                    victim.send_signal(name)
                killed += 1
                wait(lambda: ended(run), "the worker to end", 180)  # noqa: B023
                gone(children, "the run")
                assert len(lines(run)) >= seen
                (shown,) = [
                    e for e in json.loads(ftbench("runs", "--json", runs=run.parent).out) if e["name"] == run.name
                ]
                say(f"{shown['state']}: {shown['reason'][:60]}")
                assert shown["state"] not in ("live", "starting", "training")
                if shown["state"] == "finished":
                    break
                assert shown["reason"], "no reason"
                done = ftbench("resume", run.name, "--detach", runs=run.parent)
                assert done.code == 0 and not done.clean, done.err
            wait(lambda: ended(run), "the end")  # noqa: B023
            if (
                not (run / "result.json").exists()
                or json.loads((run / "result.json").read_text())["status"] != "finished"
            ):
                done = ftbench("resume", run.name, runs=run.parent)
                assert done.code == 0, last_line(done)
            assert equal_fields(run) == expected, differing(equal_fields(run), expected)[:300]
            found_losses = losses(run)
            assert set(found_losses) == set(curve), "a step is missing"
            assert all(set(values) == set(curve[step]) for step, values in found_losses.items()), "a loss differs"


def sweeps(table: Table, folder: Path, rng: random.Random, kills: int = 8) -> None:
    runs = folder / "sweeps"
    words = ["--rung", "lora", "--rung", "full", "--vary", "train.batch=2,4", "--no-probe"]
    settings = pairs(pairs(tiny_with("--set", "train.steps=4"), "adapter."), "train.batch=")
    done = ftbench("ladder", "demo", *words, *settings, "--detach", "--json", runs=runs)
    assert done.code == 0, done.err
    sweep = Path(json.loads(done.out)["path"])
    finished: dict[Path, bytes] = {}

    def check() -> None:
        for path, before in finished.items():
            assert path.read_bytes() == before, f"{path} was lost or repeated"
        for path in runs.glob("*/result.json"):
            if json.loads(path.read_text())["status"] == "finished":
                finished[path] = path.read_bytes()

    for number in range(kills):
        with table.attack(f"SIGKILL of a process of a sweep, number {number}") as say:
            time.sleep(rng.uniform(6, 24))
            candidates = [
                process
                for process in psutil.process_iter()
                if not is_gone(process) and any(word.startswith(str(runs)) for word in words_of(process))
            ]
            if candidates:
                victim = rng.choice(candidates)
                words = words_of(victim)
                with contextlib.suppress(psutil.NoSuchProcess):
                    victim.kill()
                say(f"killed {' '.join(Path(word).name for word in words[-3:])[-70:]}, one of {len(candidates)}")
            else:
                say("nothing was running")
            time.sleep(0.5)
            check()
            if ended(sweep):
                done = ftbench("resume", sweep.name, "--detach", runs=runs)
                assert not done.clean, done.clean + done.err
                say(f"resume: {last_line(done)[:60]}")
            shown = ftbench("runs", runs=runs)
            assert shown.code == 0 and not shown.clean, shown.err
    with table.attack(f"the sweep after {kills} kills") as say:
        wait(lambda: ended(sweep), "the end of the sweep")
        state = json.loads((sweep / "sweep.json").read_text())
        if state["status"] != "finished":
            say(f"{state['status']} {state.get('reason', '')[:60]}")
            done = ftbench("resume", sweep.name, runs=runs)
            say(last_line(done))
        state = json.loads((sweep / "sweep.json").read_text())
        assert state["status"] == "finished", state.get("reason")
        assert (sweep / "report.html").read_text().rstrip().endswith("</html>")
        check()
        states = {entry["state"] for entry in json.loads(ftbench("runs", "--json", runs=runs).out)}
        say(f"states {sorted(states)}")
        assert not states & {"live", "starting", "training"}
        ladders = [json.loads(path.read_text()) for path in runs.glob("*/ladder.json")]
        assert [ladder["status"] for ladder in ladders] == ["finished"] * 2, [ladder["status"] for ladder in ladders]
        assert all(entry["status"] == "finished" for ladder in ladders for entry in ladder["entries"])


def words_of(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def is_gone(process: psutil.Process) -> bool:
    try:
        return process.status() == "zombie"
    except psutil.Error:
        return True


PARTS = {"try": tries, "ranks": ranks, "sweep": sweeps}


def main(parts: list[str], seed: int) -> int:
    table, rng = Table("kills of single processes"), random.Random(seed)
    with workplace() as folder:
        for name in parts or PARTS:
            PARTS[name](table, folder, rng)
    return table.end()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="part")
    parser.add_argument("--seed", type=int, default=23)
    options = parser.parse_args()
    sys.exit(main(options.parts, options.seed))
