"""The data files of a folder and its subfolders."""

from __future__ import annotations

import os
from pathlib import Path

from engine.config.errors import UserError
from engine.config.text import escaped
from engine.data.reading_notes import Notes
from engine.data.rows import KINDS, kind
from engine.data.safe_open import unreadable

_DEPTH, _ENTRIES = 3, 10_000


def data_files(folder: Path, label: str, notes: Notes) -> tuple[dict[str, Path], set[str]]:
    """(all data files by name, the names of those that are .txt), sorted; names are relative to the folder.

    A name that is not UTF-8 has escapes for the bytes that are not.

    A .txt file beside files of other kinds is a README or a list, so it is left unread. UserError for folders without
    data files, or too large to search.
    """
    files = {escaped(path.relative_to(folder).as_posix()): path for path in _walk(folder, label)}
    texts = {name for name, path in files.items() if kind(path) == ".txt"}
    if len(texts) < len(files):
        for name in sorted(texts):
            notes.add(f"not read: {name}")
        files, texts = {name: path for name, path in files.items() if name not in texts}, set()
    if not files:
        do = f"ftbench reads {' '.join(KINDS)}"
        raise UserError("no data files in the folder", label, do, code="data.no_files")
    return files, texts


def _walk(folder: Path, label: str) -> list[Path]:
    """Data files, sorted; links to folders are not followed, so there are no loops."""

    def refuse(error: OSError) -> None:
        raise unreadable(error, escaped(str(error.filename))) from error

    found, seen = [], 0
    for root, folders, files in os.walk(folder, onerror=refuse):
        depth = len(Path(root).relative_to(folder).parts)
        folders[:] = sorted(name for name in folders if not name.startswith(".") and depth < _DEPTH)
        seen += len(files) + len(folders)
        if seen > _ENTRIES:
            do = "name the file, or a folder with only the data"
            raise UserError(f"more than {_ENTRIES:,} files", label, do, code="data.too_many_files")
        found += [Path(root, name) for name in files if not name.startswith(".") and kind(Path(name))]
    return sorted(found)
