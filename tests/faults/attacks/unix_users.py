"""Runs of two Unix users on one machine, and limits that apply to users only."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.faults.attacks.run_common import (
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
    one, other = USERS
    mine, theirs = private_folder(folder / "users" / "one", one), private_folder(folder / "users" / "other", other)
    with table.attack("two users train on one device at the same time") as say:
        for user, runs in ((one, mine), (other, theirs)):
            done = as_user(user, runs, "run", "demo-lora", *TINY, "--detach")
            assert done.code == 0, done.err
        for user, runs in ((one, mine), (other, theirs)):
            (run,) = runs.iterdir()
            wait(lambda: ended(run) and (run / "result.json").exists(), "both")  # noqa: B023
            found = as_user(user, runs, "runs", "--json")
            say(json.loads(found.out)[0]["state"])
            assert json.loads(found.out)[0]["state"] == "finished"
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
        for user in (one, other):
            done = as_user(user, shared, "run", "demo-lora", *TINY)
            assert done.code == 0, done.err
        for user in (one, other):
            done = as_user(user, shared, "runs", "--json")
            say(f"{user} sees {len(json.loads(done.out))}")
            assert not done.clean and len(json.loads(done.out)) == 1
    with table.attack("FTBENCH_LOCKS names the lock folder of another user") as say:
        done = as_user(other, theirs, "run", "demo-lora", *TINY, FTBENCH_LOCKS=str(folder / "users" / f"home-{one}"))
        assert done.code in (1, 2) and not done.clean, f"{done.clean}: {(done.err or done.out)[-300:]}"
        say(last_line(done))
    with table.attack("`stop` on an active run of another user in a shared folder") as say:
        done = as_user(one, shared, "run", "demo-lora", *tiny_with("--set", "train.steps=200"), "--detach", "--json")
        live = Path(json.loads(done.out)["path"])
        done = as_user(other, shared, "stop", str(live))
        say(last_line(done))
        assert done.code in (1, 2) and not done.clean and pid_of(live)
        kill(live, signal.SIGTERM)


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
    again = [sys.executable, "-m", "tests.faults.attacks.run_environment", *parts]
    script = ["sh", "-c", MOUNT_SCRIPT, "sh", str(interpreter), str(closed), str(folder)]
    return subprocess.run(["unshare", "--mount", *script, *again], check=False).returncode
