"""Damage settings, presets, stored state and locks in many ways, and run commands and the bench."""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from command import FTBENCH
from screen import Terminal

from engine.config import preset_library
from engine.runs.run import run_dir
from engine.runs.run.run_dir import RunDir
from tools.attacks.terminal_report import MAX_SECONDS, Report, isolated_environment, walk


def spoil_with(content: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(content) and None


def a_folder(path: Path) -> None:
    path.mkdir()


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


def a_loop(path: Path) -> None:
    path.symlink_to(path)


def a_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


DAMAGES: dict[str, Callable[[Path], None]] = {
    "empty": spoil_with(b""),
    "noise": spoil_with(bytes(range(256)) * 40),
    "NUL": spoil_with(b"\0" * 4096),
    "not UTF-8": spoil_with(b'title = "caf\xe9"\n'),
    "truncated line": spoil_with(b'title = "x'),
    "deep": spoil_with(b"a = " + b"[" * 50_000),
    "long key": spoil_with(b"a" * 1_000_000 + b" = 1\n"),
    "huge number": spoil_with(b"theme = " + b"9" * 100_000 + b"\n"),
    "wrong types": spoil_with(b'theme = 3\nascii = "x"\nmouse = []\nkeys = 7\nslot = "x"\nmethod = {}\n'),
    "duplicate key": spoil_with(b"title = 'a'\ntitle = 'b'\n"),
    "JSON": spoil_with(b'{"a": [1, 2, {"b": null}]}'),
    "a folder": a_folder,
    "a pipe": a_pipe,
    "a loop of links": a_loop,
    "endless": a_device,
}
PLACES = {
    "config.toml": "xdg_config_home/ftbench/config.toml",
    "preset": "xdg_config_home/ftbench/presets/mine.toml",
    "theme": "xdg_state_home/ftbench/theme",
    "recent.json": "xdg_state_home/ftbench/recent.json",
    "glances.json": "xdg_cache_home/ftbench/glances.json",
    "device lock": "ftbench_locks/HOST-cpu.lock",
    "another lock": "ftbench_locks/HOST-7.lock",
    "queue ticket": "ftbench_locks/HOST-cpu.queue/0000001-1",
    "run lock": "ftbench_runs/20260101-000000-demo-lora-lora-0a0b/engine.lock",
}
LOCK_TEXTS = {
    "a number too large": b"99999999999999999999999 /x",
    "a negative number": b"-1 /x",
    "an unused process id": b"4194303 /x",
    "a name with control sequences": b"4194303 /\x1b[2J\xe2\x80\xae",
    "not UTF-8": b"4194303 /caf\xe9",
}
COMMANDS = ("runs", "presets list", "run mine", "clean temporary", "resume last", "stop last")


def attack_with_corruptions(report: Report, rng: random.Random) -> None:
    for place, path in PLACES.items():
        for name, spoil in DAMAGES.items():
            spoiled(report, rng, f"{place} is {name}", path.replace("HOST", socket.gethostname()), spoil)
    for name, content in LOCK_TEXTS.items():
        for place in ("device lock", "queue ticket", "run lock"):
            path = PLACES[place].replace("HOST", socket.gethostname())
            text = content.split(b" ")[0] if place == "run lock" else content
            spoiled(report, rng, f"{place} contains {name}, and is held", path, spoil_with(text), held=True)


def spoiled(
    report: Report, rng: random.Random, damage: str, path: str, spoil: Callable[[Path], None], held: bool = False
) -> None:
    """Every command works or fails with one line; the bench opens, shows what is wrong and leaves."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        env = isolated_environment(folder)
        os.environ |= env
        run = run_dir.create(folder / "ftbench_runs", "demo-lora", preset_library.resolve_preset("demo-lora", None, {}))
        run.events_file.write_text('{"type":"phase","name":"training","v":1,"seq":1,"t":1.0}\n')
        run.path.rename(run.path.with_name("20260101-000000-demo-lora-lora-0a0b"))
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        spoil(target)
        descriptor = None
        if held:
            descriptor = os.open(target, os.O_RDWR)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        for command in COMMANDS if held else rng.sample(COMMANDS, 2):
            report.add("corrupted files, subcommands", f"{damage}; {command}", one_line(folder, env, command.split()))
            end_runs(folder)
        if held or rng.random() < 0.4:
            terminal = Terminal(cwd=folder, env=env)
            keys = ["r", "escape", "P", "escape", "d", "escape", "wait"]
            report.add("corrupted files, bench", damage, walk(terminal, keys, []))
        if descriptor is not None:
            os.close(descriptor)


def end_runs(folder: Path) -> None:
    """End runs that a command started, so that the next command finds the same state."""
    for run in RunDir.iterate(folder / "ftbench_runs"):
        pid = run.pid()
        if pid and pid != os.getpid() and str(folder) in _command(pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _command(pid: int) -> str:
    with contextlib.suppress(OSError):
        return os.fsdecode(Path(f"/proc/{pid}/cmdline").read_bytes())
    return ""


def one_line(folder: Path, env: dict[str, str], command: list[str]) -> str:
    """Run a command; '' if it ends with status 0 or with an error of one line, within MAX_SECONDS."""
    detach = ["--detach"] if command[0] in ("run", "resume") else []
    try:
        done = subprocess.run(
            [FTBENCH, *command, *detach], cwd=folder, env={**os.environ, **env}, capture_output=True,
            timeout=MAX_SECONDS, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"still running after {MAX_SECONDS:.0f} s"
    lines = done.stderr.decode("utf-8", "replace").splitlines()
    if done.returncode in (0, 1, 2) and len(lines) <= 1 and (done.returncode == 0) == (not lines):
        return ""
    return f"exit {done.returncode}: {lines[-1:] or done.stdout[-200:]}"
