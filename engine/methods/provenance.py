"""Provenance of a result: library versions, machine, and fingerprints of weights and test items."""

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
from engine.config import schema
from engine.data.items import EvaluationItem
from engine.methods.machine import Machine
from engine.methods.model_source import locate

LIBRARIES = ("torch", "transformers", "peft", "accelerate", "bitsandbytes", "datasets", "tokenizers", "safetensors")
HASHED_BYTES = 1 << 20
"""Hashed at each end of a weights file: hashing an 8B model completely takes minutes."""


def versions() -> dict[str, str]:
    """Versions of Python, ftbench and the libraries that affect results."""
    installed = {"python": platform.python_version(), "ftbench": __version__}
    for library in LIBRARIES:
        try:
            installed[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            installed[library] = "absent"
    return installed


def machine_facts(machine: Machine) -> dict[str, Any]:
    """Device, CPU, threads, memory, operating system and CUDA version."""
    facts: dict[str, Any] = {
        "device": machine.name,
        "cpu": _cpu_name(),
        "threads": torch.get_num_threads(),
        "memory": psutil.virtual_memory().total,
        "system": platform.platform(),
    }
    if machine.device == "cuda":
        facts["gpu_memory"] = torch.cuda.get_device_properties(0).total_memory
        facts["cuda"] = torch.version.cuda
    return facts


def fingerprint(model: schema.Model, config: Any) -> str:
    """Fingerprint of the weights: the Hub commit, or a hash over the folder's files (size and both ends of each).

    `config`: the model's transformers configuration.
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
                digest.update(file.read(HASHED_BYTES))
                file.seek(max(0, path.stat().st_size - HASHED_BYTES))
                digest.update(file.read(HASHED_BYTES))
    return f"sha256 {digest.hexdigest()}"


def items_fingerprint(items: Sequence[EvaluationItem]) -> str:
    """SHA-256 over the prompts and accepted answers of the test items, in order."""
    digest = hashlib.sha256()
    for item in items:
        digest.update(repr((item.row.prompt, item.target)).encode())
        if item.references[1:]:
            digest.update(repr(item.references[1:]).encode())
    return digest.hexdigest()


def folder_bytes(folder: Path, pattern: str = "*") -> int:
    """Total size in bytes of the matching files, at any depth."""
    return sum(path.stat().st_size for path in folder.rglob(pattern) if path.is_file())


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor()
