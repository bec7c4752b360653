"""Damage run directories, checkpoints, results, logs, configurations and ladders, and print the commands' output.

`python -m tools.attacks.run_corruptions [PART …]`:
`result`, `events`, `config`, `checkpoint`, `ladder`, `folder`;
all by default. `PART:WORD` selects the attacks whose name contains the word.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
from pathlib import Path

from tools.attacks.damages import CHECKPOINT, CONFIG, EVENTS, FOLDER, HARMLESS, LADDER, RESULT, Damage
from tools.attacks.run_common import (
    Done,
    Table,
    ended,
    ftbench,
    kill,
    last_line,
    lines,
    losses,
    start,
    wait,
    workplace,
)

READ_COMMANDS = (["runs"], ["runs", "--json"], ["attach", "RUN"])
"""Commands that change nothing."""


def copy(template: Path, folder: Path) -> Path:
    """A copy of a run with the same name."""
    folder.mkdir(parents=True)
    run = folder / template.name
    shutil.copytree(template, run, symlinks=True)
    return run


def look(run: Path, runs: Path) -> list[Done]:
    """Run the commands that change nothing; each must end cleanly."""
    results = []
    for arguments in READ_COMMANDS:
        done = ftbench(*[run.name if word == "RUN" else word for word in arguments], runs=runs)
        assert not done.clean, f"{arguments[0]}: {done.clean}: {done.err[-300:]}"
        results.append(done)
    return results


def finished(table: Table, folder: Path, part: str, damages: dict[str, Damage], template: Path) -> None:
    """Damage a finished run, run the commands, then resume, which repairs or refuses."""
    for number, (name, damage) in enumerate(damages.items()):
        with table.attack(f"{part}: {name}") as say:
            run = copy(template, folder / f"{part}{number}")
            damage(run)
            look(run, run.parent)
            done = ftbench("resume", run.name, runs=run.parent)
            assert not done.clean, f"resume: {done.clean}: {(done.err or done.out)[-300:]}"
            say(f"resume: {last_line(done)}")


def killed(
    table: Table, folder: Path, part: str, damages: dict[str, Damage], template: Path, expected: dict[int, list[float]]
) -> None:
    """Damage a killed run, run the commands, then resume: it finishes with the same losses, or is refused."""
    for number, (name, damage) in enumerate(damages.items()):
        with table.attack(f"{part}: {name}") as say:
            run = copy(template, folder / f"{part}{number}")
            damage(run)
            look(run, run.parent)
            done = ftbench("resume", run.name, runs=run.parent)
            assert not done.clean, f"resume: {done.clean}: {(done.err or done.out)[-300:]}"
            warned = [event["text"] for event in lines(run) if event.get("type") == "warning"]
            say(f"resume: {last_line(done)}{f' ({warned[-1][:100]})' if warned else ''}")
            if done.code == 0:
                by_step = losses(run)
                assert by_step.get(6, [None])[-1] == expected[6][-1], "the last loss differs"
                wait(lambda: ended(run), "the worker to end")  # noqa: B023
            else:
                assert name not in HARMLESS


def ladders(table: Table, folder: Path, template: Path) -> None:
    for number, (name, damage) in enumerate(LADDER.items()):
        with table.attack(f"ladder: {name}") as say:
            runs = folder / f"ladder{number}"
            shutil.copytree(template.parent, runs, symlinks=True)
            ladder = runs / template.name
            damage(ladder)
            for arguments in (["runs"], ["attach", ladder.name], ["report", ladder.name], ["resume", ladder.name]):
                done = ftbench(*arguments, runs=runs)
                assert not done.clean, f"{arguments[0]}: {done.clean}: {(done.err or done.out)[-300:]}"
            say(f"resume: {last_line(done)}")


def chosen(damages: dict[str, Damage], word: str) -> dict[str, Damage]:
    return {name: damage for name, damage in damages.items() if word in name}


def main(words: list[str]) -> int:
    table = Table("corruptions")
    parts = dict(word.partition(":")[::2] for word in words)
    parts = parts or dict.fromkeys(["result", "events", "config", "checkpoint", "folder", "ladder"], "")
    with workplace() as folder:
        complete = start(folder / "template")
        wait(lambda: (complete / "result.json").exists() and ended(complete), "the run")
        expected = losses(complete)
        cut = start(folder / "template", "--set", "train.keep_checkpoints=3")
        wait(lambda: any(event["type"] == "checkpoint" and event["step"] == 4 for event in lines(cut)), "a checkpoint")
        kill(cut, signal.SIGKILL)
        shutil.rmtree(cut / "checkpoints" / "step-6", ignore_errors=True)
        for name, damages in (("result", RESULT), ("events", EVENTS), ("folder", FOLDER)):
            if name in parts:
                finished(table, folder, f"{name} of a finished run", chosen(damages, parts[name]), complete)
        for name, damages in (("events", EVENTS), ("config", CONFIG), ("checkpoint", CHECKPOINT), ("folder", FOLDER)):
            if name in parts:
                killed(table, folder, f"{name} of a killed run", chosen(damages, parts[name]), cut, expected)
        if "ladder" in parts:
            settings = ("train.steps=2", "train.batch=2", "evaluation.rows=2", "evaluation.max_new_tokens=2")
            words = [word for value in settings for word in ("--set", value)]
            done = ftbench("ladder", "demo", "--rung", "lora", "--no-probe", *words, "--json", runs=folder / "ladder")
            assert done.code == 0, done.err
            ladders(table, folder, next(path.parent for path in (folder / "ladder").glob("*/ladder.toml")))
    return table.end()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="part")
    sys.exit(main(parser.parse_args().parts))
