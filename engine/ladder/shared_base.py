"""The base model's scores from another ladder of a sweep, so that a sweep scores it once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

from engine.config.errors import UserError
from engine.config.method_specs import method_spec
from engine.config.preset import flatten
from engine.config.schema import Config
from engine.runs.ladder import Ladder
from engine.runs.ladder_dir import LadderDir
from engine.runs.run_dir import RunDir
from engine.runs.rungs import BASE, BASE_4BIT, Rung

SHARED_FINGERPRINTS = ("test", "model", "general")
SHARED_MACHINE = ("device", "cpu", "threads", "cuda")


def add_shared_bases(ladder: Ladder, rungs: Iterable[Rung], others: Iterable[LadderDir]) -> None:
    """Fill in `base_runs` with runs of other ladders that scored the same base model on the same test rows."""
    needed = {base_key(rung.config, ladder): base_name(rung.config) for rung in rungs}
    for other in others:
        for key, run in _scored_bases(other).items():
            if key in needed:
                ladder.base_runs.setdefault(needed[key], run)


def base_name(config: Config) -> str:
    """The row of the base model as this configuration loads it."""
    return BASE_4BIT if method_spec(config.method).quantizes_base else BASE


def base_key(config: Config, ladder: Ladder) -> str:
    """SHA-256 of everything that affects the score of the base model."""
    flat = flatten(config)
    quantized = method_spec(config.method).quantizes_base
    sections = ("model.", "evaluation.", *(("quantization.",) if quantized else ()))
    settings = {key: value for key, value in flat.items() if key.startswith(sections) and key != "evaluation.when"}
    settings |= {"train.max_length": flat["train.max_length"], "quantized": quantized}
    work = ladder.work
    prints = {name: work.fingerprints.get(name, "") for name in SHARED_FINGERPRINTS} if work else {}
    machine = {name: ladder.machine.get(name) for name in SHARED_MACHINE}
    parts: list[Any] = [settings, prints, ladder.versions, machine]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def _scored_bases(folder: LadderDir) -> dict[str, str]:
    """Key -> run, for each base model that a finished run of this ladder scored; none in a damaged ladder."""
    try:
        ladder, rungs = folder.state(), {rung.name: rung for rung in folder.plan().rungs}
    except UserError:
        return {}
    found: dict[str, str] = {}
    for entry in ladder.entries if ladder else []:
        if ladder and entry.kind == "run" and entry.status == "finished" and entry.rung in rungs:
            try:
                result = RunDir(folder.runs / entry.run).result()
            except UserError:
                continue
            if result and result.before:
                found.setdefault(base_key(rungs[entry.rung].config, ladder), entry.run)
    return found
