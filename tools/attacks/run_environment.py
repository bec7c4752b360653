"""Run in bad environments: resource limits, failing locks, a clock that jumps, two users, small disks.

`python -m tools.attacks.run_environment [PART …]`:
`limits`, `processes`, `locks`, `clock`, `users`, `open`, `disk`, `filling`; all by default.
"""

from __future__ import annotations

import argparse
import errno
import json
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tools.attacks.run_common import (
    TINY,
    Table,
    assert_no_active_run,
    ended,
    ftbench,
    kill,
    last_line,
    limited,
    lines,
    losses,
    start,
    wait,
    workplace,
)
from tools.attacks.small_disks import disk, filling
from tools.attacks.unix_users import open_files, processes, rerun_in_mount_namespace, users

MONTH = 30 * 24 * 3600
SOURCE = Path(__file__).with_name("stand_ins.c")


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
    for way in (MONTH, -MONTH, 80 * 365 * 86_400, -50 * 365 * 86_400):
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
            wait(lambda: any(event.get("name") == "waiting" for event in lines(second)), "the second to wait")  # noqa: B023
            offset.write_text(str(way))
            third = start(folder / "queue", env=env)
            kill(holder, signal.SIGTERM)
            for directory in (second, third):
                wait(lambda: (directory / "result.json").exists() and ended(directory), "the queue")  # noqa: B023
            first_steps = [
                next(e["seq"] for e in lines(directory) if e["type"] == "step") for directory in (second, third)
            ]
            states = [json.loads((directory / "result.json").read_text())["status"] for directory in (second, third)]
            say(f"{', '.join(states)}; both ended")
            assert states == ["finished", "finished"] and all(first_steps)
        with table.attack(f"list and attach after a jump by {way // 86400} days") as say:
            offset.write_text(str(way))
            for arguments in (["runs"], ["runs", "--json"], ["attach", reference.name]):
                done = ftbench(*arguments, runs=reference.parent, env=env)
                assert done.code == 0 and not done.clean, f"{arguments}: {done.err}"


def main(parts: list[str]) -> int:
    table = Table("environment")
    if {"users", "processes", "open"} & set(parts or ["users"]):
        with tempfile.TemporaryDirectory() as folder:
            status = rerun_in_mount_namespace(parts, Path(folder))
        if status is not None:
            return status
    with workplace() as folder:
        parts = parts or ["limits", "processes", "locks", "clock", "users", "open", "disk", "filling"]
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
        if "open" in parts:
            open_files(table, folder)
        if "disk" in parts:
            disk(table, folder)
        if "filling" in parts:
            filling(table, folder)
    return table.end()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="part")
    sys.exit(main(parser.parse_args().parts))
