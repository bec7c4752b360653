"""Find the data files of a folder and its subfolders."""

from __future__ import annotations

import os
from pathlib import Path

from engine.config.data_files import READABLE, data_file_kind, is_data_file
from engine.config.errors import UserError
from engine.config.text import escaped
from engine.data.reading_notes import ReadingNotes
from engine.data.safe_open import unreadable

_DEPTH, _ENTRIES = 3, 10_000


def data_files(folder: Path, label: str, notes: ReadingNotes) -> tuple[dict[str, Path], set[str]]:
    """(data files by name, names of the .txt files), sorted; names are relative to the folder.

    Bytes of a name that are not UTF-8 are escaped. A .txt file next to files of other kinds is a README or a list and
    is not read. Raises UserError for folders without data files or with too many files.
    """
    files = {escaped(path.relative_to(folder).as_posix()): path for path in _walk(folder, label)}
    texts = {name for name, path in files.items() if data_file_kind(path) == ".txt"}
    if len(texts) < len(files):
        for name in sorted(texts):
            notes.add(f"not read: {name}")
        files, texts = {name: path for name, path in files.items() if name not in texts}, set()
    if not files:
        do = f"use {READABLE}"
        raise UserError("no data files in the folder", label, do, code="data.no_files")
    return files, texts


def _walk(folder: Path, label: str) -> list[Path]:
    """Data files, sorted. Links to folders are not followed, so there are no loops."""

    def refuse(error: OSError) -> None:
        raise unreadable(error, escaped(str(error.filename))) from error

    found, count = [], 0
    for root, folders, files in os.walk(folder, onerror=refuse):
        depth = len(Path(root).relative_to(folder).parts)
        folders[:] = sorted(name for name in folders if not name.startswith(".") and depth < _DEPTH)
        count += len(files) + len(folders)
        if count > _ENTRIES:
            do = "use the path of the file, or of a folder with only the data"
            raise UserError(f"more than {_ENTRIES:,} files", label, do, code="data.too_many_files")
        found += [Path(root, name) for name in files if not name.startswith(".") and is_data_file(name)]
    return sorted(found)
