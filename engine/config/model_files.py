"""Files of models on this machine: which configuration can be trained, and the list of models to choose from."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import msgspec

import engine
from engine.config.catalog import CATALOG, pulled_folder
from engine.config.errors import UserError, reason_of, system_hint
from engine.config.files import MAX_SETTINGS_BYTES, expanded, open_regular, read_small
from engine.config.home import HUB_CACHE_VARIABLES, hub_home
from engine.config.model_limits import impossible_value
from engine.config.schema import Model
from engine.config.text import escaped

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
OBJECTS = (*SETTINGS, "tokenizer.json", "tokenizer_config.json", "added_tokens.json", "vocab.json")
"""JSON objects that libraries read."""
WEIGHTS, WEIGHTS_INDEX = "model.safetensors", "model.safetensors.index.json"


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
    file, location = folder / "config.json", str(folder)
    damaged = "download the model again"
    try:
        table = json.loads(read_small(file, MAX_CONFIG_BYTES))
    except FileNotFoundError as error:
        hint = "point model.id at a folder written by save_pretrained"
        raise UserError("no config.json in the model folder", location, hint, code="model.no_config") from error
    except (OSError, ValueError, RecursionError) as error:
        problem = f"cannot read config.json ({reason_of(error)})"
        raise UserError(problem, location, damaged, code="model.config_damaged") from error
    if not isinstance(table, dict):
        raise UserError("invalid config.json: not an object", location, damaged, code="model.config_damaged")
    if fault := impossible_value(table):
        raise impossible_model_error(fault, location)
    return table


def check_model_files(folder: Path) -> None:
    """Raise UserError where a file of a model folder is a pipe, a device or too large, where its settings are no JSON
    objects, and where its index names files that are not in the folder: libraries read them whole, and believe them.

    Files may be links, as in the cache of the Hub.
    """
    hint = "download the model again"
    for path in sorted(folder.iterdir()):
        if path.suffix not in (*MAX_FILE_BYTES, ".safetensors"):
            continue
        limit = MAX_CONFIG_BYTES if path.name in SETTINGS else MAX_FILE_BYTES.get(path.suffix, sys.maxsize)
        try:
            if path.name in OBJECTS:
                _check_object(read_small(path, limit))
            elif path.name == WEIGHTS_INDEX:
                _check_index(path, limit)
            else:
                open_regular(path, limit, follow=True).close()
        except OSError as error:
            problem = f"cannot read {path.name}: {error.strerror}"
            raise UserError(problem, str(folder), system_hint(error) or hint, "model.file_unreadable") from error
        except (ValueError, RecursionError) as error:
            raise UserError(
                f"damaged {path.name}: {reason_of(error)}", str(folder), hint, "model.file_damaged"
            ) from error


def _check_object(content: bytes) -> None:
    """Raise ValueError for what is no JSON object. Settings may have infinite numbers, which only Python's JSON has."""
    if len(content) > MAX_SETTINGS_BYTES:
        msgspec.json.decode(content, type=dict[str, msgspec.Raw])
    elif not isinstance(json.loads(content), dict):
        raise ValueError("not an object")


class _Index(msgspec.Struct):
    weight_map: dict[str, str]
    metadata: dict[str, msgspec.Raw] | None = None


def _check_index(path: Path, limit: int) -> None:
    """Raise ValueError for an index of weights without the entries that libraries read, or with files elsewhere."""
    index = msgspec.json.decode(read_small(path, limit), type=_Index)
    is_used = not (path.parent / WEIGHTS).exists()
    if is_used and index.metadata is None:
        raise ValueError("it has no metadata")
    for name in set(index.weight_map.values()):
        if Path(name).name != name:
            raise ValueError(f"it names a file outside of the folder, {name[:80]}")
        if is_used and not (path.parent / name).exists():
            raise ValueError(f"{name[:80]} is missing")


def find_model(model: Model) -> ModelFiles:
    """What is known about a model at its place, without loading or downloading anything."""
    place = model_place(model)
    if place.kind == "missing":
        return ModelFiles(None, wrong="model folder not found", why="model not found")
    if place.kind == "gguf" and place.path:
        if not place.path.is_file():
            return ModelFiles(None, wrong="file not found", why="file not found")
        return ModelFiles(None, place.path.parent, why="GGUF file: unknown until it is loaded")
    if place.path:
        files = _in_folder(place.path)
    else:  # `models--owner--name/refs/REVISION` contains the commit; its files are in `snapshots/COMMIT`
        folder = hub_cache() / f"models--{place.hub.replace('/', '--')}"
        revision = model.revision or "main"
        try:
            commit = read_small(folder / "refs" / revision).decode().strip()
        except (OSError, UnicodeDecodeError):
            commit = revision
        snapshot = folder / "snapshots" / commit
        if (snapshot / "config.json").exists():
            files = _in_folder(snapshot)
        else:
            wrong = "not on this machine, and HF_HUB_OFFLINE forbids downloading it" if is_offline() else ""
            why = "not on this machine: known once it is downloaded"
            files = ModelFiles(None, fetch=place.hub, why=why, wrong=wrong)
    if model.id in CATALOG and not files.folder:
        return replace(files, table=CATALOG[model.id].shape, why="")
    return files


def hub_cache() -> Path:
    """The Hub cache, as huggingface_hub finds it: $HF_HUB_CACHE, else `hub` in the folder of `hub_home`.

    `engine.config.home.keep_hub_cache_in_home` sets $HF_HUB_CACHE where config.toml names a home.
    """
    given = next(filter(None, map(os.environ.get, HUB_CACHE_VARIABLES)), None)
    return expanded(given) if given else hub_home() / "hub"


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE forbids requests to the Hub."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def _in_folder(folder: Path) -> ModelFiles:
    try:
        return ModelFiles(read_model_config(folder), folder)
    except UserError as error:
        return ModelFiles(None, folder, error.problem, wrong=error.problem, code=error.code)


def check_model_config(model: Model) -> None:
    """Raise UserError for a model whose config.json is on this machine and describes an impossible model."""
    files = find_model(model)
    if files.code == IMPOSSIBLE:
        raise impossible_model_error(files.wrong, str(files.folder))


def impossible_model_error(fault: str, where: str) -> UserError:
    """The error for a config.json that describes an impossible model."""
    return UserError(fault, f"{where}/config.json", "download the model again, or choose another one", code=IMPOSSIBLE)


Origin = Literal["embedded", "catalog", "HF cache", "folder", "GGUF file", "Hub"]
MAX_FOLDERS = 200
"""Maximum number of folders, files and cached models that are listed."""
CARD = "README.md"
_LICENSE = re.compile(r"^license:\s*(\S+)\s*$", re.MULTILINE)


@dataclass(frozen=True)
class ListedModel:
    """A model in the list."""

    id: str
    """As `model.id`."""
    label: str
    origin: Origin
    files: ModelFiles
    bytes: int | None = None
    """Size of its files on this machine; None where it has to be downloaded."""
    license: str = ""
    """From the catalog or the model card; '' if unknown."""
    architecture: str = ""
    """transformers' model type, such as `llama`."""
    modified: float | None = None
    """Unix seconds of its latest file."""
    recent: bool = False
    about: str = ""
    gated: bool = False
    """Whether its license has to be accepted on the Hub before it can be downloaded; unknown outside the catalog."""

    @property
    def requires_network(self) -> bool:
        return bool(self.files.fetch)


def list_models(folder: Path, recent: Collection[str] = ()) -> list[ListedModel]:
    """Embedded model, catalog, the models of `folder`, recent ones, and those of the Hugging Face cache.

    Catalog models that have to be downloaded are last.
    """
    # .gguf files and model folders in the folder, and in the folders in it
    local: list[str] = []
    inside: list[Path] = []
    with contextlib.suppress(OSError):
        inside = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    for place in (folder, *inside[:MAX_FOLDERS]):
        with contextlib.suppress(OSError):
            for path in sorted(place.iterdir()):
                is_model = path.suffix == ".gguf" if path.is_file() else _is_model_folder(path)
                if is_model and escaped(str(path)) == str(path):  # UTF-8
                    local.append(str(path.absolute()))

    # models in the cache that have a configuration and weights, latest first
    cached: list[tuple[float, str]] = []
    with contextlib.suppress(OSError):
        for repository in hub_cache().glob("models--*--*"):
            name = repository.name.removeprefix("models--").replace("--", "/")
            files = find_model(Model(id=name)) if name.count("/") == 1 else None
            if files and files.folder and any(files.folder.glob("*.safetensors")):
                cached.append((repository.stat().st_mtime, name))
    cached_names = [name for _, name in sorted(cached, reverse=True)[:MAX_FOLDERS]]

    others = dict.fromkeys([*local[:MAX_FOLDERS], *recent, *cached_names])
    models = [describe_model(name) for name in (EMBEDDED, *CATALOG)]
    models += [describe_model(name, name in recent) for name in others if name != EMBEDDED and name not in CATALOG]
    return sorted(models, key=lambda model: model.id in CATALOG and model.requires_network)


def _is_model_folder(path: Path) -> bool:
    """Whether a folder has a configuration and weights; adapters have another configuration."""
    with contextlib.suppress(OSError):
        return (path / "config.json").is_file() and any(path.glob("*.safetensors"))
    return False


def describe_model(name: str, recent: bool = False) -> ListedModel:
    """What is known about a model without loading or downloading it."""
    model = Model(id=name)
    files, place = find_model(model), model_place(model)
    origins: dict[str, Origin] = {"gguf": "GGUF file", "hub": "HF cache" if files.folder else "Hub"}
    origin, about, license = origins.get(place.kind, "folder"), "", ""
    if name == EMBEDDED:
        origin, about, license = "embedded", "ships with ftbench, to try it", EMBEDDED_LICENSE
    elif entry := CATALOG.get(name):
        origin, about, license = "catalog", entry.about, entry.license
    elif files.folder and place.kind != "gguf":
        with contextlib.suppress(OSError):
            card = read_small(files.folder / CARD).decode("utf-8", "replace")
            if match := _LICENSE.search(card.partition("\n---")[0]):
                license = match.group(1).strip("'\"")
    weights = [place.path] if place.kind == "gguf" and place.path else []
    if place.kind != "gguf" and files.folder:
        with contextlib.suppress(OSError):
            weights = list(files.folder.glob("*.safetensors"))
    size, latest = 0, 0.0
    for file in weights:
        with contextlib.suppress(OSError):
            status = file.stat()  # links of the cache are followed
            size, latest = size + status.st_size, max(latest, status.st_mtime)
    return ListedModel(
        id=name,
        label=Path(name).name if name.startswith("/") else name,
        origin=origin,
        files=files,
        bytes=size if latest else None,
        license=license,
        architecture=str(files.table.get("model_type") or "") if files.table else "",
        modified=latest if latest and name != EMBEDDED else None,
        recent=recent,
        about=about,
        gated=name in CATALOG and CATALOG[name].gated,
    )
