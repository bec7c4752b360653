"""When two runs are the same run: the fingerprint by which a ladder finds work that is done already."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from engine.config.errors import UserError
from engine.config.preset import flatten
from engine.config.renamed_keys import original_names
from engine.config.schema import Config
from engine.config.split_version import OLDEST
from engine.runs.run_dir import RunDir, iterate, read_frozen

SAYS_NOTHING = ("title", "about", "slot", "cost.price_per_hour", "cost.currency")
_WORK = re.compile(rb'^work = "([0-9a-f]{64})"$', re.MULTILINE)


def identity(
    config: Config,
    fingerprints: dict[str, str],
    versions: dict[str, str],
    machine: dict[str, Any],
    split_version: int = OLDEST,
) -> str:
    """sha256 over everything that decides a run's numbers: settings, data, split rule, model, libraries, machine.

    Under the oldest split rule the same as before there was a second one, so that its ladders find their runs.
    """
    whole: list[Any] = [_deciding(config), fingerprints, versions]
    whole.append({key: machine.get(key) for key in ("device", "cpu", "threads", "cuda")})
    if split_version != OLDEST:
        whole.append({"split_version": split_version})
    return hashlib.sha256(json.dumps(whole, sort_keys=True, default=str).encode()).hexdigest()


def _deciding(config: Config) -> dict[str, Any]:
    return {key: value for key, value in original_names(flatten(config)).items() if key not in SAYS_NOTHING}


def split_otherwise(runs: Path, config: Config, split_version: int) -> list[tuple[RunDir, int]]:
    """Runs of the same settings whose rows were divided by another rule, and that rule."""
    found = []
    for run in sorted(iterate(runs), key=lambda run: run.name):
        try:
            frozen = read_frozen(run)
        except UserError:
            continue  # damaged: listed as such, and no run to compare with
        if frozen.split_version != split_version and _deciding(frozen.config) == _deciding(config):
            found.append((run, frozen.split_version))
    return found


def index(runs: Path) -> dict[str, list[RunDir]]:
    """Every run that a ladder has started in this folder, by its fingerprint, the oldest first."""
    found: dict[str, list[RunDir]] = {}
    for run in sorted(iterate(runs), key=lambda run: run.name):
        try:
            match = _WORK.search(run.config_file.read_bytes())
        except OSError:
            continue  # deleted while we looked
        if match:
            found.setdefault(match.group(1).decode(), []).append(run)
    return found
