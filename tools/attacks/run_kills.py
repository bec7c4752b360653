"""Kill workers in every phase, ladders, and reports while they are written; print what is lost.

`python -m tools.attacks.run_kills [WORKER_KILLS] [LADDER_KILLS] [REPORT_KILLS] [SEED]` (28, 8, 8 and 13 by
default).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tools.attacks.run_common import (
    FTBENCH,
    TINY,
    Table,
    ended,
    ftbench,
    kill,
    lines,
    losses,
    pairs,
    pid_of,
    start,
    wait,
    workplace,
)

MOMENTS: list[tuple[str, dict[str, Any]]] = [
    ("hello", {"type": "hello"}),
    ("data", {"type": "phase", "name": "data"}),
    ("model", {"type": "phase", "name": "model"}),
    ("baseline", {"type": "phase", "name": "baseline"}),
    ("base scored", {"type": "eval", "when": "before"}),
    ("training starts", {"type": "phase", "name": "training"}),
    ("plan", {"type": "plan"}),
    ("step 1", {"type": "step", "step": 1}),
    ("step 2, while its checkpoint is written", {"type": "step", "step": 2}),
    ("checkpoint 2", {"type": "checkpoint", "step": 2}),
    ("validation", {"type": "eval", "when": "during"}),
    ("step 5", {"type": "step", "step": 5}),
    ("last step, while its checkpoint is written", {"type": "step", "step": 6}),
    ("evaluation", {"type": "phase", "name": "evaluation"}),
    ("tuned model scored", {"type": "eval", "when": "after", "split": "test"}),
    ("saving", {"type": "phase", "name": "saving"}),
    ("end", {"type": "end"}),
]
DIFFERING = {
    "seconds",
    "step_seconds",
    "tokens_per_second",
    "computed_tokens_per_second",
    "peak",
    "peak_training_bytes",
    "created",
    "ended",
    "name",
    "predicted",
    "load",
}
"""Fields of `result.json` that are measurements or differ between equal runs."""


def equal_fields(run: Path) -> dict[str, Any]:
    """The result without the fields that differ between equal runs."""
    table: dict[str, Any] = json.loads((run / "result.json").read_text())
    for score in (table["before"], table["after"]):
        score.pop("seconds")
    return {key: value for key, value in table.items() if key not in DIFFERING}


def reached(run: Path, moment: dict[str, Any], after: int) -> bool:
    """Whether an event with the fields of `moment` has been logged after the first `after` events."""
    return any(moment.items() <= event.items() for event in lines(run)[after:])


def kill_workers(table: Table, folder: Path, kills: int, rng: random.Random) -> None:
    reference = start(folder / "reference")
    wait(lambda: (reference / "result.json").exists() and ended(reference), "the reference run")
    expected, curve = equal_fields(reference), losses(reference)
    done = 0
    while done < kills:
        run, kills_of_run = start(folder / "runs"), 0
        after = 0
        while kills_of_run < 5 and done < kills:
            name, moment = (
                MOMENTS[(done * 5 + 2 * kills_of_run) % len(MOMENTS)] if rng.random() < 0.8 else rng.choice(MOMENTS)
            )
            with table.attack(f"SIGKILL of a worker at: {name}") as say:
                wait(lambda: reached(run, moment, after) or ended(run), name)  # noqa: B023
                time.sleep(rng.choice([0.0, 0.0, 0.02, 0.1]))
                killed = kill(run)
                done, kills_of_run = done + killed, kills_of_run + 1
                say("killed" if killed else "already ended")
                after = len(lines(run))
                if (run / "result.json").exists():
                    say("finished")
                    break
                again = ftbench("resume", run.name, "--detach", runs=run.parent)
                assert not again.clean, again.clean + again.err
                say("resumed" if again.code == 0 else again.err.strip()[:120])
                if "already finished" in again.err:
                    break
        with table.attack(f"the run after {kills_of_run} kills"):
            wait(lambda: ended(run), "the end")  # noqa: B023
            if not (run / "result.json").exists():
                ftbench("resume", run.name, runs=run.parent)
            shown = ftbench("runs", "--json", runs=run.parent)
            assert [entry["state"] for entry in json.loads(shown.out) if entry["name"] == run.name] == ["finished"], (
                shown.out
            )
            if (run / "result.json").exists():
                assert equal_fields(run) == expected, differing(equal_fields(run), expected)
            by_step = losses(run)
            assert all(set(values) == set(curve[step]) for step, values in by_step.items()), "a loss differs"
            assert set(by_step) == set(curve), "a step is missing"


def differing(record: dict[str, Any], other: dict[str, Any]) -> str:
    return "; ".join(
        f"{key}: {record.get(key)} != {other.get(key)}" for key in other if record.get(key) != other.get(key)
    )


def state(ladder: Path) -> dict[str, Any]:
    try:
        loaded: dict[str, Any] = json.loads((ladder / "ladder.json").read_text())
    except FileNotFoundError:
        return {"status": "", "entries": []}
    return loaded


def kill_ladders(table: Table, folder: Path, kills: int, rng: random.Random) -> Path:
    runs = folder / "ladders"
    rungs = ["--rung", "lora", "--rung", "full", "--no-probe", *pairs(TINY, "adapter.")]
    done = ftbench("ladder", "demo", *rungs, "--detach", "--json", runs=runs)
    assert done.code == 0, done.err
    ladder = Path(json.loads(done.out)["path"])
    finished: dict[str, bytes] = {}
    for number in range(kills):
        with table.attack(f"SIGKILL of {'a ladder' if number % 2 else 'its active run'}") as say:
            time.sleep(rng.uniform(0, 12))
            live = [runs / entry["run"] for entry in state(ladder)["entries"] if entry["run"]]
            victim = ladder if number % 2 else next((run for run in live if pid_of(run)), ladder)
            say("killed" if kill(victim) else "already ended")
            for path, content in finished.items():
                assert Path(path).read_bytes() == content, f"{path} was lost or repeated"
            for entry in state(ladder)["entries"]:
                if entry["status"] == "finished":
                    result = runs / entry["run"] / "result.json"
                    finished[str(result)] = result.read_bytes()
            if ended(ladder):
                again = ftbench("resume", ladder.name, "--detach", runs=runs)
                assert not again.clean, again.clean + again.err
                say(f"resumed ({state(ladder)['status']})")
    with table.attack(f"the ladder after {kills} kills") as say:
        wait(lambda: ended(ladder), "the ladder's end")
        if state(ladder)["status"] != "finished":
            ftbench("resume", ladder.name, runs=runs)
        say(state(ladder)["status"])
        assert state(ladder)["status"] == "finished", state(ladder)["reason"]
        assert (ladder / "report.html").read_text().rstrip().endswith("</html>")
        for path, content in finished.items():
            assert Path(path).read_bytes() == content, f"{path} was lost or repeated"
    return ladder


def kill_reports(table: Table, ladder: Path, kills: int, rng: random.Random) -> None:
    """Kill the command and its children at a random moment."""
    pages = [ladder / "report.html", ladder / "report.md"]
    complete = [page.read_bytes() for page in pages]
    started = time.monotonic()
    assert ftbench("report", ladder.name, runs=ladder.parent).code == 0
    longest = time.monotonic() - started
    for _ in range(kills):
        with table.attack("SIGKILL while a report is written") as say:
            environment = {**os.environ, "FTBENCH_RUNS": str(ladder.parent)}
            process = subprocess.Popen(
                [FTBENCH, "report", ladder.name],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=environment,
                start_new_session=True,
            )
            time.sleep(rng.uniform(0.5, 1.0) * longest)
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            say("killed")
            for page, before in zip(pages, complete, strict=True):
                now = page.read_bytes()
                assert abs(len(now) - len(before)) < 2000, f"{page.name} has {len(now)} bytes, not {len(before)}"
                assert page.suffix != ".html" or now.rstrip().endswith(b"</html>"), "half a page"
    with table.attack(f"the report after {kills} kills"):
        done = ftbench("report", ladder.name, runs=ladder.parent)
        assert done.code == 0, done.err


def main(workers: int, ladders: int, reports: int, seed: int) -> int:
    table, rng = Table("kills"), random.Random(seed)
    with workplace() as folder:
        kill_workers(table, folder, workers, rng)
        ladder = kill_ladders(table, folder, ladders, rng)
        kill_reports(table, ladder, reports, rng)
    return table.end()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("workers", 28), ("ladders", 8), ("reports", 8), ("seed", 13)):
        parser.add_argument(name, nargs="?", type=int, default=default)
    sys.exit(main(**vars(parser.parse_args())))
