"""Kill workers and terminals at random, and let GPUs disappear, while runs wait for four GPUs; print what is lost.

    python tests/faults/kill_slots.py --runs 20 --kills 40

The GPUs are those of the stand-in for NVML, so the workers only sleep; queue, locks and devices are the real ones.
A killed run is started again as `ftbench resume` does, at the end of the queue. Checked: each run ends once, no GPU is
used by two runs at a time, and none starts before a run that came earlier and waited for the same GPU.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pty
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from nvml_library import build

from engine.config.errors import UserError
from engine.config.files import write_atomically
from engine.hardware.devices import SelectedDevice, select_devices, still_exists
from engine.runs.queue import locks
from engine.runs.queue.device_queue import wait_for_devices

GPUS = 4
STEPS, STEP_SECONDS = 30, 0.1
GPU_LOST = 15
"""NVML_ERROR_GPU_IS_LOST."""
LOST_SECONDS = 1.0
"""How long a GPU stays away."""
SETTLED_SECONDS = 0.5
"""A run that logged `waiting` this long before another one's turn had its ticket when that one looked."""
VICTIMS = ("worker", "terminal", "GPU")
LIMIT_SECONDS = 600.0


def log(folder: Path, name: str, kind: str, **more: object) -> None:
    """Append an event; one write, so that lines of several processes do not mix."""
    line = json.dumps({"t": time.monotonic(), "run": name, "pid": os.getpid(), "what": kind, **more}) + "\n"
    descriptor = os.open(folder / "log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, line.encode())
    os.close(descriptor)


def work(folder: Path, name: str, arrived: float) -> int:
    """A worker: holds the run's lock, waits for a GPU, sleeps in steps that it resumes after."""
    run = folder / name
    run.mkdir(exist_ok=True)
    if locks.acquire(run / "engine.lock", str(os.getpid())) is None:
        log(folder, name, "twice")
        return 3
    log(folder, name, "queued", arrived=arrived)

    def tell(note: str) -> None:
        if note.endswith("no longer available"):
            log(folder, name, "given up", gpu=note.split()[1])
        else:
            log(folder, name, "waiting", arrived=arrived)

    def is_usable(device: SelectedDevice) -> bool:
        log(folder, name, "turn")
        return still_exists(device)

    try:
        taken = wait_for_devices(select_devices("all"), arrived, run, tell, lambda: False, 0.05, is_usable)
    except UserError as error:
        log(folder, name, "refused", code=error.code)
        return 2
    assert taken is not None
    device = taken[0]
    log(folder, name, "start", gpu=device.title.split()[1], arrived=arrived)
    progress = run / "step"
    for step in range(int(progress.read_text()) if progress.exists() else 0, STEPS):
        time.sleep(STEP_SECONDS)
        if not still_exists(device):
            log(folder, name, "lost")
            return 1
        write_atomically(progress, str(step + 1).encode())
    log(folder, name, "end")
    return 0


@dataclass
class Run:
    """One run: its terminal's process and connection, and its worker."""

    name: str
    terminal: subprocess.Popen[bytes]
    connection: int
    worker: int = 0


@dataclass
class Story:
    """All runs, what was killed, and the state of the GPUs."""

    folder: Path
    rng: random.Random
    runs: dict[str, Run] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(VICTIMS, 0))
    lost: dict[int, float] = field(default_factory=dict)
    kills: list[dict[str, object]] = field(default_factory=list)

    def describe_gpus(self) -> None:
        """Write the file that the stand-in for NVML reads."""
        lines = [f"all count {GPUS}"]
        for gpu in range(GPUS):
            lines += [f"{gpu} name NVIDIA A100", f"{gpu} uuid GPU-{gpu}", f"{gpu} total {80 << 30}", f"{gpu} used 0"]
            lines += [f"{gpu} error.everything {GPU_LOST}"] if gpu in self.lost else []
        temporary = self.folder / "gpus.new"
        temporary.write_text("\n".join(lines) + "\n")
        temporary.replace(self.folder / "gpus")

    def start(self, name: str) -> None:
        """Start a run from a terminal, as `ftbench run` does: its worker is in another session."""
        ours, theirs = pty.openpty()
        command = [sys.executable, __file__, "--terminal", str(self.folder), name, str(time.time())]
        terminal = subprocess.Popen(command, stdin=theirs, stdout=subprocess.PIPE, start_new_session=True)
        os.close(theirs)
        assert terminal.stdout is not None
        self.runs[name] = Run(name, terminal, ours, int(terminal.stdout.readline()))

    def strike(self, victim: str) -> None:
        """Kill one of them; not counted if it had ended."""
        if victim == "GPU":
            gpu = self.rng.randrange(GPUS)
            self.lost.setdefault(gpu, time.monotonic())
            self.describe_gpus()
            self.counts[victim] += 1
            return
        run = self.rng.choice([run for run in self.runs.values() if run.name not in self.ended()])
        before = time.monotonic()
        with contextlib.suppress(ProcessLookupError):
            if victim == "worker":
                os.kill(run.worker, signal.SIGKILL)
                self.kills.append({"t": before, "run": run.name, "pid": run.worker, "what": "killed"})
                self.counts[victim] += 1
            elif run.terminal.poll() is None:
                os.close(run.connection)
                run.terminal.kill()
                run.terminal.wait()
                self.counts[victim] += 1

    def is_alive(self, run: Run) -> bool:
        """Whether the run has a worker, also one that has not taken its lock yet."""
        return locks.is_locked(self.folder / run.name / "engine.lock") or Path(f"/proc/{run.worker}").exists()

    def ended(self) -> set[object]:
        """Names of the runs that have finished."""
        return {event["run"] for event in events(self.folder) if event["what"] == "end"}

    def tend(self) -> bool:
        """Bring back lost GPUs and start runs again whose worker is gone; False when all have ended."""
        for gpu in [gpu for gpu, since in self.lost.items() if time.monotonic() > since + LOST_SECONDS]:
            del self.lost[gpu]
            self.describe_gpus()
        gone = [run for run in self.runs.values() if not self.is_alive(run)]
        ended = self.ended()  # read afterwards: a worker logs its end before it is gone
        for run in gone:
            if run.name not in ended:
                self.start(run.name)
        return ended != set(self.runs)


def events(folder: Path) -> list[dict[str, object]]:
    path = folder / "log"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def problems_of(history: list[dict[str, object]], names: list[str]) -> tuple[list[str], float]:
    """(what was lost, repeated, shared or overtaken; the longest wait in seconds)."""
    problems, waits = [], [0.0]
    for name in names:
        ends = sum(event["run"] == name and event["what"] == "end" for event in history)
        problems += [f"{name} ended {ends} times"] if ends != 1 else []
    problems += [f"{event['run']} had two workers" for event in history if event["what"] == "twice"]
    users: dict[object, object] = {}
    queued: dict[object, float] = {}
    waiting: dict[object, dict[str, object]] = {}
    turns: dict[object, float] = {}
    gone: set[object] = set()
    given_up: set[tuple[object, object]] = set()
    for event in sorted(history, key=lambda event: float(str(event["t"]))):
        pid, kind, gpu, now = event["pid"], event["what"], event.get("gpu"), float(str(event["t"]))
        if pid in gone:
            continue  # a kill is dated before its signal, so lines of its worker can follow it
        if kind == "queued":
            queued[pid] = now
        elif kind == "waiting":
            waiting.setdefault(pid, event)
        elif kind == "turn":
            turns[pid] = now
        elif kind == "given up":
            given_up.add((pid, gpu))
        elif kind == "start":
            waiting.pop(pid, None)
            waits.append(now - queued[pid])
            problems += [f"GPU {gpu} was used by two runs at a time"] if gpu in users else []
            users[gpu] = pid
            problems += [
                f"{event['run']} overtook {entry['run']}"
                for other, entry in waiting.items()
                if (other, gpu) not in given_up
                and float(str(entry["t"])) < turns[pid] - SETTLED_SECONDS
                and float(str(entry["arrived"])) < float(str(event["arrived"]))
            ]
        else:  # end, lost, refused, killed
            gone.add(pid)
            waiting.pop(pid, None)
            users = {gpu: user for gpu, user in users.items() if user != pid}
    return problems, max(waits)


def kill_many(folder: Path, runs: int, kills: int, seed: int) -> tuple[dict[str, int], list[str], float]:
    """(kills by victim, problems, the longest wait in seconds)."""
    os.environ["LD_LIBRARY_PATH"] = str(build(folder / "library"))
    os.environ["NVML_STAND_IN"] = str(folder / "gpus")
    os.environ["FTBENCH_LOCKS"] = str(folder / "locks")
    story = Story(folder, random.Random(seed))
    story.describe_gpus()
    for number in range(runs):
        story.start(f"run-{number:02}")
    deadline = time.monotonic() + LIMIT_SECONDS
    while story.tend():
        if time.monotonic() > deadline:
            break
        if sum(story.counts.values()) < kills:
            story.strike(story.rng.choice(VICTIMS))
        time.sleep(story.rng.uniform(0.0, 0.5))
    problems, longest = problems_of([*events(folder), *story.kills], list(story.runs))
    return story.counts, problems, longest


def main() -> int:
    if sys.argv[1:2] == ["--worker"]:
        return work(Path(sys.argv[2]), sys.argv[3], float(sys.argv[4]))
    if sys.argv[1:2] == ["--terminal"]:
        worker = subprocess.Popen([sys.executable, __file__, "--worker", *sys.argv[2:]], start_new_session=True)
        print(worker.pid, flush=True)
        return worker.wait()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        counts, problems, longest = kill_many(Path(name), options.runs, options.kills, options.seed)
    print("| killed or lost | count |\n|---|---|")
    print("\n".join(f"| {victim} | {count} |" for victim, count in counts.items()))
    print(f"\n{options.runs} runs on {GPUS} GPUs; lost, repeated, shared or overtaken: {len(problems)}")
    print(f"longest wait for a GPU: {longest:.1f} s")
    print("\n".join(problems))
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
