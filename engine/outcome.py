"""What a result says beyond the scores: where the time went, which versions, which weights, which machine."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import torch

from engine import __version__
from engine.contract import schema
from engine.contract.events import Hello, Memory, Phase, Step
from engine.contract.follow import Follower
from engine.data.items import EvaluationItem
from engine.methods.locate import locate
from engine.methods.machine import Machine

LIBRARIES = ("torch", "transformers", "peft", "accelerate", "bitsandbytes", "datasets", "tokenizers", "safetensors")
SAMPLED = 1 << 20
"""Bytes hashed at each end of a weights file: whole files of an 8B model would take minutes."""


def phase_joules(events_file: Path) -> dict[str, float]:
    """Energy the card drew in each phase over all lives of the run, from its samples; {} where none was measured."""
    joules: dict[str, float] = {}
    name, last = "starting", 0.0
    for event in Follower(events_file).read():
        if isinstance(event, Hello):
            name, last = "starting", 0.0  # every life counts from its own beginning
        elif isinstance(event, Phase):
            name = event.name
        elif isinstance(event, Memory) and event.energy is not None:
            joules[name] = joules.get(name, 0.0) + max(0.0, event.energy - last)
            last = event.energy
    return {name: round(value, 3) for name, value in joules.items()}


def trained_tokens(events_file: Path) -> tuple[int, float]:
    """(tokens of all steps, seconds of all steps); a step done twice after a kill counts once."""
    steps = {event.step: event for event in Follower(events_file).read() if isinstance(event, Step)}
    tokens = sum(step.tokens for step in steps.values())
    seconds = sum(step.seconds for step in steps.values())
    return tokens, seconds


def versions() -> dict[str, str]:
    """Of Python, ftbench and the libraries that decide the numbers."""
    found = {"python": platform.python_version(), "ftbench": __version__}
    for library in LIBRARIES:
        try:
            found[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            found[library] = "absent"
    return found


def machine_facts(machine: Machine) -> dict[str, Any]:
    """Device, cores, memory and driver."""
    facts: dict[str, Any] = {
        "device": machine.name,
        "cpu": _cpu_name(),
        "threads": torch.get_num_threads(),
        "memory": psutil.virtual_memory().total,
        "system": platform.platform(),
    }
    if machine.device == "cuda":
        facts["card_memory"] = torch.cuda.get_device_properties(0).total_memory
        facts["cuda"] = torch.version.cuda
    return facts


def fingerprint(model: schema.Model, config: Any) -> str:
    """Of the weights: the Hub commit, or a hash over the folder's files (sizes, and both ends of each).

    `config` is the model's configuration as transformers read it.
    """
    commit = getattr(config, "_commit_hash", None)
    if commit:
        return f"commit {commit}"
    located = locate(model)
    digest = hashlib.sha256()
    for path in sorted(Path(located.source).glob("*")):
        if path.suffix in (".safetensors", ".json"):
            digest.update(f"{path.name} {path.stat().st_size}".encode())
            with path.open("rb") as file:
                digest.update(file.read(SAMPLED))
                file.seek(max(0, path.stat().st_size - SAMPLED))
                digest.update(file.read(SAMPLED))
    return f"sha256 {digest.hexdigest()}"


def items_fingerprint(items: Sequence[EvaluationItem]) -> str:
    """sha256 over the prompts and accepted answers of the test items, in order."""
    digest = hashlib.sha256()
    for item in items:
        digest.update(repr((item.row.prompt, item.target)).encode())
        if item.references[1:]:
            digest.update(repr(item.references[1:]).encode())
    return digest.hexdigest()


def folder_bytes(folder: Path, pattern: str = "*") -> int:
    """Bytes of the files that match, at any depth."""
    return sum(path.stat().st_size for path in folder.rglob(pattern) if path.is_file())


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor()
