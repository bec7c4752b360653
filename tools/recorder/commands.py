"""What commands print: their help, the settings, and the JSON of every `--json` on fixed inputs."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from command import MICRO, ON_SMALL
from forked import ftbench
from places import DOCS, ROOT
from subcommands import subcommands

from recorder.normal import normal, normal_text
from recorder.runs import succeed

SMALL_RUN = [*ON_SMALL, *MICRO, "--set", "train.micro_batch=4", "--set", "hardware.device=cpu"]
GPU = ("--gpu", "A100 80GB")
PLANS = {
    "demo": ("demo-lora", "--length", "96", *GPU),
    "8b": ("80gb-qlora", "--model", "llama-3.1-8b", "--length", "2048", "--micro-batch", "2", *GPU),
    "8b, quick": ("80gb-full", "--model", "llama-3.1-8b", "--length", "2048", "--micro-batch", "2", "--quick", *GPU),
}


def without_descriptions(schema: Any) -> Any:
    """A JSON Schema without its texts."""
    if isinstance(schema, dict):
        return {key: without_descriptions(value) for key, value in schema.items() if key != "description"}
    return [without_descriptions(value) for value in schema] if isinstance(schema, list) else schema


SHORTENED: dict[str, Callable[[Any], Any]] = {
    "presets show": lambda values: {
        key: value for key, value in values.items() if value["origin"] not in ("default", "schema")
    },
    "schema": without_descriptions,
}
"""Command -> what is recorded of its JSON: no defaults, which `settings` has, and no texts of docstrings."""


def commands(home: Path) -> Iterator[tuple[str, Any]]:
    """Help and settings, then every `--json` on a run and a ladder of the small model."""
    os.environ["COLUMNS"] = "100"
    yield "help", succeed("--help").splitlines()
    for name in subcommands():
        yield f"help/{name}", succeed(*name.split(), "--help").splitlines()
    pages = (DOCS / "configuration.md").read_text().splitlines()
    yield "settings", {row.split("|")[1].strip(" `"): row for row in pages if row.startswith("| `")}
    yield from json_of_commands(home)


def json_of_commands(home: Path) -> Iterator[tuple[str, Any]]:
    def printed(name: str, *words: str) -> tuple[str, Any]:
        done = ftbench(*words, "--json")
        value = json.loads(done.stdout) if done.stdout.strip() else None
        value = SHORTENED.get(" ".join(words[:-1]), lambda value: value)(value)
        errors = [normal_text(line, home) for line in done.stderr.splitlines()]
        return f"json/{name}", {"status": done.returncode, "stdout": normal(value, home), "stderr": errors}

    yield printed("run", "run", "demo", "--method", "lora", *SMALL_RUN)
    run = json.loads(succeed("runs", "--json"))[0]["name"]
    chosen = ("--seeds", "1", "--no-probe", "--rung", "qlora,lora", "--device", "cpu", *SMALL_RUN[:-2])
    yield printed("ladder", "ladder", "demo", *chosen)
    ladder = next(entry["name"] for entry in json.loads(succeed("runs", "--json")) if entry["kind"] == "ladder")
    yield printed("runs", "runs")
    yield printed("attach run", "attach", run)
    yield printed("attach ladder", "attach", ladder)
    yield printed("report", "report", ladder)
    yield printed("stop a finished run", "stop", run)
    yield printed("resume a finished run", "resume", run)
    yield printed("forecast", "ladder", "demo", "--dry-run", *chosen)
    yield printed("gate", "gate", run, "--min-gain", "-100")
    yield printed("gate of a ladder", "gate", ladder, "--rung", "lora", "--min-gain", "100")
    yield printed("export adapter", "export", run, "--to", "adapter", "--accept-loss")
    yield printed("export merged", "export", run, "--to", "merged", "--accept-loss")
    yield printed("try", "try", run, "--prompt", "my kettle broke", "--max-new-tokens", "6")
    yield printed("try items", "try", run, "--items", "2", "--max-new-tokens", "6")
    yield printed(
        "judge", "judge", ladder, "--judge", "tiny", "--answer-tokens", "8", "--items", "3", "--device", "cpu"
    )
    yield printed("track", "track", run, "--to", "tensorboard")
    for name, words in PLANS.items():
        yield printed(f"plan {name}", "plan", *words)
    yield printed("plan history", "plan", "--history")
    yield printed("presets list", "presets", "list")
    for preset in sorted(file.stem for file in (ROOT / "presets").glob("*.toml") if file.stem != "gpus"):
        yield printed(f"presets show {preset}", "presets", "show", preset)
    yield printed("presets new", "presets", "new", "mine", "--from", "demo-lora")
    yield printed("data check", "data", "check", "tickets")
    yield printed("data show", "data", "show", "tickets", "--rows", "2")
    yield printed("pull", "pull")
    yield printed("queue", "queue")
    yield printed("home", "home")
    yield printed("clean", "clean")
    yield printed("clean checkpoints", "clean", "checkpoints", "--yes")
    for name in ("events", "result", "ladder", "judgment", "ratings", "plan"):
        yield printed(f"schema {name}", "schema", name)
    yield printed("an unknown run", "attach", "nothing-like-it")
    yield printed("an unknown setting", "run", "demo", "--set", "train.bach=3")
