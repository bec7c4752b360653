"""Gates on damaged evidence, a ladder of 201 runs, and Slurm jobs of runs with hostile names.

`python -m tools.attacks.run_results [PART …]`: `gates`, `many`, `slurm`; all by default.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent.parent / "tests"))

import forked
from made_ladder import made_ladder
from screen import Terminal
from slurm_sandbox import IS_INSTALLED, Sandbox

from engine.config.errors import UserError
from engine.config.schema import Executor
from engine.extensions.slurm.slurm import script
from engine.runs.run.run_dir import RunDir, write_result
from tools.attacks.run_common import Done, Table, last_line, workplace

Rows = list[dict[str, Any]]


def command(*words: str, runs: Path) -> Done:
    """As a fork of a process that has imported the libraries."""
    try:
        completed = forked.ftbench(*words, env={**os.environ, "FTBENCH_RUNS": str(runs)}, timeout=300)
    except subprocess.TimeoutExpired:
        return Done(124, "", "hangs")
    done = Done(completed.returncode, completed.stdout, completed.stderr)
    assert not done.clean, f"{words[0]}: {done.clean}: {(done.err or done.out)[-300:]}"
    return done


def with_score(value: Any, side: str = "tuned", every: int = 1) -> Callable[[Rows], Any]:
    """Replace the scores of every n-th item."""

    def change(rows: Rows) -> Rows:
        for row in rows[::every]:
            row[side]["scores"] = {"exact_match": value, "valid": 1.0}
        return rows

    return change


def each(**fields: Any) -> Callable[[Rows], Any]:
    return lambda rows: [{**row, **fields} for row in rows]


EVIDENCE: dict[str, Callable[[Rows], Any]] = {
    "NaN scores": with_score(float("nan")),
    "one NaN score": with_score(float("nan"), every=99),
    "infinite scores": with_score(float("inf")),
    "scores of 1e308": with_score(1e308),
    "scores of 7 of a share": with_score(7.0),
    "negative scores of the base": with_score(-5.0, "base"),
    "scores of text": with_score("1.0"),
    "scores of true": with_score(True),
    "scores that are null": with_score(None),
    "scores missing in half of the items": lambda rows: [
        {**row, "tuned": {**row["tuned"], "scores": row["tuned"]["scores"] if n % 2 else None}}
        for n, row in enumerate(rows)
    ],
    "no item": lambda rows: [],
    "one item": lambda rows: rows[:1],
    "two items": lambda rows: rows[:2],
    "half of the items": lambda rows: rows[: len(rows) // 2],
    "each item twice": lambda rows: rows * 2,
    "one item 40 times": lambda rows: rows[:1] * 40,
    "items of negative numbers": lambda rows: [{**row, "item": -row["item"]} for row in rows],
    "items of text": each(item="x"),
    "base answers missing": each(base=None),
    "tuned answers missing": each(tuned=None),
    "a list in place of a row": lambda rows: [[], *rows],
    "half a last line": lambda rows: b"\n".join(json.dumps(row).encode() for row in rows)[:-40],
    "text": lambda rows: b"hello\n",
    "binary": lambda rows: os.urandom(10_000),
    "nested": lambda rows: b"[" * 100_000,
    "a line of 64 MiB": lambda rows: b'{"item": 0, "x": "' + b"a" * (64 << 20) + b'"}\n',
    "removed": lambda rows: None,
}
RESULTS: dict[str, dict[str, Any]] = {
    "status failed": {"status": "failed"},
    "status stopped": {"status": "stopped"},
    "status of text": {"status": "x"},
    "metric unknown": {"metric": "no_such"},
    "metric of a number": {"metric": 7},
    "metric loss": {"metric": "loss"},
    "metric lower is better": {"metric": "wer"},
    "test count of 10^9": {"test": 10**9},
    "another format": {"format": 99},
}
LINES = (
    *(["--min-gain", value] for value in ("nan", "inf", "-inf", "1e400", "x", "", "101", "--json")),
    *(["--against", value] for value in ("RUN", "nosuch", "..", "/etc", "", "start", "OTHER", "LADDER")),
    *(["--metric", value] for value in ("nosuch", "loss", "", "valid", "../x")),
    *(["--rung", "lora"], ["--rung", ""]),
)
UNDEFINED = {f"--min-gain {value}" for value in ("nan", "inf", "101")} | {
    "--metric nosuch",
    "--metric ../x",
    "--rung lora",
}
UNDEFINED |= {f"--against {value}" for value in ("RUN", "nosuch", "..", "/etc", "start", "LADDER")}


def gates(table: Table, folder: Path) -> None:
    """No gate passes on evidence that is damaged, missing or of other items."""
    template = folder / "template"
    made_ladder(template, seeds=[0, 1], without=())
    answers = template.glob("*/predictions.jsonl")
    scored = [path.parent.name for path in answers if b'"base":null' not in path.read_bytes()]
    name, other = scored[0], max(path.parent.name for path in template.glob("*full*/run.toml"))
    ladder = min(path.parent.name for path in template.glob("*/ladder.toml"))
    with table.attack("gate: undamaged") as say:
        done = command("gate", name, runs=template)
        assert done.code == 0, last_line(done)
        say(last_line(done))
    for number, (damage, change) in enumerate(EVIDENCE.items()):
        with table.attack(f"gate: {damage}") as say:
            runs = folder / f"evidence{number}"
            shutil.copytree(template, runs)
            path = runs / name / "predictions.jsonl"
            changed = change([json.loads(line) for line in path.read_text().splitlines()])
            if changed is None:
                path.unlink()
            else:
                path.write_bytes(
                    changed
                    if isinstance(changed, bytes)
                    else "".join(json.dumps(row) + "\n" for row in changed).encode()
                )
            done = command("gate", name, runs=runs)
            say(last_line(done))
            harmless = damage.startswith(
                ("half", "scores of 7", "negative")
            )  # forged; no count is recorded in these runs
            assert done.code != 0 or harmless, f"passed: {done.out[-200:]}"
            shutil.rmtree(runs)
    for number, (damage, fields) in enumerate(RESULTS.items()):
        with table.attack(f"gate: {damage}") as say:
            runs = folder / f"result{number}"
            shutil.copytree(template, runs)
            run = RunDir(runs / name)
            result = run.result()
            assert result
            write_result(run, result)
            run.result_file.write_text(json.dumps(json.loads(run.result_file.read_text()) | fields))
            done = command("gate", name, runs=runs)
            say(last_line(done))
            assert done.code != 0 or damage in ("test count of 10^9", "another format", "metric loss"), (
                f"passed: {done.out[-200:]}"
            )
            shutil.rmtree(runs)
    for words in LINES:
        with table.attack(f"gate: {' '.join(words)}") as say:
            given = [{"RUN": name, "OTHER": other, "LADDER": ladder}.get(word, word) for word in words]
            done = command("gate", name, *given, runs=template)
            say(last_line(done))
            assert done.code != 0 or " ".join(words) not in UNDEFINED, "passed"


def many(table: Table, folder: Path) -> None:
    """A ladder of 201 runs: every subcommand within a minute and a GiB, also with 40 damaged runs."""
    runs = folder / "many"
    directory, _ = made_ladder(runs, seeds=range(67))
    names = sorted(path.parent.name for path in runs.glob("*/run.toml"))
    ladder = directory.name
    lines = (
        *(["runs"], ["runs", "--json"], ["report", ladder], ["attach", ladder], ["attach", names[0]], ["report"]),
        *(["gate", ladder, "--rung", "full"], ["gate", names[7]], ["queue"], ["stop", ladder], ["resume", names[5]]),
        *(["clean"], ["clean", "checkpoints", "exports", "--yes"], ["clean", "runs", "--run", names[3]]),
        ["clean", "temporary", "--yes"],
    )
    rng = random.Random(29)
    for state in ("whole", "damaged"):
        if state == "damaged":
            for name in rng.sample(names, 40):
                path = (
                    runs
                    / name
                    / rng.choice(("result.json", "events.jsonl", "run.toml", "predictions.jsonl", "engine.log"))
                )
                path.unlink(missing_ok=True)
                kind = rng.randrange(3)
                os.mkfifo(path) if kind == 0 else path.write_bytes(os.urandom(500)) if kind == 1 else path.mkdir()
        for words in lines:
            with table.attack(f"201 runs, {state}: {' '.join(words)[:60]}") as say:
                started = time.monotonic()
                done = command(*words, runs=runs)
                took = time.monotonic() - started
                say(f"{last_line(done)[:80]}; {took:.1f} s")
                assert took < 60, f"{took:.0f} s"
                assert words != ["runs"] or len([n for n in names if n in done.out]) == 201 or not sys.stdout, (
                    "runs missing"
                )
        with table.attack(f"201 runs, {state}: the bench") as say:
            started = time.monotonic()
            terminal = Terminal("--runs", str(runs), cwd=folder)
            terminal.wait("runs", 60)
            opened = time.monotonic() - started
            for key in ("r", "down", "down", "end", "home", "enter", "escape"):
                terminal.press(key)
                terminal.read(0.5)
            while terminal.process.poll() is None and time.monotonic() - started < 120:
                terminal.press("q")
                terminal.read(1.0)
            assert terminal.process.poll() is not None, "does not leave"
            say(f"open after {opened:.1f} s, {terminal.process.returncode}")
            assert "Traceback" not in terminal.text
    with table.attack("201 runs: `clean runs ladders` removes all") as say:
        done = command("clean", "runs", "ladders", "--older-than", "0", "--yes", runs=runs)
        left = [path.name for path in runs.iterdir()]
        say(f"{last_line(done)}; {len(left)} left")
    usage = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss >> 10
    with table.attack("memory of all commands") as say:
        say(f"{usage} MiB")


HOSTILE = [
    *("x --account=y", "x\t--account=y", "--account=y", "-J", "x;touch y", "x$(touch y)", "x`touch y`", "x'y", 'x"y'),
    *("x\n#SBATCH --account=y", "x\r--account=y", "%j%A%u", "x%%j", "x #SBATCH --account=y", "#", "!x", "*", "?", "~"),
    *("x\x0b--account=y", "x\x85--account=y", "x\u2028--account=y", "\u202ex", "x" * 200, " x", "x ", "-", "--", "x&y"),
    *("x>y", "x<y", "$HOME", "${HOME}", "%", "x,y", "x:y", "(x)", "[1-9]", "{a,b}", "x\x1b[2J", "\u00e9\u4e2d", "x\\"),
    *("x|y", "x=y"),
]  # fmt: skip


def slurm(table: Table, folder: Path) -> None:
    """A job has no option from the name of its run, and its files are in the run's folder."""
    place = folder / "slurm"
    place.mkdir()
    if not IS_INSTALLED:
        print("Slurm is not installed", flush=True)
        return
    sandbox = Sandbox(place)
    sandbox.up()
    try:
        for name in HOSTILE:
            submit(table, folder, name, sandbox.environment())
    finally:
        sandbox.down()


def submit(table: Table, folder: Path, name: str, environment: dict[str, str]) -> None:
    with table.attack(f"a run named {name[:40]!r}") as say:
        run = folder / "named" / name
        try:
            run.mkdir(parents=True)
            text = script(run, run / "engine.log", Executor(name="slurm", account="mine"))
        except UserError as error:
            say(error.code)
            return
        (run / "job.sbatch").write_text(text)
        done = subprocess.run(
            ["sbatch", "--parsable", "--hold", str(run / "job.sbatch")],
            env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        shown = subprocess.run(
            ["scontrol", "show", "job", done.stdout.strip()], env=environment, capture_output=True, check=True
        ).stdout.decode("utf-8", "surrogateescape")
        assert f"WorkDir={run}" in shown and "Account=mine" in shown, shown
        assert f"JobName={name}" in shown, shown
        say("held, its own options")
        subprocess.run(["scancel", done.stdout.strip()], env=environment, check=True)
    assert not list(folder.glob("**/y"))


PARTS = {"gates": gates, "many": many, "slurm": slurm}


def main(parts: list[str]) -> int:
    table = Table("results")
    with workplace() as folder:
        for name in parts or PARTS:
            (folder / name).mkdir()
            PARTS[name](table, folder / name)
    return table.end()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="part")
    sys.exit(main(parser.parse_args().parts))
