"""Find a model's `config.json` on this machine, without loading or downloading anything."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import engine
from engine.config.catalog import CATALOG, pulled_folder
from engine.config.errors import UserError
from engine.config.files import expanded, open_regular, read_small
from engine.config.model_limits import impossible_value
from engine.config.schema import Model

EMBEDDED = "tiny"
"""The model that ships with ftbench."""
EMBEDDED_LICENSE = "MIT"
IMPOSSIBLE = "model.config"
"""Code of the error for a config.json that describes an impossible model."""


MAX_FILE_BYTES = {".json": 128 << 20, ".txt": 128 << 20, ".model": 128 << 20, ".jinja": 1 << 20}
"""Size limit of a model's text files by suffix: the largest published tokenizer.json has 35 MB."""
MAX_CONFIG_BYTES = 16 << 20
"""Size limit of a file that has settings."""
SETTINGS = ("config.json", "generation_config.json", "adapter_config.json", "special_tokens_map.json")


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
    code: str = ""
    """Code of the error that loading would raise, where its config.json is the reason."""


@dataclass(frozen=True)
class ModelPlace:
    """Where a model is: the one resolution of `model.id`, for previews and for loading."""

    kind: Literal["folder", "gguf", "hub", "missing"]
    path: Path | None = None
    """The folder or .gguf file, which may not exist."""
    hub: str = ""
    """The Hub id."""


def model_place(model: Model) -> ModelPlace:
    """Resolve `model.id` in this order: embedded, catalog, .gguf file, folder, Hub id."""
    if model.id == EMBEDDED:
        return ModelPlace("folder", Path(engine.__file__).parent / "assets" / "tiny")
    if model.id in CATALOG:
        folder = pulled_folder(model.id)
        is_pulled = (folder / "config.json").exists()
        return ModelPlace("folder", folder) if is_pulled else ModelPlace("hub", hub=CATALOG[model.id].hub)
    path = Path(model.id)
    if path.suffix == ".gguf":
        return ModelPlace("gguf", path)
    if path.is_dir():
        return ModelPlace("folder", path)
    if model.id.count("/") != 1 or model.id.startswith((".", "/", "~")):
        return ModelPlace("missing")
    return ModelPlace("hub", hub=model.id)


def read_model_config(folder: Path) -> dict[str, Any]:
    """The parsed config.json of a model folder. Raises UserError where it is missing, damaged or impossible."""
    file, where = folder / "config.json", str(folder)
    damaged = "download the model again"
    try:
        table = json.loads(read_small(file, MAX_CONFIG_BYTES))
    except FileNotFoundError as error:
        do = "point model.id at a folder written by save_pretrained"
        raise UserError("no config.json in the model folder", where, do, code="model.no_config") from error
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"cannot read config.json ({reason})", where, damaged, code="model.config_damaged") from error
    if not isinstance(table, dict):
        raise UserError("invalid config.json: not an object", where, damaged, code="model.config_damaged")
    if fault := impossible_value(table):
        raise impossible_model_error(fault, where)
    return table


def check_model_files(folder: Path) -> None:
    """Raise UserError where a file of a model folder is a pipe, a device or too large: libraries read them whole.

    Files may be links, as in the cache of the Hub.
    """
    for path in sorted(folder.iterdir()):
        if path.suffix not in (*MAX_FILE_BYTES, ".safetensors"):
            continue
        limit = MAX_CONFIG_BYTES if path.name in SETTINGS else MAX_FILE_BYTES.get(path.suffix, sys.maxsize)
        try:
            open_regular(path, limit, follow=True).close()
        except OSError as error:
            what, do = f"cannot read {path.name}: {error.strerror}", "download the model again"
            raise UserError(what, str(folder), do, "model.file_unreadable") from error


def find_model(model: Model) -> ModelFiles:
    """What is known about a model at its place, without loading or downloading anything."""
    place = model_place(model)
    if place.kind == "missing":
        return ModelFiles(None, wrong="model folder not found", why="model not found")
    if place.kind == "gguf" and place.path:
        if not place.path.is_file():
            return ModelFiles(None, wrong="file not found", why="file not found")
        return ModelFiles(None, place.path.parent, why="GGUF file: unknown until it is loaded")
    found = _in_folder(place.path) if place.path else _in_cache(place.hub, model)
    if model.id in CATALOG and not found.folder:
        return replace(found, table=CATALOG[model.id].shape, why="")
    return found


def hub_cache() -> Path:
    """The Hub cache, as huggingface_hub finds it: $HF_HUB_CACHE, $HF_HOME/hub, $XDG_CACHE_HOME or ~/.cache."""
    if given := os.environ.get("HF_HUB_CACHE"):
        return expanded(given)
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
        commit = read_small(folder / "refs" / revision).decode().strip()
    except (OSError, UnicodeDecodeError):
        commit = revision
    snapshot = folder / "snapshots" / commit
    if (snapshot / "config.json").exists():
        return _in_folder(snapshot)
    wrong = "not on this machine, and HF_HUB_OFFLINE forbids downloading it" if is_offline() else ""
    return ModelFiles(None, fetch=hub, why="not on this machine: known once it is downloaded", wrong=wrong)


def _in_folder(folder: Path) -> ModelFiles:
    try:
        return ModelFiles(read_model_config(folder), folder)
    except UserError as error:
        return ModelFiles(None, folder, error.what, wrong=error.what, code=error.code)


def check_model_config(model: Model) -> None:
    """Raise UserError for a model whose config.json is on this machine and describes an impossible model."""
    files = find_model(model)
    if files.code == IMPOSSIBLE:
        raise impossible_model_error(files.wrong, str(files.folder))


def impossible_model_error(fault: str, where: str) -> UserError:
    """The error for a config.json that describes an impossible model."""
    return UserError(fault, f"{where}/config.json", "download the model again, or choose another one", code=IMPOSSIBLE)
