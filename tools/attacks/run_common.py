"""Shared by attacks on runs: the real command, conditions that hold after any attack, and the table of outcomes.

The programs use the command line and the documented files, and nothing of the implementation.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FTBENCH = str(Path(sys.executable).with_name("ftbench"))
TINY = [
    *("--set", "train.steps=6"),
    *("--set", "data.max_rows=16"),
    *("--set", "train.batch=4"),
    *("--set", "train.micro_batch=2"),
    *("--set", "train.checkpoint_every=2"),
    *("--set", "train.evaluate_every=3"),
    *("--set", "train.probe=false"),
    *("--set", "adapter.rank=2"),
    *("--set", "adapter.dropout=0.1"),
    *("--set", "evaluation.rows=4"),
    *("--set", "evaluation.max_new_tokens=6"),
    *("--set", "evaluation.forgetting_text=none"),
]
"""Six steps of the embedded model, with dropout, so that checkpoints must save the state of random generators."""
MAX_SECONDS = 900.0
"""After which a command counts as hanging."""


@dataclass
class Done:
    """A finished command."""

    code: int
    out: str
    err: str

    @property
    def clean(self) -> str:
        """'' for a known exit status, no traceback and a message on failure; otherwise what is wrong."""
        if self.code not in (0, 1, 2):
            return f"exit status {self.code}"
        if "Traceback" in self.out + self.err:
            return "a traceback"
        if self.code and not (self.out + self.err).strip():
            return "failed without a message"
        return ""


def ftbench(*arguments: str, runs: Path, env: dict[str, str] | None = None, **how: Any) -> Done:
    """Run the command and wait."""
    environment = {**os.environ, "FTBENCH_RUNS": str(runs), **(env or {})}
    try:
        done = subprocess.run(
            [FTBENCH, *arguments],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=MAX_SECONDS,
            stdin=subprocess.DEVNULL,
            env=environment,
            check=False,
            **how,
        )
    except subprocess.TimeoutExpired:
        return Done(124, "", "hangs")
    return Done(done.returncode, done.stdout, done.stderr)


def tiny_with(*settings: str) -> list[str]:
    """TINY with some `--set KEY=VALUE` replaced: one key with two values is refused."""
    keys = {setting.partition("=")[0] for setting in settings}
    flags = zip(TINY[::2], TINY[1::2], strict=True)
    kept = [word for flag, value in flags if value.partition("=")[0] not in keys for word in (flag, value)]
    return [*kept, *settings]


def start(runs: Path, *settings: str, preset: str = "demo-lora", env: dict[str, str] | None = None) -> Path:
    """Start a detached run; returns its directory."""
    done = ftbench("run", preset, *tiny_with(*settings), "--detach", "--json", runs=runs, env=env)
    if done.code:
        raise RuntimeError(done.err or done.out)
    return Path(json.loads(done.out)["path"])


def lines(run: Path) -> list[dict[str, Any]]:
    """The run's events; invalid lines are skipped."""
    events = []
    try:
        for line in (run / "events.jsonl").read_bytes().split(b"\n"):
            try:
                event = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(event, dict):
                events.append(event)
    except OSError:
        pass
    return events


def losses(run: Path) -> dict[int, list[float]]:
    """Step -> every logged loss of that step."""
    by_step: dict[int, list[float]] = {}
    for event in lines(run):
        if event.get("type") == "step":
            by_step.setdefault(event["step"], []).append(event["loss"])
    return by_step


def pid_of(folder: Path) -> int | None:
    """Process id of a run or a ladder, from its lock file."""
    try:
        text = (folder / "engine.lock").read_text().strip()
        pid = int(text)
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (OSError, ValueError):
        return None
    return pid if str(folder).encode() in command and not is_zombie(pid) else None


def is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def kill(folder: Path, number: int = signal.SIGKILL) -> bool:
    """Send a signal to the process of a run or ladder and wait until it has ended; False without a process."""
    pid = pid_of(folder)
    if pid is None:
        return False
    os.kill(pid, number)
    wait(lambda: pid_of(folder) is None, "the process to end")
    return True


def wait(condition: Callable[[], Any], name: str, seconds: float = MAX_SECONDS) -> Any:
    """Poll until `condition` returns a true value. Raises TimeoutError."""
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:.0f} s for {name}")
        time.sleep(0.005)
    return result


def ended(folder: Path) -> bool:
    return pid_of(folder) is None


def last_line(done: Done) -> str:
    """Exit status and last line of output."""
    text = [line for line in (done.err or done.out).strip().splitlines() if line.strip()]
    return f"{done.code}, {text[-1].replace('|', '/')[:160] if text else ''}"


def limited(**limits: int) -> Callable[[], None]:
    """Set RLIMIT_* in a child process: limited(NOFILE=20)."""

    def apply() -> None:
        for name, value in limits.items():
            resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (value, value))

    return apply


def assert_no_active_run(runs: Path) -> None:
    """After a failure no run must look active."""
    shown = json.loads(ftbench("runs", "--json", runs=runs).out)
    states = {entry["name"]: entry["state"] for entry in shown}
    wait(lambda: all(ended(runs / name) for name in states), "workers to end", 300)
    shown = json.loads(ftbench("runs", "--json", runs=runs).out)
    active = {entry["state"] for entry in shown} & {"live", "starting", "training"}
    assert not active, f"a run still looks {active}"


def pairs(settings: list[str], without: str) -> list[str]:
    """The `--set KEY=VALUE` pairs without those of keys with a prefix."""
    values = [value for value in settings[1::2] if not value.startswith(without)]
    return [word for value in values for word in ("--set", value)]


@dataclass
class Table:
    """Outcomes, one row each, with the reason of a failure."""

    title: str
    rows: list[tuple[str, str, str]] = field(default_factory=list)

    def add(self, attack: str, outcome: str, wrong: str = "") -> None:
        self.rows.append((attack, outcome, wrong))
        print(f"| {attack} | {outcome} | {wrong or 'ok'} |", flush=True)

    @contextmanager
    def attack(self, name: str) -> Iterator[Callable[[str], None]]:
        """Yields a function that takes the outcome; an exception inside is a failed row."""
        outcome: list[str] = []
        try:
            yield outcome.append
        except (AssertionError, TimeoutError, RuntimeError, OSError, KeyError, ValueError) as error:
            self.add(name, "; ".join(outcome), f"FAILED: {' '.join(str(error).split())[:300] or type(error).__name__}")
        else:
            self.add(name, "; ".join(outcome))

    def end(self) -> int:
        failed = sum(bool(wrong) for _, _, wrong in self.rows)
        print(f"\n{self.title}: {len(self.rows)} attacks, {failed} failed", flush=True)
        return int(failed > 0)


@contextmanager
def workplace() -> Iterator[Path]:
    """A temporary folder for runs, locks and caches."""
    with tempfile.TemporaryDirectory(prefix="ftbench-attack-") as folder:
        os.environ |= {
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "FTBENCH_LOCKS": f"{folder}/locks",
            "XDG_CONFIG_HOME": f"{folder}/config",
            "XDG_CACHE_HOME": f"{folder}/cache",
            "XDG_STATE_HOME": f"{folder}/state",
            "XDG_DATA_HOME": f"{folder}/data",
        }
        yield Path(folder)
