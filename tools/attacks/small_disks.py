"""Runs and ladders on small file systems, and on one that fills after the start."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

from tools.attacks.run_common import (
    TINY,
    Table,
    assert_no_active_run,
    ended,
    ftbench,
    last_line,
    lines,
    losses,
    pairs,
    start,
    wait,
)


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
                say(f"state {[entry['state'] for entry in shown]}")
                assert all(entry["reason"] or entry["state"] == "finished" for entry in shown), "no reason is shown"
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
                wait(lambda: any(event.get("name") == "model" for event in lines(run)) or ended(run), "the model")  # noqa: B023
                fill(runs, left << 10)
                wait(lambda: ended(run), "the end")  # noqa: B023
                (shown,) = json.loads(ftbench("runs", "--json", runs=runs).out)
                say(f"{shown['state']}: {shown['reason'][:120]}")
                assert shown["reason"] or shown["state"] == "finished", "no reason is shown"
                assert_no_active_run(runs)
            finally:
                subprocess.run(["umount", "--lazy", str(runs)], check=True)


def filling(table: Table, folder: Path) -> None:
    """The disk fills at a moment of training; once there is space again, the run is resumed with the same losses."""
    reference = start(folder / "enough")
    wait(lambda: (reference / "result.json").exists() and ended(reference), "the reference run")
    moments = {
        "step 1": {"type": "step", "step": 1},
        "checkpoint 2": {"type": "checkpoint", "step": 2},
        "step 4, while its checkpoint is written": {"type": "step", "step": 4},
        "evaluation": {"type": "phase", "name": "evaluation"},
        "saving": {"type": "phase", "name": "saving"},
    }
    for name, moment in moments.items():
        for left in (0, 8, 128):
            with table.attack(f"{left} KiB are left at: {name}") as say:
                runs = folder / f"fills-{left}-{len(table.rows)}"
                runs.mkdir()
                subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "none", str(runs)], check=True)
                try:
                    run = start(runs)
                    wait(lambda: any(moment.items() <= event.items() for event in lines(run)) or ended(run), name)  # noqa: B023
                    fill(runs, left << 10)
                    wait(lambda: ended(run), "the end")  # noqa: B023
                    done = ftbench("runs", "--json", runs=runs)
                    assert done.code == 0 and not done.clean, done.err
                    (shown,) = json.loads(done.out)
                    say(f"{shown['state']}: {shown['reason'][:80]}")
                    assert shown["reason"] or shown["state"] == "finished", "no reason is shown"
                    assert_no_active_run(runs)
                    (runs / "filling").unlink()
                    if shown["state"] != "finished":
                        again = ftbench("resume", run.name, runs=runs)
                        assert again.code == 0 and not again.clean, f"resume: {again.clean}: {again.err[-200:]}"
                    assert json.loads((run / "result.json").read_text())["status"] == "finished"
                    by_step = {step: set(values) for step, values in losses(run).items()}
                    assert by_step == {step: set(values) for step, values in losses(reference).items()}, "losses differ"
                finally:
                    subprocess.run(["umount", "--lazy", str(runs)], check=True)


def fill(folder: Path, left: int) -> None:
    """Write a file that leaves `left` bytes of the file system."""
    space = os.statvfs(folder)
    with (folder / "filling").open("wb") as file:
        file.write(bytes(max(0, space.f_bavail * space.f_frsize - left)))
