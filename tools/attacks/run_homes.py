"""Move the home while it is killed, interrupted, full, linked or in use, and use a home that cannot be written.

`python -m tools.attacks.run_homes [PART …]`: `kills`, `targets`, `links`, `disk`, `readonly`; all by default.
After each attack every file of every run is in the home that the command names, and nothing outside has changed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent.parent / "tests"))

import forked
from made_ladder import made_ladder
from made_sweep import made_sweep

from tools.attacks.run_common import FTBENCH, TINY, Done, Table, last_line, start, wait, workplace

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


def kills(table: Table, folder: Path, rng: random.Random) -> None:
    """Signals at random moments of moves within a file system and to another one, and back."""
    for medium in ("the same file system", "another file system"):
        home = Home(folder / medium.split()[1])
        disk = folder / f"disk-{medium.split()[1]}"
        if medium.startswith("another"):
            mounted(disk, "256m")
        started = time.monotonic()
        home.begin(disk / "0").wait(300)
        longest = time.monotonic() - started
        for number in range(1, 9):
            name = ("SIGKILL", "SIGKILL", "SIGINT", "SIGTERM")[number % 4]
            with table.attack(f"{name} of `home DIR` to {medium}") as say:
                target = disk / str(number) if number % 2 else folder / f"back-{medium.split()[1]}-{number}"
                for _ in range(2):
                    process = home.begin(target)
                    time.sleep(rng.uniform(0.4, 1.0) * longest)
                    process.send_signal(getattr(signal, name))
                    code = process.wait(60)
                    current = home.check()
                    say(f"{code}, {'new' if current == target / 'runs' else 'old'} home")
                done = home.command("home", str(target), "--json")
                assert done.code == 0 or json.loads(done.err.splitlines()[-1])["error"]["code"] == "home.same", done.err
                assert home.check() == target / "runs"
                left = [str(path) for path in target.rglob(".*") if path.name != ".moved-from.json"]
                assert not left and not (target / ".moved-from.json").exists(), f"left behind: {left}"
        if medium.startswith("another"):
            home.command("home", str(folder / "last"))
            unmount(disk)


def targets(table: Table, folder: Path) -> None:
    """Targets that cannot be a home, records of a move that are damaged, and runs that are active."""
    home = Home(folder / "targets")
    bad = folder / "bad"
    bad.mkdir()
    (bad / "file").write_text("text")
    os.mkfifo(bad / "pipe")
    (bad / "link").symlink_to(home.documents / "step-2" / "letter")
    (bad / "loop").symlink_to("loop")
    (bad / "runs-file").mkdir()
    (bad / "runs-file/runs").write_text("text")
    (bad / "runs-link").mkdir()
    (bad / "runs-link/runs").symlink_to(home.documents)
    (bad / "cache-link").mkdir()
    (bad / "cache-link/cache").symlink_to(home.documents)
    (bad / "other").mkdir()
    shutil.copytree(home.runs, bad / "other/runs")
    for log in (bad / "other/runs").glob("*/run.toml"):
        log.write_text("another run")
    names = ("file", "pipe", "link", "loop", "runs-file", "runs-link", "cache-link", "other", "x" * 300, "file/below")
    for name in names:
        with table.attack(f"`home DIR` with {name[:20]}") as say:
            say(home.refused(bad / name))
    inside = (
        home.runs,
        home.runs / "below",
        next(home.runs.iterdir()),
        home.cache,
        "/proc/self",
        "/dev/null",
        "",
        "/dev/full/x",
    )
    for name in inside:
        with table.attack(f"`home DIR` with {str(name).removeprefix(str(folder))}") as say:
            say(home.refused(name))
    with table.attack("`home DIR` on a file system that is read-only") as say:
        disk = mounted(folder / "readonly-target", "1m", "ro")
        try:
            say(home.refused(disk / "home"))
        finally:
            unmount(disk)
    with table.attack("`home DIR` while a run trains") as say:
        run = start(home.runs, "--set", "train.steps=2000", env=home.env)
        done = home.command("home", str(folder / "active"))
        assert done.code == 2 and not done.clean and run.name in done.err, done.err
        assert home.current() == home.runs
        say(last_line(done))
        assert home.command("stop", run.name).code == 0
        wait(lambda: home.command("stop", run.name).code, "the run to end")
        shutil.rmtree(run)
    with table.attack("a run is resumed between a killed move and the next one") as say:
        target = folder / "between"
        (target / "runs").mkdir(parents=True)
        name = sorted(path.parent.name for path in home.runs.glob("*/run.toml"))[0]
        shutil.copytree(home.runs / name, target / "runs" / name, copy_function=os.link)  # what a killed move leaves
        (home.runs / name / "result.json").write_text("{}")
        changed = tree(home.runs)
        done = home.command("home", str(target))
        say(last_line(done))
        assert tree(home.current()) == changed, "a file was lost"
    records = (b"", b"[]", b'["/etc", "/etc"]', b"x" * (2 << 20), json.dumps([str(home.documents)] * 2).encode(), None)
    for number, record in enumerate(records):
        with table.attack(f"a damaged record of a move: {record[:20] if record else 'a pipe'!r}") as say:
            fresh_home = Home(folder / f"record{number}")
            target = folder / f"target{number}"
            assert fresh_home.command("home", str(target)).code == 0
            (target / ".moved-from.json").write_bytes(record) if record is not None else os.mkfifo(
                target / ".moved-from.json"
            )
            before = tree(Path("/etc/ssl")) if number == 2 else {}
            done = fresh_home.command("home", str(target))
            assert not done.clean, done.clean
            say(last_line(done))
            assert fresh_home.check() == target / "runs"
            assert not before or tree(Path("/etc/ssl")) == before


def tree_has(root: Path, name: str) -> bool:
    """Whether the file is there, and reached without links."""
    path = root / name
    return path.is_file() and path.resolve() == path


def links(table: Table, folder: Path, rng: random.Random) -> None:
    """One entry of the home is a link to documents, at every level: refused, or the link itself is moved."""
    for number in range(20):
        home = Home(folder / f"links{number}")
        paths = sorted(path for path in home.runs.rglob("*"))
        levels = {depth: [p for p in paths if len(p.relative_to(home.runs).parts) == depth] for depth in range(1, 4)}
        chosen = rng.choice(levels[number % 3 + 1])
        if number % 7 == 6:
            chosen = home.cache / ("models/tiny", "models", "models/tiny/weights")[number % 3]
        kind = "directory" if chosen.is_dir() else "file"
        with table.attack(f"a link in place of a {kind}: {chosen.relative_to(home.folder)}") as say:
            shutil.rmtree(chosen) if chosen.is_dir() else chosen.unlink()
            chosen.symlink_to(home.documents if kind == "directory" else home.documents / "step-2/letter")
            home.content = {k: v for k, v in home.content.items() if tree_has(home.runs, k)}
            done = home.command("home", str(folder / f"linked{number}"))
            assert not done.clean, f"{done.clean}: {done.err[-300:]}"
            assert tree(home.documents) == home.outside, "the documents were changed"
            say(last_line(done))
            files = tree(home.current())
            lost = [
                name
                for name, data in home.content.items()
                if not name.startswith(chosen.name) and files.get(name) != data
            ]
            assert not lost or chosen.parent == home.runs, f"lost: {lost[:2]}"


def disk(table: Table, folder: Path) -> None:
    """Targets too small for the home."""
    home = Home(folder / "full")
    for size in ("64k", "512k", "1m", "2m", "5m"):
        with table.attack(f"`home DIR` on a disk of {size}") as say:
            small = mounted(folder / f"small-{size}", size)
            try:
                say(home.refused(small / "home"))
            finally:
                unmount(small)
    for number in range(4):
        with table.attack(
            "the settings cannot be written: " + ("read-only", "a directory", "a pipe", "full")[number]
        ) as say:
            fresh_home = Home(folder / f"settings{number}")
            config = Path(fresh_home.env["XDG_CONFIG_HOME"])
            if number in (0, 3):
                mounted(config, "4k" if number == 3 else "1m", *(["ro"] if number == 0 else []))
                if number == 3:
                    (config / "filling").write_bytes(bytes(4096))
            else:
                (config / "ftbench").mkdir(parents=True)
                Path.mkdir(config / "ftbench/config.toml") if number == 1 else os.mkfifo(config / "ftbench/config.toml")
            try:
                done = fresh_home.command("home", str(folder / f"moved{number}"))
                assert done.code in (1, 2) and not done.clean, f"{done.clean or done.out}: {done.err[-300:]}"
                say(last_line(done))
                files = tree(fresh_home.runs)
                assert all(files.get(name) == data for name, data in fresh_home.content.items()), "lost"
            finally:
                if number in (0, 3):
                    unmount(config)


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


def main(parts: list[str], seed: int) -> int:
    table, rng = Table("homes"), random.Random(seed)
    parts = parts or ["kills", "targets", "links", "disk", "readonly"]
    with workplace() as folder:
        if "targets" in parts:
            targets(table, folder)
        if "links" in parts:
            links(table, folder, rng)
        if "disk" in parts:
            disk(table, folder)
        if "readonly" in parts:
            readonly(table, folder)
        if "kills" in parts:
            kills(table, folder, rng)
    return table.end()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="part")
    parser.add_argument("--seed", type=int, default=19)
    options = parser.parse_args()
    sys.exit(main(options.parts, options.seed))
