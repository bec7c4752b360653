"""Use a home that cannot be written with every subcommand: `python -m tools.attacks.run_homes`.

After each attack every file of every run is as before, and nothing outside has changed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent.parent / "tests"))

import forked
from made_ladder import made_ladder
from made_sweep import made_sweep

from tools.attacks.run_common import FTBENCH, TINY, Done, Table, last_line, workplace

CHECKPOINT_BYTES = 1 << 20
COMMANDS = (
    *(["runs"], ["runs", "--json"], ["queue"], ["doctor"], ["clean"], ["clean", "temporary", "--yes"], ["gate", "RUN"]),
    *(["clean", "checkpoints", "runs", "ladders", "--yes"], ["report", "LADDER"], ["report", "SWEEP"]),
    *(["attach", "RUN"], ["resume", "RUN"], ["resume", "LADDER"], ["resume", "SWEEP"], ["stop", "RUN"]),
    *(["export", "RUN"], ["export", "LADDER"], ["try", "RUN", "--prompt", "x"], ["track", "RUN"]),
    *(["run", "demo-lora", *TINY], ["run", "demo-lora", *TINY, "--detach"], ["ladder", "demo", "--rung", "lora"]),
    *(["ladder", "demo", "--rung", "lora", "--vary", "adapter.rank=2,4"], ["plan", "demo-lora"], ["data", "check"]),
)  # fmt: skip
"""Every subcommand that reads or writes the home."""


def tree(root: Path) -> dict[str, bytes]:
    """Every file below a folder except locks, which name who held them last."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and not path.is_symlink() and path.name != "engine.lock"
    }


class Home:
    """A home with ladders, a sweep, checkpoints and a cached model, and documents outside."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.env = {f"XDG_{name}_HOME": str(folder / name.lower()) for name in ("CONFIG", "CACHE", "STATE", "DATA")}
        self.env["FTBENCH_RUNS"] = ""
        self.runs, self.cache = folder / "data/ftbench/runs", folder / "cache/ftbench"
        made_ladder(self.runs, seeds=[0])
        made_sweep(self.runs)
        for run in self.runs.glob("*/run.toml"):
            (run.parent / "checkpoints/step-2").mkdir(parents=True)
            (run.parent / "checkpoints/step-2/model.safetensors").write_bytes(os.urandom(CHECKPOINT_BYTES))
        (self.cache / "models/tiny").mkdir(parents=True)
        (self.cache / "models/tiny/weights").write_bytes(os.urandom(CHECKPOINT_BYTES))
        self.documents = folder / "documents"
        (self.documents / "step-2").mkdir(parents=True)
        (self.documents / "step-2" / "letter").write_text("of the user")
        self.content, self.outside = tree(self.runs), tree(self.documents)

    def command(self, *arguments: str) -> Done:
        """As a fork of a process that has imported the libraries."""
        completed = forked.ftbench(*arguments, env={**os.environ, **self.env}, timeout=300)
        return Done(completed.returncode, completed.stdout, completed.stderr)

    def current(self) -> Path:
        """Where `ftbench home` says that the runs are."""
        done = self.command("home", "--json")
        assert not done.clean and done.code == 0, done.clean or done.err
        return Path(json.loads(done.out)["runs"]["path"])

    def check(self) -> Path:
        """Everything is in the present home and listed, and nothing outside has changed; returns the runs."""
        runs = self.current()
        files = tree(runs)
        lost = [name for name, data in self.content.items() if files.get(name) != data]
        assert not lost, f"{len(lost)} files lost from {runs}: {lost[:2]}"
        shown = self.command("runs", "--json")
        assert shown.code == 0 and not shown.clean, shown.err
        names = {entry["name"] for entry in json.loads(shown.out)}
        kept = {Path(name).parent.name for name in self.content if Path(name).name in ("run.toml", "ladder.toml")}
        assert names == kept, "the list differs"
        assert tree(self.documents) == self.outside, "the documents were changed"
        return runs

    def begin(self, target: Path) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [FTBENCH, "home", str(target)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **self.env},
        )

    def refused(self, target: Path | str, runs: Path | None = None) -> str:
        """A move that must fail in one line and change nothing."""
        done = self.command("home", str(target))
        assert done.code in (1, 2) and not done.clean, f"{done.clean or done.out}: {done.err[-300:]}"
        assert len(done.err.strip().splitlines()) == 1, f"more than one line: {done.err[-300:]}"
        assert self.check() == (runs or self.runs), "the home was moved"
        return last_line(done)


def mounted(path: Path, size: str, *options: str) -> Path:
    path.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", ",".join((f"size={size}", *options)), "none", str(path)], check=True)
    return path


def unmount(path: Path) -> None:
    subprocess.run(["umount", "--lazy", str(path)], check=True)


def readonly(table: Table, folder: Path) -> None:
    """Every subcommand on a home, a cache and settings that cannot be written."""
    for part in ("data", "cache", "config", "state", "everything"):
        home = Home(folder / f"readonly-{part}")
        names = {
            "RUN": min(path.parent.name for path in home.runs.glob("*/run.toml")),
            "LADDER": min(path.parent.name for path in home.runs.glob("*/ladder.toml")),
            "SWEEP": min(path.parent.name for path in home.runs.glob("*/sweep.toml")),
        }
        place = home.folder if part == "everything" else home.folder / part
        place.mkdir(exist_ok=True)
        subprocess.run(["mount", "--bind", str(place), str(place)], check=True)
        subprocess.run(["mount", "-o", "remount,ro,bind", str(place)], check=True)
        try:
            before = tree(place)
            for words in COMMANDS:
                if part in ("cache", "config", "state") and words[0] in ("ladder", "resume", "clean", "export", "try"):
                    continue
                with table.attack(f"{part} cannot be written: {words[0]} {' '.join(words[1:3])}") as say:
                    done = home.command(*(names.get(word, word) for word in words))
                    assert not done.clean, f"{done.clean}: {(done.err or done.out)[-400:]}"
                    say(last_line(done))
                    assert not done.code or len(done.err.strip().splitlines()) < 4, done.err
                    assert tree(place) == before, "something was written"
        finally:
            unmount(place)


def main() -> int:
    table = Table("homes")
    with workplace() as folder:
        readonly(table, folder)
    return table.end()


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    sys.exit(main())
