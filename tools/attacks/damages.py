"""Damage to the files of a run or ladder: what each attack of `run_corruptions` does to its directory."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

Damage = Callable[[Path], object]


def overwrite(name: str, content: bytes) -> Damage:
    def write(run: Path) -> None:
        if (run / name).is_dir():
            shutil.rmtree(run / name)
        (run / name).write_bytes(content)

    return write


def truncate(name: str, share: float) -> Damage:
    def cut(run: Path) -> None:
        path = run / name
        os.truncate(path, int(path.stat().st_size * share))

    return cut


def flip(name: str, bits: int, seed: int) -> Damage:
    def change(run: Path) -> None:
        path, chance = run / name, random.Random(seed)
        content = bytearray(path.read_bytes())
        for _ in range(bits):
            content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        path.write_bytes(content)

    return change


def replace(name: str, before: str, after: str) -> Damage:
    def change(run: Path) -> None:
        text = (run / name).read_text()
        assert before in text, f"{before!r} is not in {name}"
        (run / name).write_text(text.replace(before, after))

    return change


def append(name: str, content: bytes) -> Damage:
    def add(run: Path) -> None:
        with (run / name).open("ab") as file:
            file.write(content)

    return add


def remove(name: str) -> Damage:
    def delete(run: Path) -> None:
        path = run / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()

    return delete


def link_away(name: str) -> Damage:
    def move(run: Path) -> None:
        away = run.parent.parent / f"away-{run.name}-{Path(name).name}"
        shutil.move(run / name, away)
        (run / name).symlink_to(away)

    return move


def as_pipe(name: str) -> Damage:
    def make(run: Path) -> None:
        (run / name).unlink(missing_ok=True)
        os.mkfifo(run / name)

    return make


def as_folder(name: str) -> Damage:
    def make(run: Path) -> None:
        (run / name).unlink(missing_ok=True)
        (run / name).mkdir()

    return make


DEEP = b"[" * 200_000
RESULT: dict[str, Damage] = {
    "empty": overwrite("result.json", b""),
    "half": truncate("result.json", 0.5),
    "zeros": overwrite("result.json", b"\0" * 4096),
    "deeply nested": overwrite("result.json", DEEP),
    "a list": overwrite("result.json", b"[]"),
    "not UTF-8": overwrite("result.json", b'{"status": "\xff"}'),
    "an unknown status": replace("result.json", '"finished"', '"splendid"'),
    "a number as text": replace("result.json", '"steps": 6', '"steps": "six"'),
    "a directory": as_folder("result.json"),
    "a link to itself": lambda run: (
        (run / "result.json").unlink(),
        (run / "result.json").symlink_to(run / "result.json"),
    ),
}
EVENTS: dict[str, Damage] = {
    "deleted": remove("events.jsonl"),
    "emptied": overwrite("events.jsonl", b""),
    "half": truncate("events.jsonl", 0.5),
    "torn last line": truncate("events.jsonl", 0.97),
    "zeros at the end": append("events.jsonl", b"\0" * 4096),
    "200 bits flipped": flip("events.jsonl", 200, 1),
    "a deeply nested line": append("events.jsonl", DEEP + b"\n"),
    "a line of 100 MB": append("events.jsonl", b'{"type":"sample","x":"' + b"x" * 100_000_000 + b'"}\n'),
    "a number of 10,000 digits": append("events.jsonl", b'{"type":"step","step":' + b"9" * 10_000 + b"}\n"),
    "Windows line ends": lambda run: (run / "events.jsonl").write_bytes(
        (run / "events.jsonl").read_bytes().replace(b"\n", b"\r\n")
    ),
    "another run's hello at the end": append(
        "events.jsonl", b'{"type":"hello","pid":1,"host":"h","version":"9","resumed":true,"v":9,"seq":1,"t":1.0}\n'
    ),
    "a directory": as_folder("events.jsonl"),
}
CONFIG: dict[str, Damage] = {
    "empty": overwrite("run.toml", b""),
    "half": truncate("run.toml", 0.5),
    "deleted": remove("run.toml"),
    "another batch": replace("run.toml", "batch = 4\n", "batch = 8\n"),
    "another rank": replace("run.toml", "rank = 2\n", "rank = 4\n"),
    "fewer steps": replace("run.toml", "steps = 6\n", "steps = 2\n"),
    "another seed": replace("run.toml", "[train]\n", "[train]\nseed = 7\n"),
    "an unknown key": replace("run.toml", "[train]\n", "[train]\nbach = 7\n"),
    "a year 0": replace("run.toml", "[run]\n", "[run]\ncreated = 0000-00-00\n"),
    "deeply nested": append("run.toml", b"\nx = " + b"[" * 5000),
    "no origins": lambda run: (run / "run.toml").write_text((run / "run.toml").read_text().split("[origins]")[0]),
    "comments only": append("run.toml", b"\n# a comment\n"),
}
HARMLESS = {"comments only"}
LATEST = "checkpoints/step-4"
CHECKPOINT: dict[str, Damage] = {
    "manifest deeply nested": overwrite(f"{LATEST}/manifest.json", DEEP),
    "manifest without files": overwrite(f"{LATEST}/manifest.json", b'{"step": 4, "files": {}}'),
    "manifest gone": remove(f"{LATEST}/manifest.json"),
    "weights cut": truncate(f"{LATEST}/adapter_model.safetensors", 0.7),
    "optimizer: 3 bits": flip(f"{LATEST}/optimizer.pt", 3, 2),
    "optimizer gone": remove(f"{LATEST}/optimizer.pt"),
    "optimizer is a pipe": as_pipe(f"{LATEST}/optimizer.pt"),
    "latest is a link": link_away(LATEST),
    "latest renamed to step-6": lambda run: (run / LATEST).rename(run / "checkpoints/step-6"),
    "an additional step-²": lambda run: shutil.copytree(run / LATEST, run / "checkpoints/step-²"),
    "a file named step-9": overwrite("checkpoints/step-9", b""),
    "an unfinished step-6": lambda run: shutil.copytree(run / LATEST, run / "checkpoints/.writing-6"),
    "all gone": remove("checkpoints"),
    "checkpoints is a file": lambda run: (shutil.rmtree(run / "checkpoints"), (run / "checkpoints").write_text("")),
}
FOLDER: dict[str, Damage] = {
    "predictions half": truncate("predictions.jsonl", 0.5),
    "predictions deeply nested": overwrite("predictions.jsonl", DEEP + b"\n"),
    "predictions of numbers": overwrite("predictions.jsonl", b"1\n2\n3\n4\n"),
    "the lock is a link": lambda run: ((run / "engine.lock").unlink(), (run / "engine.lock").symlink_to("/etc/passwd")),
    "the lock is a directory": as_folder("engine.lock"),
    "the log is a directory": as_folder("engine.log"),
    "model is a file": overwrite("model", b""),
    "end.json with garbage": overwrite("end.json", b'{"status": 7' + DEEP),
}
LADDER: dict[str, Damage] = {
    "ladder.json empty": overwrite("ladder.json", b""),
    "ladder.json half": truncate("ladder.json", 0.5),
    "ladder.json deeply nested": overwrite("ladder.json", DEEP),
    "ladder.json with 30 bits flipped": flip("ladder.json", 30, 4),
    "ladder.json deleted": remove("ladder.json"),
    "ladder.json without entries": overwrite("ladder.json", b'{"name": "x", "preset": "demo", "created": 1}'),
    "ladder.toml half": truncate("ladder.toml", 0.5),
    "ladder.toml empty": overwrite("ladder.toml", b""),
    "ladder.toml deeply nested": overwrite("ladder.toml", b"x = " + b"[" * 5000),
    "a run of it deleted": lambda ladder: shutil.rmtree(
        ladder.parent / next(entry["run"] for entry in json.loads((ladder / "ladder.json").read_text())["entries"])
    ),
}
