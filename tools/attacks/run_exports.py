"""Kill exports at random moments: the command, its engine process, or the process that checks the artifact.

`python -m tools.attacks.run_exports [KILLS] [SEED]` (12 and 17 by default).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from tools.attacks.run_common import FTBENCH, Table, ended, ftbench, start, wait, workplace

KINDS = (["--to", "adapter"], ["--type", "f32"], ["--type", "bf16"])
SECONDS = 45.0
"""Within which the processes of a killed export must end."""


def content(run: Path) -> dict[str, str]:
    """Digest of every file of the run except its exports and its lock, which names who held it last."""
    return {
        str(path.relative_to(run)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(run.rglob("*"))
        if path.is_file() and "exports" not in path.parts and path.name != "engine.lock"
    }


def complete(artifact: Path) -> bool:
    """Whether a visible artifact has its check, its card, and every shard of its index."""
    index = artifact / "model.safetensors.index.json"
    files = set(json.loads(index.read_text())["weight_map"].values()) if index.exists() else set()
    names = {path.name for path in artifact.iterdir()}
    return {"fidelity.json", "README.md"} | files <= names


def processes(command: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """The command, its engine process, and the process that checks the artifact, as far as they exist."""
    try:
        parent = psutil.Process(command.pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def main(kills: int, seed: int) -> int:
    table, rng = Table("exports"), random.Random(seed)
    with workplace() as folder:
        run = start(folder / "runs")
        wait(lambda: (run / "result.json").exists() and ended(run), "the run")
        before = content(run)
        started = time.monotonic()
        first = ftbench("export", run.name, "--to", "adapter", "--margin", "100", runs=run.parent)
        assert first.code == 0, first.err
        longest = time.monotonic() - started
        for number in range(kills):
            with table.attack("SIGKILL of an export: " + ("the command", "its engine", "its check")[number % 3]) as say:
                command = subprocess.Popen(
                    [FTBENCH, "export", run.name, *KINDS[number % len(KINDS)], "--overwrite", "--margin", "100"],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    env={**os.environ, "FTBENCH_RUNS": str(run.parent)},
                )
                time.sleep(rng.uniform(0.2, 1.1) * longest)
                candidates = processes(command)
                victim = candidates[min(number % 3, len(candidates) - 1)] if candidates else None
                if victim is not None and command.poll() is None:
                    victim.send_signal(signal.SIGKILL)
                    say(f"killed process {min(number % 3, len(candidates) - 1) + 1} of {len(candidates)}")
                else:
                    say("already ended")
                limit = time.monotonic() + SECONDS
                while command.poll() is None or any(
                    process.is_running() and process.status() != "zombie" for process in candidates
                ):
                    assert time.monotonic() < limit, "a process of the export is still running"
                    time.sleep(0.1)
                assert content(run) == before, "the run was changed"
                visible = [path for path in (run / "exports").iterdir() if not path.name.startswith(".")]
                assert all(map(complete, visible)), "an incomplete artifact is visible"
        with table.attack(f"the run after {kills} kills") as say:
            left = [path for path in (run / "exports").iterdir() if path.name.startswith(".")]
            for kind in KINDS:
                done = ftbench("export", run.name, *kind, "--overwrite", "--margin", "100", runs=run.parent)
                assert done.code == 0, done.err
            assert not [path for path in (run / "exports").iterdir() if path.name.startswith(".")], "something is left"
            say(f"{len(left)} half-written folders removed")
            assert content(run) == before, "the run was changed"
    return table.end()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("kills", 12), ("seed", 17)):
        parser.add_argument(name, nargs="?", type=int, default=default)
    sys.exit(main(**vars(parser.parse_args())))
