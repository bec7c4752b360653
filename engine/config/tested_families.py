"""The families of models that ftbench was tested with, by transformers' model type."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from engine.config.errors import UserError
from engine.config.method_specs import method_spec
from engine.config.model_limits import check_stored_weights

FILE = Path(__file__).with_name("families.jsonl")
"""Written by `tests/bench/families.py`: a line about versions, then one for each family."""


@cache
def family_rows() -> dict[str, dict[str, Any]]:
    """Family -> what the tests found."""
    lines = FILE.read_text("utf-8").splitlines()[1:]
    return {row["family"]: row for row in map(json.loads, lines)}


def tested_with() -> dict[str, Any]:
    """The versions of the libraries that the families were tested with, and the families that were not (`untested`)."""
    head: dict[str, Any] = json.loads(FILE.read_text("utf-8").splitlines()[0])
    return head


def family_of(model_config: Mapping[str, Any]) -> str:
    """transformers' model type of a parsed `config.json`."""
    return str(model_config.get("model_type") or "")


def untested_family(model_config: Mapping[str, Any]) -> str:
    """A warning for a model whose family was not tested or failed the tests; "" if it passed or its type is unknown."""
    family = family_of(model_config)
    rows = family_rows()
    # The text model of a multimodal family has the same layers.
    row = rows.get(family) or rows.get(family.removesuffix("_text"))
    if not family:
        return ""
    if row is None or "state" in row:
        what = f"models of type {family} have not been tested"
        return f"{what}: compare with a padded run, and check the export (docs/models.md)"
    failed = failures(row)
    return f"a tiny model of type {family} failed: {'; '.join(failed)} (docs/models.md)" if failed else ""


def check_method(model_config: Mapping[str, Any], model: str, method: str) -> None:
    """Raise UserError if a method cannot train a model with this `config.json`: because of the type in which weights
    are stored, or because a tiny model of its family failed with this method and this version of transformers.

    Another version may have repaired it: then a plan only warns.
    """
    family, tested = family_of(model_config), tested_with()["transformers"]
    found = family_rows().get(family, {}).get(method, {})
    if found.get("state") == "error" and version("transformers") == tested:
        problem = f"{method} does not work for models of type {family} with transformers {tested}: {found['error']}"
        row = family_rows()[family]
        others = [name for name, one in row.items() if isinstance(one, dict) and one.get("state") == "ok"]
        hint = f"use {' or '.join(others)}, or" if others else "use"
        raise UserError(problem, model, f"{hint} another version of transformers", code="model.family_fails")
    check_stored_weights(model_config, model, method_spec(method).quantizes_base)


def failures(row: Mapping[str, Any]) -> list[str]:
    """What of a tested family failed: methods, packing, resuming, the merged model."""
    checks = {name: check for name, check in row.items() if isinstance(check, dict)}
    texts = [f"{name}: {check['error']}" for name, check in checks.items() if check.get("error")]
    resumed = row.get("resume", {}).get("resume", "")
    return texts + (["resume: other losses"] if resumed not in ("", "equal to the bit") else [])
