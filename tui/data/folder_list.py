"""The file picker's view of a folder: subfolders, data files with sizes, and entries that match the typed text."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from engine.config.preset_library import is_data_file
from engine.config.quantities import size
from tui.data.datasets import ON_THE_HUB, is_folder, on_the_hub

MAX_ENTRIES = 500
"""Maximum number of entries displayed; typing filters them."""


@dataclass(frozen=True)
class FolderEntry:
    """One entry of the picker."""

    kind: str
    """up, select (this folder as one dataset), folder, file or hub."""
    name: str
    target: str
    """The path, or the Hub id."""
    note: str = ""


@dataclass(frozen=True)
class FolderView:
    """Content of a folder; `error` is the reason where it cannot be read."""

    path: Path
    folders: tuple[str, ...] = ()
    files: tuple[tuple[str, int | None], ...] = ()
    """(name, bytes) of the data files."""
    others: int = 0
    """Number of files in unsupported formats."""
    error: str = ""


def read_folder(path: Path) -> FolderView:
    """Read folders and data files, sorted by name. File system errors are returned in `error`."""
    folders: list[str] = []
    files: list[tuple[str, int | None]] = []
    others = 0
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                if is_folder(entry):
                    folders.append(entry.name)
                elif is_data_file(entry.name):
                    files.append((entry.name, _bytes(entry)))
                else:
                    others += 1
    except OSError as error:
        return FolderView(path, error=f"cannot read the folder {path} ({error.strerror})")
    return FolderView(path, tuple(sorted(folders)), tuple(sorted(files)), others)


def _bytes(entry: os.DirEntry[str]) -> int | None:
    with contextlib.suppress(OSError):
        return entry.stat().st_size
    return None


def resolve_typed_path(text: str, here: Path) -> tuple[Path, str]:
    """The folder that a typed path refers to, relative to `here`, and the prefix of a name to look for in it."""
    if text in ("~", ".", ".."):
        text += "/"
    head, slash, word = text.rpartition("/")
    if not slash:
        return here, text
    try:
        folder = Path(f"{head}/").expanduser()
    except RuntimeError:  # ~user for an unknown user
        folder = Path(f"{head}/")
    return Path(os.path.normpath(here / folder)), word


def entries(view: FolderView, word: str, hidden: bool, typed: str) -> list[FolderEntry]:
    """Entries of a folder that match the typed word, best first; a Hub id is included where no local path matches."""
    found = [*_found(view, word, hidden or word.startswith("."))]
    if on_the_hub(typed):
        found.append(FolderEntry("hub", typed, typed, ON_THE_HUB.note))
    if word or view.error:
        return found[:MAX_ENTRIES]
    top = [] if view.path == view.path.parent else [FolderEntry("up", "../", str(view.path.parent))]
    if len(view.files) > 1:
        names = ", ".join(name for name, _ in view.files[:3]) + (" …" if len(view.files) > 3 else "")
        top.insert(0, FolderEntry("select", "./", str(view.path), f"this folder as one dataset: {names}"))
    return [*top, *found][:MAX_ENTRIES]


def _found(view: FolderView, word: str, hidden: bool) -> Iterator[FolderEntry]:
    """Folders, then files; names that start with the word before names that contain it."""
    lines = [FolderEntry("folder", f"{name}/", str(view.path / name)) for name in view.folders]
    lines += [FolderEntry("file", name, str(view.path / name), size(count)) for name, count in view.files]
    lines = [line for line in lines if hidden or not line.name.startswith(".")]
    lower = word.lower()
    begin = [line for line in lines if line.name.lower().startswith(lower)]
    yield from begin
    yield from (line for line in lines if line not in begin and lower in line.name.lower())
