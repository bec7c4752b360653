"""Run in bad environments: resource limits, failing locks, a clock that jumps, two users, small disks.

`python -m tests.faults.attacks.run_environment [PART …]`:
`limits`, `processes`, `locks`, `clock`, `users`, `disk`; all by default.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.faults.attacks.run_common import (
    TINY,
    Done,
    Table,
    ended,
    ftbench,
    kill,
    lines,
    losses,
    pairs,
    pid_of,
    start,
    tiny_with,
    wait,
    workplace,
)

MONTH = 30 * 24 * 3600
SOURCE = Path(__file__).with_name("stand_ins.c")
USERS = (61_001, 61_002)
"""User ids that do not exist."""


def limited(**limits: int) -> Callable[[], None]:
    """Set RLIMIT_* in a child process: limited(NOFILE=20)."""

    def apply() -> None:
        for name, value in limits.items():
            resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (value, value))

    return apply


def last_line(done: Done) -> str:
    """Exit status and last line of output."""
    text = [line for line in (done.err or done.out).strip().splitlines() if line.strip()]
    return f"{done.code}, {text[-1].replace('|', '/')[:160] if text else ''}"


def assert_no_active_run(runs: Path) -> None:
    """After a failure no run must look active."""
    shown = json.loads(ftbench("runs", "--json", runs=runs).out)
    states = {one["name"]: one["state"] for one in shown}
    wait(lambda: all(ended(runs / name) for name in states), "workers to end", 300)
    shown = json.loads(ftbench("runs", "--json", runs=runs).out)
    active = {one["state"] for one in shown} & {"live", "starting", "training"}
    assert not active, f"a run still looks {active}"


def limits(table: Table, folder: Path) -> None:
    gib = 1 << 30
    cases: list[tuple[str, dict[str, int]]] = [
        *((f"{count} open files", {"NOFILE": count}) for count in (8, 12, 16, 24, 40, 64)),
        *((f"{size} GiB of address space", {"AS": int(size * gib)}) for size in (0.15, 0.4, 1.0, 1.5)),
        *((f"files of at most {size} KB", {"FSIZE": size << 10}) for size in (1, 5, 20, 100)),
        ("2 s of CPU time", {"CPU": 2}),
        ("no core dump and 1 MB of stack", {"STACK": 1 << 20, "CORE": 0}),
    ]
    for number, (name, given) in enumerate(cases):
        with table.attack(f"limit: {name}") as say:
            runs = folder / f"limits{number}"
            done = ftbench("run", "demo-lora", *TINY, runs=runs, preexec_fn=limited(**given))
            killed = done.code == -signal.SIGXCPU
            assert killed or not done.clean, f"{done.clean}: {(done.err or done.out)[-300:]}"
            say(last_line(done))
            assert_no_active_run(runs)


def processes(table: Table, folder: Path) -> None:
    for name, count in (("no further process", 0), ("2 further processes", 2)):
        with table.attack(f"limit: {name}, as a user") as say:
            runs = private_folder(folder / f"processes{count}", USERS[0])
            done = as_user(USERS[0], runs, "run", "demo-lora", *TINY, limits={"NPROC": count})
            assert not done.clean, f"{done.clean}: {(done.err or done.out)[-300:]}"
            say(last_line(done))


def compiled(folder: Path) -> str:
    """Compile the stand-ins into a library."""
    library = folder / "stand_ins.so"
    command = ["cc", "-shared", "-fPIC", "-O1", "-o", str(library), str(SOURCE), "-ldl"]
    subprocess.run(command, check=True, capture_output=True)
    return str(library)


def locks(table: Table, folder: Path, library: str) -> None:
    for name in ("ENOLCK", "EOPNOTSUPP", "ENOSYS"):
        env = {"LD_PRELOAD": library, "FLOCK_FAILS": str(getattr(errno, name))}
        runs = folder / f"locks-{name}"
        with table.attack(f"flock fails with {name}: run") as say:
            done = ftbench("run", "demo-lora", *TINY, runs=runs, env=env)
            assert done.code and not done.clean, f"{done.clean}: {(done.err or done.out)[-300:]}"
            assert "lock" in done.err, done.err
            say(last_line(done))
        with table.attack(f"flock fails with {name}: ladder, runs, doctor") as say:
            for arguments in (["ladder", "demo", "--rung", "lora"], ["runs"], ["doctor"]):
                done = ftbench(*arguments, runs=runs, env=env)
                assert not done.clean, f"{arguments[0]}: {done.clean}: {(done.err or done.out)[-300:]}"
                say(f"{arguments[0]}: {last_line(done)}")
        with table.attack(f"flock fails with {name}: no run was started") as say:
            assert not [path for path in runs.glob("*/events.jsonl") if lines(path.parent)[1:]]


def clock(table: Table, folder: Path, library: str) -> None:
    offset = folder / "offset"
    offset.write_text("0")
    env = {"LD_PRELOAD": library, "CLOCK_OFFSET": str(offset)}
    reference = start(folder / "steady")
    wait(lambda: (reference / "result.json").exists() and ended(reference), "the reference run")
    for way in (MONTH, -MONTH):
        with table.attack(f"the clock jumps by {way // 86400} days while training") as say:
            offset.write_text("0")
            run = start(folder / "jumping", env=env)
            wait(lambda: 2 in losses(run), "step 2")  # noqa: B023
            offset.write_text(str(way))
            wait(lambda: (run / "result.json").exists() and ended(run), "the end")  # noqa: B023
            result: dict[str, Any] = json.loads((run / "result.json").read_text())
            total = sum(result["seconds"].values())
            say(f"{result['status']}, {total:.0f} s in all phases")
            assert result["status"] == "finished" and 0 < total < 3600
            assert losses(run) == losses(reference)
        with table.attack(f"the clock jumps by {way // 86400} days between a kill and the resume") as say:
            offset.write_text("0")
            run = start(folder / "jumping", env=env)
            wait(lambda: 3 in losses(run), "step 3")  # noqa: B023
            kill(run)
            offset.write_text(str(way))
            done = ftbench("resume", run.name, runs=run.parent, env=env)
            assert done.code == 0, done.err
            result = json.loads((run / "result.json").read_text())
            say(f"{result['status']}, {sum(result['seconds'].values()):.0f} s in all phases")
            assert sum(result["seconds"].values()) < 3600
            assert {step: set(values) for step, values in losses(run).items()} == {
                step: set(values) for step, values in losses(reference).items()
            }
        with table.attack(f"the clock jumps by {way // 86400} days while a run waits, then another one starts") as say:
            offset.write_text("0")
            holder = start(folder / "queue", "--set", "train.steps=60", env=env)
            second = start(folder / "queue", env=env)
            wait(lambda: any(one.get("name") == "waiting" for one in lines(second)), "the second to wait")  # noqa: B023
            offset.write_text(str(way))
            third = start(folder / "queue", env=env)
            kill(holder, signal.SIGTERM)
            for one in (second, third):
                wait(lambda: (one / "result.json").exists() and ended(one), "the queue")  # noqa: B023
            first_steps = [next(e["seq"] for e in lines(one) if e["type"] == "step") for one in (second, third)]
            states = [json.loads((one / "result.json").read_text())["status"] for one in (second, third)]
            say(f"{', '.join(states)}; both ended")
            assert states == ["finished", "finished"] and all(first_steps)
        with table.attack(f"list and attach after a jump by {way // 86400} days") as say:
            offset.write_text(str(way))
            for arguments in (["runs"], ["runs", "--json"], ["attach", reference.name]):
                done = ftbench(*arguments, runs=reference.parent, env=env)
                assert done.code == 0 and not done.clean, f"{arguments}: {done.err}"


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


def disk(table: Table, folder: Path) -> None:
    for size in ("64k", "256k", "1m", "2m", "3m"):
        with table.attack(f"a file system of {size}") as say:
            runs = folder / f"disk-{size}"
            runs.mkdir()
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(runs)], check=True)
            try:
                done = ftbench("run", "demo-lora", *TINY, runs=runs)
                assert not done.clean, f"{done.clean}: {(done.err or done.out)[-300:]}"
                say(last_line(done))
                assert_no_active_run(runs)
                shown = json.loads(ftbench("runs", "--json", runs=runs).out)
                say(f"state {[one['state'] for one in shown]}")
                assert all(one["reason"] or one["state"] == "finished" for one in shown), "no reason is shown"
            finally:
                subprocess.run(["umount", "--lazy", str(runs)], check=True)
        with table.attack(f"a ladder on a file system of {size}") as say:
            runs = folder / f"ladder-{size}"
            runs.mkdir()
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(runs)], check=True)
            try:
                done = ftbench("ladder", "demo", "--rung", "lora", "--no-probe", *pairs(TINY, "adapter."), runs=runs)
                assert not done.clean, f"{done.clean}: {(done.err or done.out)[-300:]}"
                say(last_line(done))
                assert_no_active_run(runs)
            finally:
                subprocess.run(["umount", "--lazy", str(runs)], check=True)
    for left in (0, 4, 64, 256, 1024):
        with table.attack(f"{left} KiB are left of a file system after the start") as say:
            runs = folder / f"filled-{left}"
            runs.mkdir()
            subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "none", str(runs)], check=True)
            try:
                run = start(runs)
                wait(lambda: any(one.get("name") == "model" for one in lines(run)) or ended(run), "the model")  # noqa: B023
                fill(runs, left << 10)
                wait(lambda: ended(run), "the end")  # noqa: B023
                (shown,) = json.loads(ftbench("runs", "--json", runs=runs).out)
                say(f"{shown['state']}: {shown['reason'][:120]}")
                assert shown["reason"] or shown["state"] == "finished", "no reason is shown"
                assert_no_active_run(runs)
            finally:
                subprocess.run(["umount", "--lazy", str(runs)], check=True)


def fill(folder: Path, left: int) -> None:
    """Write a file that leaves `left` bytes of the file system."""
    space = os.statvfs(folder)
    with (folder / "filling").open("wb") as file:
        file.write(bytes(max(0, space.f_bavail * space.f_frsize - left)))


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


def main(parts: list[str]) -> int:
    table = Table("environment")
    if {"users", "processes"} & set(parts or ["users"]):
        with tempfile.TemporaryDirectory() as folder:
            status = rerun_in_mount_namespace(parts, Path(folder))
        if status is not None:
            return status
    with workplace() as folder:
        parts = parts or ["limits", "processes", "locks", "clock", "users", "disk"]
        library = compiled(folder)
        if "limits" in parts:
            limits(table, folder)
        if "processes" in parts:
            processes(table, folder)
        if "locks" in parts:
            locks(table, folder, library)
        if "clock" in parts:
            clock(table, folder, library)
        if "users" in parts:
            users(table, folder)
        if "disk" in parts:
            disk(table, folder)
    return table.end()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="part")
    sys.exit(main(parser.parse_args().parts))
