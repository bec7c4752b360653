"""Find a model's `config.json` on this machine, without loading or downloading anything."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import engine
from engine.config.catalog import CATALOG, pulled_folder
from engine.config.errors import UserError
from engine.config.model_limits import impossible_value
from engine.config.schema import Model

_INVALID = "config.json: "
EMBEDDED = "tiny"
"""The model that ships with ftbench."""


@dataclass(frozen=True)
class ModelFiles:
    """What is known about a model before it is loaded."""

    table: Mapping[str, Any] | None
    """The parsed config.json, or None; `why` gives the reason."""
    folder: Path | None = None
    """The model's folder; None where it has to be downloaded or converted first."""
    why: str = ""
    fetch: str = ""
    """The Hub id to download from; '' where nothing has to be downloaded."""
    wrong: str = ""
    """Why loading is certain to fail; '' where nothing is known to be wrong."""


def find_model(model: Model) -> ModelFiles:
    """Find a model in the order of `engine.methods.locate`: embedded, catalog, .gguf file, folder, Hub id."""
    if model.id == EMBEDDED:
        return _in_folder(Path(engine.__file__).parent / "assets" / "tiny")
    if model.id in CATALOG:
        folder, entry = pulled_folder(model.id), CATALOG[model.id]
        found = _in_folder(folder) if (folder / "config.json").exists() else _in_cache(entry.hub, model)
        return found if found.folder else replace(found, table=entry.shape, why="")
    path = Path(model.id)
    if path.suffix == ".gguf":
        if not path.is_file():
            return ModelFiles(None, wrong="file not found", why="file not found")
        return ModelFiles(None, path.parent, why="GGUF file: unknown until it is loaded")
    if path.is_dir():
        return _in_folder(path)
    if model.id.count("/") != 1 or model.id.startswith((".", "/", "~")):
        return ModelFiles(None, wrong="model folder not found", why="model not found")
    return _in_cache(model.id, model)


def hub_cache() -> Path:
    """The Hub cache, as huggingface_hub finds it: $HF_HUB_CACHE, $HF_HOME/hub, $XDG_CACHE_HOME or ~/.cache."""
    if given := os.environ.get("HF_HUB_CACHE"):
        return Path(given).expanduser()
    home = os.environ.get("HF_HOME")
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return (Path(home) if home else Path(cache) / "huggingface").expanduser() / "hub"


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE forbids requests to the Hub."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def _in_cache(hub: str, model: Model) -> ModelFiles:
    """`models--owner--name/refs/REVISION` contains the commit; its files are in `snapshots/COMMIT`."""
    folder = hub_cache() / f"models--{hub.replace('/', '--')}"
    revision = model.revision or "main"
    try:
        commit = (folder / "refs" / revision).read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError):
        commit = revision
    snapshot = folder / "snapshots" / commit
    if (snapshot / "config.json").exists():
        return _in_folder(snapshot)
    wrong = "not on this machine, and HF_HUB_OFFLINE forbids downloading it" if is_offline() else ""
    return ModelFiles(None, fetch=hub, why="not on this machine: known once it is downloaded", wrong=wrong)


def _in_folder(folder: Path) -> ModelFiles:
    try:
        table = json.loads((folder / "config.json").read_text("utf-8"))
    except FileNotFoundError:
        return ModelFiles(None, folder, "no config.json", wrong="no config.json in the model folder")
    except (OSError, ValueError, RecursionError) as error:
        return ModelFiles(None, folder, f"cannot read config.json ({error})", wrong="cannot read config.json")
    if not isinstance(table, dict):
        return ModelFiles(None, folder, "config.json is not an object", wrong="invalid config.json: not an object")
    if fault := impossible_value(table):
        return ModelFiles(None, folder, f"invalid config.json: {fault}", wrong=f"{_INVALID}{fault}")
    return ModelFiles(table, folder)


def check_model_config(model: Model) -> None:
    """Raise UserError for a model whose config.json is on this machine and describes an impossible model."""
    files = find_model(model)
    if files.wrong.startswith(_INVALID):
        raise impossible_model_error(files.wrong.removeprefix(_INVALID), str(files.folder))


def impossible_model_error(fault: str, where: str) -> UserError:
    """The error for a config.json that describes an impossible model."""
    return UserError(
        fault, f"{where}/config.json", "download the model again, or choose another one", code="model.config"
    )
