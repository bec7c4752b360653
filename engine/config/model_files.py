"""A model's `config.json` where it lies on this machine, found without loading or fetching anything."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import engine
from engine.config.catalog import CATALOGUE, pulled_folder
from engine.config.errors import UserError
from engine.config.model_limits import impossible
from engine.config.schema import Model

EMBEDDED = "tiny"
"""The model that comes along."""


@dataclass(frozen=True)
class ModelFiles:
    """What is known of a model before it is loaded."""

    table: Mapping[str, Any] | None
    """The parsed config.json; None where there is none to read, and `why` says so."""
    folder: Path | None = None
    """Where it lies; None where it has to be fetched or unpacked first."""
    why: str = ""
    fetch: str = ""
    """The Hub id it would be fetched from, '' where nothing is to be fetched."""
    wrong: str = ""
    """What will make loading fail for certain, '' where nothing is known to."""


def find_model(model: Model) -> ModelFiles:
    """By the rules of `engine.methods.locate`: embedded, catalogue, .gguf, folder, Hub id."""
    if model.id == EMBEDDED:
        return _in_folder(Path(engine.__file__).parent / "assets" / "tiny")
    if model.id in CATALOGUE:
        folder, entry = pulled_folder(model.id), CATALOGUE[model.id]
        found = _in_folder(folder) if (folder / "config.json").exists() else _in_cache(entry.hub, model)
        return found if found.folder else replace(found, table=entry.shape, why="")
    path = Path(model.id)
    if path.suffix == ".gguf":
        if not path.is_file():
            return ModelFiles(None, wrong="no such file", why="there is no such file")
        return ModelFiles(None, path.parent, why="a GGUF file: not known before it is loaded")
    if path.is_dir():
        return _in_folder(path)
    if model.id.count("/") != 1 or model.id.startswith((".", "/", "~")):
        return ModelFiles(None, wrong="no such model folder", why="there is no such model")
    return _in_cache(model.id, model)


def hub_cache() -> Path:
    """As huggingface_hub finds it: $HF_HUB_CACHE, $HF_HOME/hub, $XDG_CACHE_HOME or ~/.cache."""
    if given := os.environ.get("HF_HUB_CACHE"):
        return Path(given).expanduser()
    home = os.environ.get("HF_HOME")
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return (Path(home) if home else Path(cache) / "huggingface").expanduser() / "hub"


def is_offline() -> bool:
    """Whether the Hub is not to be asked."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def _in_cache(hub: str, model: Model) -> ModelFiles:
    """`models--owner--name/refs/REVISION` names the commit whose files lie in `snapshots/COMMIT`."""
    folder = hub_cache() / f"models--{hub.replace('/', '--')}"
    revision = model.revision or "main"
    try:
        commit = (folder / "refs" / revision).read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError):
        commit = revision
    snapshot = folder / "snapshots" / commit
    if (snapshot / "config.json").exists():
        return _in_folder(snapshot)
    wrong = "not on this machine, and HF_HUB_OFFLINE forbids fetching it" if is_offline() else ""
    return ModelFiles(None, fetch=hub, why="not on this machine: known once it is fetched", wrong=wrong)


def _in_folder(folder: Path) -> ModelFiles:
    try:
        table = json.loads((folder / "config.json").read_text("utf-8"))
    except FileNotFoundError:
        return ModelFiles(None, folder, "it has no config.json", wrong="no config.json in this model folder")
    except (OSError, ValueError, RecursionError) as error:
        return ModelFiles(None, folder, f"its config.json cannot be read: {error}", wrong="config.json cannot be read")
    if not isinstance(table, dict):
        return ModelFiles(None, folder, "its config.json is no table", wrong="config.json is no model configuration")
    if fault := impossible(table):
        return ModelFiles(None, folder, f"its config.json cannot be right: {fault}", wrong=f"config.json: {fault}")
    return ModelFiles(table, folder)


def refuse_impossible(model: Model) -> None:
    """Raise UserError for a model whose config.json is on this machine and cannot be right."""
    files = find_model(model)
    if files.wrong.startswith("config.json: "):
        raise impossible_model(files.wrong.removeprefix("config.json: "), str(files.folder))


def impossible_model(fault: str, where: str) -> UserError:
    """The refusal, worded alike wherever it is found out."""
    return UserError(fault, f"{where}/config.json", "download the model again, or choose another", code="model.config")
