"""Runs of two Unix users on one machine, and limits that apply to users only."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from tools.attacks.run_common import (
    TINY,
    Done,
    Table,
    ended,
    ftbench,
    kill,
    last_line,
    limited,
    pid_of,
    tiny_with,
    wait,
)

USERS = (61_001, 61_002)
"""User ids that do not exist."""


def private_folder(path: Path, user: int) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    for parent in [path, *path.parents]:
        if parent.stat().st_uid == 0 and parent != Path("/") and str(parent).startswith(("/tmp/", "/var/tmp/")):
            parent.chmod(0o755)
    os.chown(path, user, user)
    path.chmod(0o700)
    return path


def as_user(user: int, runs: Path, *arguments: str, limits: dict[str, int] | None = None, **env: str) -> Done:
    """Run the command as another user, with a separate home and lock folder."""
    home = private_folder(runs.parent / f"home-{user}", user)
    environment = {"HOME": str(home), "XDG_CACHE_HOME": f"{home}/.cache", "XDG_CONFIG_HOME": f"{home}/.config"}
    environment |= {"XDG_STATE_HOME": f"{home}/.state", "FTBENCH_LOCKS": f"{home}/locks", "TMPDIR": str(home), **env}

    def become() -> None:
        os.setgroups([])
        os.setgid(user)
        os.setuid(user)
        limited(**(limits or {}))()

    return ftbench(*arguments, runs=runs, env=environment, preexec_fn=become, cwd=home)


def processes(table: Table, folder: Path) -> None:
    for name, count in (("no further process", 0), ("2 further processes", 2)):
        with table.attack(f"limit: {name}, as a user") as say:
            runs = private_folder(folder / f"processes{count}", USERS[0])
            done = as_user(USERS[0], runs, "run", "demo-lora", *TINY, limits={"NPROC": count})
            assert not done.clean, f"{done.clean}: {(done.err or done.out)[-300:]}"
            say(last_line(done))


def users(table: Table, folder: Path) -> None:
    first, other = USERS
    mine, theirs = private_folder(folder / "users" / "one", first), private_folder(folder / "users" / "other", other)
    with table.attack("two users train on one device at the same time") as say:
        for user, runs in ((first, mine), (other, theirs)):
            done = as_user(user, runs, "run", "demo-lora", *TINY, "--detach")
            assert done.code == 0, done.err
        for user, runs in ((first, mine), (other, theirs)):
            (run,) = runs.iterdir()
            wait(lambda: ended(run) and (run / "result.json").exists(), "both")  # noqa: B023
            listing = as_user(user, runs, "runs", "--json")
            say(json.loads(listing.out)[0]["state"])
            assert json.loads(listing.out)[0]["state"] == "finished"
    (run,) = mine.iterdir()
    for verb in ("attach", "resume", "stop", "report"):
        with table.attack(f"another user's `{verb}` on a private run") as say:
            done = as_user(other, theirs, verb, str(run))
            assert done.code in (1, 2) and not done.clean, f"{done.clean}: {done.err[-300:]}"
            say(last_line(done))
    shared = folder / "users" / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    with table.attack("two users share a runs folder") as say:
        for user in (first, other):
            done = as_user(user, shared, "run", "demo-lora", *TINY)
            assert done.code == 0, done.err
        for user in (first, other):
            done = as_user(user, shared, "runs", "--json")
            say(f"{user} sees {len(json.loads(done.out))}")
            assert not done.clean and len(json.loads(done.out)) == 1
    with table.attack("FTBENCH_LOCKS names the lock folder of another user") as say:
        done = as_user(other, theirs, "run", "demo-lora", *TINY, FTBENCH_LOCKS=str(folder / "users" / f"home-{first}"))
        assert done.code in (1, 2) and not done.clean, f"{done.clean}: {(done.err or done.out)[-300:]}"
        say(last_line(done))
    with table.attack("`stop` on an active run of another user in a shared folder") as say:
        done = as_user(first, shared, "run", "demo-lora", *tiny_with("--set", "train.steps=200"), "--detach", "--json")
        live = Path(json.loads(done.out)["path"])
        done = as_user(other, shared, "stop", str(live))
        say(last_line(done))
        assert done.code in (1, 2) and not done.clean and pid_of(live)
        kill(live, signal.SIGTERM)


STRANGER = """
import os, socket, sys
os.setgroups([]); os.setgid(int(sys.argv[1])); os.setuid(int(sys.argv[1]))
for line in sys.stdin:
    kind, name = line.rstrip("\\n").split(" ", 1)
    done = []
    try:
        if kind == "tcp":
            host, _, port = name.rpartition(":")
            connection = socket.create_connection((host, int(port)), 1)
            connection.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n"); done.append("connect")
        elif kind == "unix":
            connection = socket.socket(socket.AF_UNIX); connection.settimeout(1)
            connection.connect("\\0" + name[1:] if name.startswith("@") else name); done.append("connect")
        elif kind == "kill":
            os.kill(int(name), 0); done.append("kill")
        else:
            for flag, word in ((os.O_RDONLY, "read"), (os.O_WRONLY, "write")):
                try:
                    os.close(os.open(name, flag | os.O_NONBLOCK)); done.append(word)
                except OSError:
                    pass
            try:
                os.rename(name, name + ".x"); os.rename(name + ".x", name); done.append("rename")
            except OSError:
                pass
    except OSError:
        pass
    print(" ".join(done), flush=True)
"""
"""Another user's attempts, one line each."""
OWN = ("/work/", "/usr/", "/lib", "/etc/", "/dev/", "/proc/", "/sys/", sys.base_prefix, sys.prefix)
"""Where files are not of a run."""


SCENE_SECONDS = 40
LONG = ("--set", "train.steps=400", "--set", "train.checkpoint_every=5")
RANKS = ("--set", "train.devices=2", "--set", "hardware.device=cpu:2")


def open_files(table: Table, folder: Path) -> None:
    """Another user tries every file, socket and process of ftbench while it trains, exports, answers and shows."""
    runs = folder / "home" / "runs"
    folder.chmod(0o755)
    scenes: dict[str, list[str]] = {
        "a run on two devices": ["run", "demo-lora", *tiny_with(*LONG, *RANKS)],
        "a run with trackers": ["run", "demo-lora", *tiny_with(*LONG, "--set", 'track.to=["tensorboard"]')],
        "a ladder": ["ladder", "demo", "--rung", "lora", "--no-probe", "--set", "train.steps=60"],
        "try": ["try", "RUN", "--prompt", "x", "--max-new-tokens", "200"],
        "export": ["export", "RUN", "--type", "f32", "--margin", "100", "--out", str(folder / "artifact")],
        "attach": ["attach", "RUN"],
        "monitor": ["monitor"],
    }  # fmt: skip
    made = ftbench("run", "demo-lora", *TINY, runs=runs, umask=0)
    assert made.code == 0, made.err
    run = next(path.parent.name for path in runs.glob("*/run.toml"))
    for scene, words in scenes.items():
        environment = {**os.environ, "FTBENCH_RUNS": str(runs)}
        command = subprocess.Popen(
            [str(Path(sys.executable).with_name("ftbench")), *(run if word == "RUN" else word for word in words)],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment, umask=0,
        )  # fmt: skip
        tried: set[str] = set()
        open_to: dict[str, str] = {}
        stranger = subprocess.Popen(
            [sys.executable, "-I", "-c", STRANGER, str(USERS[1])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert stranger.stdin and stranger.stdout
        deadline = time.monotonic() + SCENE_SECONDS
        while command.poll() is None and time.monotonic() < deadline:
            for line in list(belongings(folder, runs)):
                if line not in tried:
                    tried.add(line)
                    stranger.stdin.write(line + "\n")
                    stranger.stdin.flush()
                    if answer := stranger.stdout.readline().strip():
                        open_to[line] = answer
            time.sleep(0.2)
        stranger.stdin.close()
        stranger.wait()
        command.terminate()
        command.wait(120)  # of the command, which detaches from its run
        for path in (*runs.glob("*/ladder.toml"), *runs.glob("*/run.toml")):
            if pid_of(path.parent):
                ftbench("stop", str(path.parent), runs=runs)
        for line in sorted(tried):
            wrong = open_to.get(line, "")
            shown = line.replace(str(folder), "…")[-110:]
            allowed = wrong == "read" and "/artifact" in line
            table.add(
                f"another user during {scene}: {shown}",
                wrong or "refused",
                "" if allowed or not wrong else f"FAILED: {wrong}",
            )


def belongings(folder: Path, runs: Path) -> Iterator[str]:
    """Every open file, socket and process of ftbench, and every file of the runs, locks, caches and settings."""
    unix = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if not any(str(folder) in word for word in (*process.cmdline(), process.environ().get("FTBENCH_RUNS", ""))):
                continue
            yield f"kill {process.pid}"
            inodes = set()
            for entry in Path(f"/proc/{process.pid}/fd").iterdir():
                with contextlib.suppress(OSError):
                    name = str(entry.readlink())
                    if name.startswith("socket:["):
                        inodes.add(name[8:-1])
                    elif name.startswith("/") and not name.startswith(OWN) and not name.endswith(" (deleted)"):
                        yield f"file {name}"
            for connection in process.net_connections("inet"):
                if connection.status == psutil.CONN_LISTEN:
                    yield f"tcp {connection.laddr.ip}:{connection.laddr.port}"
            for words in unix:
                if words[6] in inodes and len(words) > 7:
                    yield f"unix {words[7]}"
    for path in (Path(root, name) for root, _, names in os.walk(folder) for name in names):
        if path.is_file() and path.suffix != ".so" and ("/cache/" not in str(path) or path.stat().st_mode & 0o22):
            yield f"file {path}"


MOUNT_SCRIPT = """
set -e
mount --bind "$1" "$3"
mount -t tmpfs -o mode=755 none "$2"
mkdir -p "$1"
mount --bind "$3" "$1"
shift 3
exec "$@"
"""
"""In a mount namespace: makes the interpreter accessible to other users, below a directory that they cannot enter."""


def rerun_in_mount_namespace(parts: list[str], folder: Path) -> int | None:
    """Run this program again where other users can access the interpreter; None if they already can."""
    interpreter = Path(sys.base_prefix)
    closed = next((parent for parent in interpreter.parents if not parent.stat().st_mode & 0o001), None)
    if closed is None:
        return None
    again = [sys.executable, "-m", "tools.attacks.run_environment", *parts]
    script = ["sh", "-c", MOUNT_SCRIPT, "sh", str(interpreter), str(closed), str(folder)]
    return subprocess.run(["unshare", "--mount", *script, *again], check=False).returncode
