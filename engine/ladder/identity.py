"""When two runs are the same run: the fingerprint by which a ladder finds work that is done already."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from engine.contract.preset import flatten
from engine.contract.rundir import RunDir, iterate
from engine.contract.schema import Config

SAYS_NOTHING = ("title", "about", "slot", "cost.price_per_hour", "cost.currency")
_WORK = re.compile(rb'^work = "([0-9a-f]{64})"$', re.MULTILINE)


def identity(config: Config, fingerprints: dict[str, str], versions: dict[str, str], machine: dict[str, Any]) -> str:
    """sha256 over everything that decides a run's numbers: settings, data, model, libraries, machine."""
    settings = {key: value for key, value in flatten(config).items() if key not in SAYS_NOTHING}
    whole = [settings, fingerprints, versions, {key: machine.get(key) for key in ("device", "cpu", "threads", "cuda")}]
    return hashlib.sha256(json.dumps(whole, sort_keys=True, default=str).encode()).hexdigest()


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
