"""The models that can be selected: embedded, catalog, Hugging Face cache, folders and .gguf files. Reads files only."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from engine.config.catalog import CATALOG
from engine.config.errors import UserError
from engine.config.files import read_small
from engine.config.model_files import EMBEDDED, EMBEDDED_LICENSE, ModelFiles, find_model, hub_cache, model_place
from engine.config.schema import Model

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
    modified: float | None = None
    """Unix seconds of its latest file."""
    recent: bool = False
    about: str = ""
    gated: bool = False
    """Whether its license has to be accepted on the Hub before it can be downloaded; unknown outside the catalog."""

    @property
    def requires_network(self) -> bool:
        return bool(self.files.fetch)


def list_models(folder: Path, recent: Iterable[str] = ()) -> list[ListedModel]:
    """Embedded model, catalog, the models of `folder`, recent ones, and those of the Hugging Face cache.

    Catalog models that have to be downloaded are last.
    """
    found = [describe_model(name) for name in (EMBEDDED, *CATALOG)]
    names = [*local_models(folder), *recent, *cached_models()]
    known = {one.id for one in found}
    remembered = set(recent)
    for name in names:
        if name not in known:
            known.add(name)
            found.append(describe_model(name, name in remembered))
    return sorted(found, key=lambda one: one.id in CATALOG and one.requires_network)


def describe_model(name: str, recent: bool = False) -> ListedModel:
    """What is known about a model without loading or downloading it."""
    model = Model(id=name)
    files, place = find_model(model), model_place(model)
    origins: dict[str, Origin] = {"gguf": "GGUF file", "hub": "HF cache" if files.folder else "Hub"}
    origin = origins.get(place.kind, "folder")
    entry = CATALOG.get(name)
    if name == EMBEDDED or entry:
        origin = "catalog" if entry else "embedded"
    measured = [place.path] if place.kind == "gguf" and place.path else _weights(files.folder)
    size, modified = _measured(measured)
    return ListedModel(
        id=name,
        label=Path(name).name if name.startswith("/") else name,
        origin=origin,
        files=files,
        bytes=size,
        license=_license_of(name, files.folder if place.kind != "gguf" else None),
        architecture=_architecture(files),
        modified=None if name == EMBEDDED else modified,
        recent=recent,
        about=entry.about if entry else "ships with ftbench, to try it" if name == EMBEDDED else "",
        gated=bool(entry and entry.gated),
    )


def local_models(folder: Path) -> Iterator[str]:
    """Absolute paths of .gguf files and model folders in a folder, and in the folders in it."""
    listed = 0
    for place in (folder, *_folders(folder)):
        with contextlib.suppress(OSError):
            for path in sorted(place.iterdir()):
                is_model = path.suffix == ".gguf" if path.is_file() else _is_model_folder(path)
                if is_model and listed < MAX_FOLDERS and _is_text(str(path)):
                    listed += 1
                    yield str(path.absolute())


def cached_models() -> Iterator[str]:
    """Hub ids of the models in the Hugging Face cache that have a configuration and weights, latest first."""
    found: list[tuple[float, str]] = []
    with contextlib.suppress(OSError):
        for repository in hub_cache().glob("models--*--*"):
            name = repository.name.removeprefix("models--").replace("--", "/")
            files = find_model(Model(id=name)) if name.count("/") == 1 else None
            if files and files.folder and any(files.folder.glob("*.safetensors")):
                found.append((repository.stat().st_mtime, name))
    return iter([name for _, name in sorted(found, reverse=True)[:MAX_FOLDERS]])


def _folders(folder: Path) -> list[Path]:
    with contextlib.suppress(OSError):
        return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))[
            :MAX_FOLDERS
        ]
    return []


def _is_model_folder(path: Path) -> bool:
    """Whether a folder has a configuration and weights; adapters have another configuration."""
    with contextlib.suppress(OSError):
        return (path / "config.json").is_file() and any(path.glob("*.safetensors"))
    return False


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _weights(folder: Path | None) -> list[Path]:
    if folder is None:
        return []
    with contextlib.suppress(OSError):
        return sorted(folder.glob("*.safetensors"))
    return []


def _measured(files: Iterable[Path]) -> tuple[int | None, float | None]:
    """Total bytes and the latest modification of files; links of the cache are followed."""
    total, latest = 0, 0.0
    for file in files:
        with contextlib.suppress(OSError):
            status = file.stat()
            total, latest = total + status.st_size, max(latest, status.st_mtime)
    return (total, latest) if latest else (None, None)


def _license_of(name: str, folder: Path | None) -> str:
    """The license of a model, '' where it is not known."""
    if name == EMBEDDED:
        return EMBEDDED_LICENSE
    return CATALOG[name].license if name in CATALOG else _license(folder)


def _license(folder: Path | None) -> str:
    """The license in the metadata of the model card, '' without one."""
    if folder is None:
        return ""
    try:
        text = read_small(folder / CARD).decode("utf-8", "replace")
    except (OSError, UserError):
        return ""
    match = _LICENSE.search(text.partition("\n---")[0])
    return match.group(1).strip("'\"") if match else ""


def _architecture(files: ModelFiles) -> str:
    """transformers' model type, such as `llama`."""
    return str(files.table.get("model_type") or "") if files.table else ""
