"""The identity of a run: a hash of everything that affects its numbers, by which a ladder finds runs to reuse."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from engine.config.automatic_optimizer import automatic_optimizer
from engine.config.errors import UserError
from engine.config.preset import flatten
from engine.config.renamed_keys import original_names
from engine.config.schema import Config
from engine.config.split_version import OLDEST_SPLIT_VERSION
from engine.hardware.devices import slots_of
from engine.runs.run_dir import RunDir, iterate, read_frozen

UNRELATED_KEYS = (
    "title",
    "about",
    "slot",
    "cost.price_per_hour",
    "cost.currency",
    "cost.max_other_load",
    "hardware.device",
    "model.enable_thinking",  # the fingerprint of the data includes the prompts
)
UNRELATED_SECTIONS = ("executor.", "track.")
LATER_DEFAULTS: dict[str, Any] = {
    "model.from_run": None,
    "train.compile": False,
    "train.devices": 1,
    "train.parallelism": "auto",
    "train.async_checkpoints": "auto",
    "optimizer.rounding": "remainder",
    "adapter.init": "default",
    "adapter.lora_plus_ratio": 1,
    "evaluation.base_shots": [],
    "evaluation.benchmarks": [],
}
"""Settings that earlier versions did not have: with these values their runs are found by the same hash."""
_IDENTITY = re.compile(rb'^(?:identity|work) = "([0-9a-f]{64})"$', re.MULTILINE)  # `work` in earlier versions


def identity(
    config: Config,
    fingerprints: dict[str, str],
    versions: dict[str, str],
    machine: dict[str, Any],
    split_version: int = OLDEST_SPLIT_VERSION,
) -> str:
    """SHA-256 of settings, data, split version, model, library versions and machine.

    The split version is left out if it is the first one, so that ladders from before it was recorded find their runs.
    """
    parts: list[Any] = [relevant_settings(config), fingerprints, versions]
    executor = config.executor
    if executor.name == "slurm":  # `machine` is the login node, whose runs must not be reused
        machine = {"device": f"slurm {executor.partition} {executor.gres} {executor.constraint}"}
    parts.append({key: machine.get(key) for key in ("device", "cpu", "threads", "cuda")})
    if (slots := slots_of(config.hardware.device)) > 1:
        parts.append({"slots": slots})  # runs at the same time share caches and memory bandwidth: other timings
    on_cpu = not executor.gres if executor.name == "slurm" else not machine.get("cuda")
    if config.optimizer.name == "auto" and on_cpu:  # 8-bit in earlier versions: other losses and times
        parts.append({"optimizer": automatic_optimizer("cpu")})
    if split_version != OLDEST_SPLIT_VERSION:
        parts.append({"split_version": split_version})
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def relevant_settings(config: Config) -> dict[str, Any]:
    """The settings that the hash contains, by their original names."""
    settings = original_names(flatten(config))
    for key, default in LATER_DEFAULTS.items():
        if settings[key] == default:
            del settings[key]
    if "evaluation.benchmarks" not in settings:
        del settings["evaluation.benchmark_limit"]
    related = (key for key in settings if key not in UNRELATED_KEYS and not key.startswith(UNRELATED_SECTIONS))
    return {key: settings[key] for key in related}


def runs_with_other_split(runs: Path, config: Config, split_version: int) -> list[tuple[RunDir, int]]:
    """Runs with the same settings whose rows were split by another version, with that version."""
    found = []
    for run in sorted(iterate(runs), key=lambda run: run.name):
        try:
            frozen = read_frozen(run)
        except UserError:
            continue  # damaged: cannot be compared
        if frozen.split_version != split_version and relevant_settings(frozen.config) == relevant_settings(config):
            found.append((run, frozen.split_version))
    return found


def index(runs: Path) -> dict[str, list[RunDir]]:
    """The runs in this folder that were started by a ladder, by identity, the oldest first."""
    found: dict[str, list[RunDir]] = {}
    for run in sorted(iterate(runs), key=lambda run: run.name):
        try:
            match = _IDENTITY.search(run.config_file.read_bytes())
        except OSError:
            continue  # deleted in the meantime
        if match:
            found.setdefault(match.group(1).decode(), []).append(run)
    return found
