"""Kill commands that follow a run, the bench, RPC servers and their clients."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import tempfile
import termios
import time
from collections.abc import Iterator
from pathlib import Path

from command import FTBENCH
from screen import Terminal

from engine.config import preset_library
from engine.runs.queue import locks
from engine.runs.run import run_dir
from tools.attacks.terminal_report import Report, isolated_environment, modes_left_on, wait_for_end

FATAL = ("TERM", "HUP", "QUIT", "USR1", "USR2", "ALRM", "XCPU")


@contextlib.contextmanager
def live(folder: Path, env: dict[str, str]) -> Iterator[Path]:
    """A run that looks active: this process holds its lock, and its log does not grow."""
    os.environ |= env
    run = run_dir.create(Path(env["FTBENCH_RUNS"]), "demo-lora", preset_library.resolve_preset("demo-lora", None, {}))
    run.events_file.write_text('{"type":"phase","name":"training","v":1,"seq":1,"t":1.0}\n')
    held = locks.acquire(run.lock_file, str(os.getpid()))
    assert held is not None
    try:
        yield run.path
    finally:
        os.close(held)


def rpc_servers() -> set[int]:
    """Process ids of RPC servers."""
    pids = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if b"engine.worker.rpc_server" in path.read_bytes():
                pids.add(int(path.parent.name))
    return pids


def attack_with_kills(report: Report, rng: random.Random) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        env = isolated_environment(folder)
        rows = "".join(json.dumps({"prompt": f"q {n}", "completion": f"a {n}"}) + "\n" for n in range(200))
        (folder / "rows.jsonl").write_text(rows)
        with live(folder, env) as run:
            for name in FATAL:
                terminal = Terminal("attach", str(run), cwd=folder, env=env)
                report.add("kills of followers", f"attach, SIG{name}", kill_hidden(terminal, name))
            for _ in range(8):
                name, moment = rng.choice(FATAL), rng.uniform(0.0, 1.5)
                terminal = Terminal("attach", str(run), cwd=folder, env=env)
                terminal.read(moment)
                wrong = send(terminal, name) or modes_left_on(terminal)
                report.add("kills of followers", f"attach, SIG{name} after {moment:.2f} s", wrong)
            for name in ("TERM", "QUIT", "USR1"):
                terminal = Terminal("plan", "demo-lora", cwd=folder, env=env)
                report.add("kills of followers", f"plan, SIG{name}", kill_hidden(terminal, name))
            stop_and_continue(report, folder, env, run)
            kill_benches(report, rng, folder, env)
        kill_requests(report, rng, folder, env)


def kill_hidden(terminal: Terminal, name: str) -> str:
    """Kill the process once the cursor is hidden."""
    try:
        terminal.wait(lambda: terminal.screen.cursor.hidden, 60.0)
    except AssertionError as error:
        return str(error).splitlines()[0]
    return send(terminal, name) or modes_left_on(terminal)


def send(terminal: Terminal, name: str) -> str:
    """Send the signal and wait for the end; returns what is wrong, '' for nothing."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(terminal.process.pid, getattr(signal, f"SIG{name}"))
    deadline = time.monotonic() + 10
    while terminal.process.poll() is None and time.monotonic() < deadline:
        terminal.read(0.05)
    terminal.read(0.1)
    after = termios.tcgetattr(terminal.theirs)
    if terminal.process.poll() is None:
        terminal.process.kill()
        terminal.process.wait()
        return "still running after 10 s"
    lost = [flag for flag in ("ECHO", "ICANON", "ISIG") if not after[3] & getattr(termios, flag)]
    return f"the terminal lost {lost}" if lost else ""


def stop_and_continue(report: Report, folder: Path, env: dict[str, str], run: Path) -> None:
    """Press Ctrl-Z and fg in a shell three times, then kill the stopped command."""
    terminal = Terminal("--norc", "--noediting", "-i", cwd=folder, env={**env, "PS1": "> "}, program="/bin/bash")
    wrong = ""
    try:
        terminal.press(f"{FTBENCH} attach {run}\n")
        for _ in range(3):
            terminal.wait(lambda: terminal.screen.cursor.hidden, 30.0)
            stopped = terminal.text.count("Stopped")
            terminal.press("\x1a")
            terminal.wait(lambda before=stopped: terminal.text.count("Stopped") > before, 30.0)
            terminal.read(0.3)
            wrong = wrong or ("the cursor is hidden while stopped" if terminal.screen.cursor.hidden else "")
            terminal.press("fg\n")
        terminal.wait(lambda: terminal.screen.cursor.hidden, 30.0)
        terminal.press("\x1a")
        terminal.read(0.5)
        terminal.press("kill %1; wait; echo gone\n")
        terminal.wait("gone", 30.0)
        terminal.read(1.0)
        wrong = wrong or modes_left_on(terminal)
    except AssertionError as error:
        wrong = str(error).splitlines()[0]
    finally:
        terminal.process.kill()
        terminal.process.wait()
    report.add("kills of followers", "attach, Ctrl-Z and fg, then kill while stopped", wrong)


def kill_benches(report: Report, rng: random.Random, folder: Path, env: dict[str, str]) -> None:
    places = {"immediately": [], "runs": ["r"], "presets": ["P"], "palette": ["ctrl+p"], "text input": ["/"],
              "inspector, loading": ["d", "down", "enter"], "launch preview, loading": ["enter"]}  # fmt: skip
    for name in (*FATAL, "INT"):
        place = rng.choice(list(places))
        terminal = Terminal(cwd=folder, env=env)
        try:
            terminal.wait("detach", 60.0)
            terminal.press(*places[place])
        except (AssertionError, OSError) as error:
            report.add("kills of the bench", f"{place}, SIG{name}", str(error).splitlines()[0])
            continue
        wrong = send(terminal, name) or modes_left_on(terminal)
        report.add("kills of the bench", f"{place}, SIG{name}", wrong or orphaned_servers())
    for _ in range(8):
        name, moment = rng.choice(FATAL), rng.uniform(0.0, 1.2)
        terminal = Terminal(cwd=folder, env=env)
        terminal.read(moment)
        wrong = send(terminal, name) or modes_left_on(terminal)
        report.add("kills of the bench", f"while opening, SIG{name} after {moment:.2f} s", wrong)


def orphaned_servers(seconds: float = 5.0) -> str:
    """Wait for RPC servers without a client to end; '' or an error if some do not."""
    deadline = time.monotonic() + seconds
    while orphans := [pid for pid in rpc_servers() if _parent(pid) == 1]:
        if time.monotonic() > deadline:
            return f"{len(orphans)} RPC servers without a client"
        time.sleep(0.05)
    return ""


def _parent(pid: int) -> int:
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return 0


def kill_requests(report: Report, rng: random.Random, folder: Path, env: dict[str, str]) -> None:
    for name in ("KILL", "SEGV", "ABRT", "TERM", "KILL", "BUS"):
        process = subprocess.Popen(
            [FTBENCH, "data", "check", "rows.jsonl"], cwd=folder, env={**os.environ, **env},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        child = wait_for_child(process)
        time.sleep(rng.uniform(0.0, 2.0))
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, getattr(signal, f"SIG{name}"))
        started = time.monotonic()
        _, stderr = process.communicate(timeout=60)
        took = time.monotonic() - started
        wrong = f"took {took:.1f} s" if took > 1.5 else ""
        lines = stderr.decode().splitlines()
        if process.returncode not in (0, 1) or (process.returncode and len(lines) != 1):
            wrong = wrong or f"exit {process.returncode}: {lines}"
        report.add("kills of requests", f"the RPC server of data check, SIG{name}", wrong)
    for name in ("KILL", "TERM", "INT", "HUP", "QUIT", "KILL"):
        process = subprocess.Popen(
            [FTBENCH, "data", "check", "rows.jsonl"], cwd=folder, env={**os.environ, **env},
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        child = wait_for_child(process)
        time.sleep(rng.uniform(0.0, 2.0))
        process.send_signal(getattr(signal, f"SIG{name}"))
        process.wait(10)
        deadline = time.monotonic() + 5
        while _parent(child) and time.monotonic() < deadline:
            time.sleep(0.01)
        wrong = "its RPC server still runs" if _parent(child) else ""
        report.add("kills of requests", f"the client, SIG{name}", wrong)
    for name in ("KILL", "SEGV"):
        terminal = Terminal(cwd=folder, env=env)
        wrong = ""
        try:
            terminal.wait("detach", 60.0)
            terminal.press("d", "down", "enter")
            terminal.wait("escape cancels", 20.0)
            child = max(servers_of_inspector(terminal.process.pid))
            os.kill(child, getattr(signal, f"SIG{name}"))
            terminal.wait("exited unexpectedly", 3.0)
            terminal.press("escape", "escape", "q")
            wrong = wait_for_end(terminal)
        except (AssertionError, ValueError) as error:
            wrong = str(error).splitlines()[0]
            terminal.process.kill()
            terminal.process.wait()
        report.add("kills of requests", f"the RPC server of the inspector, SIG{name}", wrong)


def servers_of_inspector(pid: int) -> list[int]:
    """RPC servers that the inspector waits for; the same client also requests previews of the listed datasets."""
    servers = []
    for child in rpc_servers():
        with contextlib.suppress(OSError):
            if _parent(child) == pid and b"serve" in Path(f"/proc/{child}/cmdline").read_bytes():
                servers.append(child)
    return servers


def wait_for_child(process: subprocess.Popen[bytes]) -> int:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if children := [pid for pid in rpc_servers() if _parent(pid) == process.pid]:
            return children[0]
        time.sleep(0.01)
    raise AssertionError("no RPC server")
