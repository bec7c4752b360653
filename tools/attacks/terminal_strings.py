"""Hostile strings as arguments of every subcommand, and in every text that subcommands and screens show."""

from __future__ import annotations

import json
import os
import random
import tempfile
from pathlib import Path

from screen import Terminal
from subcommands import subcommands

from engine.config import preset_library
from engine.runs.run import events, run_dir
from engine.runs.run.event_log import EventLog
from tools.attacks.terminal_report import (
    Report,
    draw_strings,
    isolated_environment,
    modes_left_on,
    raw_output,
    wait_for_end,
    walk,
)

STRINGS_PER_ARGUMENT = 8
"""A process for each string would take an hour."""
LINES: dict[str, list[list[str]]] = {
    "demo": [["--seeds", "S"]],
    "ladder": [["S"], ["demo", "--rung", "S"]],
    "report": [["S"]],
    "run": [["S"], ["demo-lora", "--set", "train.steps=S"]],
    "attach": [["S"]],
    "stop": [["S"]],
    "resume": [["S"]],
    "runs": [["--runs", "S"]],
    "plan": [["demo-lora", "--quick", "--model", "./S"]],
    "pull": [["S"]],
    "schema": [["S"]],
    "queue": [["S"]],
    "monitor": [["S"]],
    "clean": [["S"], ["runs", "--run", "S"]],
    "track": [["S"]],
    "export": [["S"], ["--to", "S"]],
    "gate": [["S"], ["--against", "S"]],
    "try": [["S", "--prompt", "x"], ["none", "--prompt", "S"]],
    "home": [["/dev/null/S"]],
    "doctor": [["--runs", "S"], ["--train", "--device", "S"]],
    "data check": [["tickets", "--preset", "S"]],
    "data show": [["tickets", "--set", "S=1"]],
    "presets list": [["--S"]],
    "presets show": [["S"]],
    "presets new": [["S"]],
    "presets import": [["S"]],
}
"""Command lines for each subcommand; S is replaced with the strings."""


def attack_with_strings(report: Report, rng: random.Random) -> None:
    given = draw_strings(rng)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        env = isolated_environment(folder)
        missing = [name for name in subcommands() if name not in LINES]
        report.add("strings", "every subcommand has a command line", f"{missing} not listed" if missing else "")
        for name, lines in LINES.items():
            for number in range(0, len(given), STRINGS_PER_ARGUMENT):
                some = [text.replace("\0", "") for text in given[number : number + STRINGS_PER_ARGUMENT]]
                line = lines[number // STRINGS_PER_ARGUMENT % len(lines)]
                terminal = Terminal(
                    *name.split(), *(word.replace("S", " ".join(some), 1) for word in line), cwd=folder, env=env
                )
                wrong = wait_for_end(terminal)
                wrong = wrong or raw_output(terminal, some) or modes_left_on(terminal)
                for text in some:
                    report.add("strings as arguments", f"{name} {text!r}", wrong)
        fill(folder, env, given)
        for arguments in SHOWING:
            words = [word.format(data=folder / "data", file=folder / "data" / "train.jsonl") for word in arguments]
            terminal = Terminal(*words, cwd=folder, env=env)
            wrong = wait_for_end(terminal, 300.0) or raw_output(terminal, given) or modes_left_on(terminal)
            report.add("strings in data, presets, events, logs", " ".join(arguments), wrong)
        for size in ((160, 50), (80, 24)):
            for keys in KEYS:
                terminal = Terminal(cwd=folder, env=env, size=size)
                wrong = walk(terminal, keys, given)
                report.add("strings on screens", f"{'x'.join(map(str, size))} {' '.join(keys)}", wrong)


SHOWING = [
    ["data", "check", "{file}"],
    ["data", "show", "{file}", "--rows", "64"],
    ["presets", "list"],
    ["presets", "show", "k0"],
    ["presets", "show", "k1"],
    ["runs"],
    ["attach", "last"],
    ["attach", "last", "--json"],
    ["stop", "last"],
    ["doctor"],
    ["plan", "demo-lora", "--data", "{file}"],
    ["run", "demo-lora", "--data", "{file}", "--set", "train.steps=2", "--set", "evaluation.rows=8", "--set",
     "evaluation.max_new_tokens=4", "--set", "evaluation.forgetting_text=none"],
]  # fmt: skip
KEYS = [
    ["1", "2", "3", "4", "5", "6", "7", "8", "9", "c", "escape"],
    ["r", "down", "down", "enter", "wait", "o", "wait", "end", "home", "f", "K", "enter", "n", "N"],
    ["r", "/", "K", "enter", "space", "down", "space", "c", "wait", "escape", "x", "n", "escape"],
    ["P", *["down"] * 12, "c", "escape", "d", "escape", "escape"],
    ["d", *["down"] * 4, "enter", "wait", "wait", "wait", "wait", "n", "s", "v", "b", "escape", "escape"],
    ["d", "a", "wait", "K", "escape", "escape"],
    ["ctrl+p", "K", "wait", "escape"],
    ["enter", "wait", "wait", "wait", "escape", "M", "escape"],
    ["L", "wait", "escape", "?", "escape", "l"],
]
"""Keys that open every screen."""


def fill(folder: Path, env: dict[str, str], given: list[str]) -> None:
    """Write every string into rows, file names, presets, settings, events and logs."""
    os.environ |= env
    data = folder / "data"
    data.mkdir()
    rows = [json.dumps({"prompt": f"{text} ask", "completion": f"say {text}"}) + "\n" for text in given]
    (data / "train.jsonl").write_text("".join(rows))
    for number, text in enumerate(given[:40]):
        name = text.replace("/", "").replace("\0", "")[:60]
        (folder / f"{name}.jsonl").write_text("".join(rows[number : number + 8]))
    presets = preset_library.user_folder()
    presets.mkdir(parents=True)
    for number, text in enumerate(given):
        quoted = '"' + "".join(f"\\U{ord(character):08x}" for character in text) + '"'
        broken = f"{quoted} = 1\n" if number % 4 == 1 else ""
        slot = f"slot = {number + 1}\n" if number < 9 else ""
        (presets / f"k{number}.toml").write_text(f"title = {quoted}\nabout = {quoted}\n{slot}{broken}")
    run = run_dir.create(folder / "ftbench_runs", "demo-lora", preset_library.resolve_preset("demo-lora", None, {}))
    log = EventLog(run.events_file)
    for text in given:
        log.write(events.Phase(name="waiting", note=text))
        log.write(events.Phase(name=text))
        log.write(events.Warning(code="x", text=text))
    log.write(events.End(status="failed", reason=given[0]))
    run.log_file.write_text("\n".join(given))
    renamed = run.path.with_name(f"20200101-000000-{given[1].replace('/', '')[:60]}-0a0b")
    run_dir.create(
        folder / "ftbench_runs", "demo-lora", preset_library.resolve_preset("demo-lora", None, {})
    ).path.rename(renamed)
    run.path.rename(run.path.with_name("20990101-000000-last-lora-0a0b"))
