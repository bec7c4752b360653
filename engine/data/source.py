"""Find the rows of a dataset (embedded, file, folder or Hub) and the split of each part."""

from __future__ import annotations

import difflib
import hashlib
import stat
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

from engine.assets import tickets_folder
from engine.config.data_files import data_file_kind, is_hub_id
from engine.config.errors import UserError
from engine.config.files import expanded
from engine.config.schema import Data
from engine.config.text import amount
from engine.data.arrow_rows import arrow_files, arrow_rows
from engine.data.disk_set import is_disk_set, load_disk_set
from engine.data.folder_files import data_files
from engine.data.hub import load_hub
from engine.data.json_rows import array_keys, read_member
from engine.data.reading_notes import ReadingNotes
from engine.data.rows import RowStream, SourcePart, read_file
from engine.data.safe_open import unreadable
from engine.data.split_names import SPLITS, split_of, stem_of

__all__ = ["EMBEDDED", "RowStream", "Source", "read"]

EMBEDDED = {"tickets": tickets_folder}
_DEFAULT_SHARE = Data().validation


@dataclass(frozen=True)
class Source:
    """The rows of a dataset by given split, before rows are held out. Iterating a split reads it again."""

    id: str
    train: RowStream
    validation: RowStream | None
    test: RowStream | None
    files: dict[str, list[str]] = field(default_factory=dict)
    """Split -> its files (or Hub splits)."""
    notes: ReadingNotes = field(default_factory=ReadingNotes)
    """Notes on files that are not read, or whose content differs from what the name implies. Complete after reading."""

    @property
    def splits(self) -> dict[str, RowStream]:
        """The given splits."""
        named = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: rows for name, rows in named.items() if rows is not None}

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of the rows of all splits, independent of the file format. Reads splits that were not read yet."""
        return fingerprint({name: (rows.summary.rows, rows.summary.digest) for name, rows in self.splits.items()})

    @property
    def about(self) -> str:
        """One sentence on what was read."""
        return f"{self.id}: " + ", ".join(
            amount(rows.summary.rows, f"{name} row") for name, rows in self.splits.items()
        )


def fingerprint(splits: dict[str, tuple[int, str]]) -> str:
    """sha256 of each split's name, number of rows and digest (`Summary.digest`)."""
    lines = [f"{name} {count} {digest}\n" for name, (count, digest) in splits.items()]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def read(data: Data) -> Source:
    """Find the files of `data`; their rows are read when a split is iterated.

    `validation` and `test` as text are the name of a split or a file. As a share they leave the split None: rows will
    be held out of training. A validation split in the data takes precedence over the default share, but not over any
    other share.
    """
    notes = ReadingNotes()
    parts = _offer(data, notes)
    chosen: dict[str, list[SourcePart]] = {}
    chosen["test"] = _choose("test", data.test, parts, data, [], notes)
    validation = None if data.validation == _DEFAULT_SHARE else data.validation
    chosen["validation"] = _choose("validation", validation, parts, data, chosen["test"], notes)
    held = chosen["test"] + chosen["validation"]
    chosen["train"] = [part for part in parts if part.split == "train" and part not in held]
    if not chosen["train"]:
        do = "name one file train.jsonl (.csv, .parquet, …), or set data.id to the file"
        raise UserError("no training split", data.id, do, code="data.no_training_split")
    for part in parts:
        if not any(part in used for used in chosen.values()):
            notes.add(f"not read: {part.name}")
    files = {split: [part.name for part in chosen[split]] for split in SPLITS if chosen[split]}
    rows = {split: RowStream(chosen[split], notes) for split in files}
    return Source(data.id, rows["train"], rows.get("validation"), rows.get("test"), files, notes)


def _choose(
    split: str,
    setting: float | str | None,
    parts: list[SourcePart],
    data: Data,
    taken: list[SourcePart],
    notes: ReadingNotes,
) -> list[SourcePart]:
    """The parts of a held-out split: those in the data, those in the setting, or none if a share is held out."""
    if setting is None:
        return [part for part in parts if part.split == split and part not in taken]
    if not isinstance(setting, str):
        return []
    named = [part for part in parts if setting in (part.name, stem_of(part.name))]
    named = named or [part for part in parts if part.split and part.split == split_of(setting)]
    if named:
        return named
    path = _find_file(setting, data)
    if path is None:
        offered = sorted({stem_of(part.name) for part in parts})
        what = f"unknown split or file {setting!r}{_like(setting, offered)}"
        do = f"use one of {', '.join(offered[:8])}, or a file"
        raise UserError(what, f"data.{split}", do, code="data.split_not_found")
    return [SourcePart(path.name, split, partial(read_file, path, path.name, notes), (path,))]


def _find_file(name: str, data: Data) -> Path | None:
    """A file by its path, or by its name in the folder of the data."""
    source = expanded(data.id)
    folder = source if source.is_dir() else source.parent
    return next((path for path in (expanded(name), folder / name) if path.is_file()), None)


def _offer(data: Data, notes: ReadingNotes) -> list[SourcePart]:
    """All parts of the source, in a fixed order."""
    if not data.id.strip():
        do = "set it to an embedded dataset, a file, a folder or a Hub id"
        raise UserError("empty data.id", "data.id", do, code="data.empty_id")
    path = EMBEDDED[data.id]() if data.id in EMBEDDED else expanded(data.id)
    try:
        status = path.stat()
    except FileNotFoundError:
        return _offer_hub(data, path)
    except (OSError, ValueError) as error:
        raise unreadable(error, data.id) from error
    if data.subset is not None:
        what = "only Hub datasets have subsets"
        do = "remove it, or set data.id to a Hub id"
        raise UserError(what, f"data.subset = {data.subset!r}", do, code="data.subset_unread")
    if not stat.S_ISDIR(status.st_mode):
        return _offer_file(path, path.name, notes, "train")
    if is_disk_set(path):
        return _offer_sets(load_disk_set(path, data.id), data.id)
    return _offer_folder(path, data.id, notes)


def _offer_file(
    path: Path, name: str, notes: ReadingNotes, split: str | None, whole_file: bool = False
) -> list[SourcePart]:
    """A file as one part; a JSON object of splits has a part per split."""
    if data_file_kind(path) == ".json" and stat.S_ISREG(path.stat().st_mode):
        keys = array_keys(path, name)
        named = {key: found for key in keys if (found := split_of(key))}
        if "train" in named.values() and len(named) == len(keys) == len(set(named.values())):
            return [
                SourcePart(f"{name} {key}", found, partial(read_member, path, name, key), (path,))
                for key, found in named.items()
            ]
    return [SourcePart(name, split, partial(read_file, path, name, notes, whole_file), (path,))]


def _offer_folder(folder: Path, label: str, notes: ReadingNotes) -> list[SourcePart]:
    """The files of a folder. If some are named after splits, only those are used; otherwise all are for training."""
    files, text_files = data_files(folder, label, notes)
    splits: dict[str, str | None] = {name: split_of(name) for name in files}
    if not any(splits.values()):
        splits = dict.fromkeys(files, "train")
    documents = [split for name, split in splits.items() if name in text_files]
    if len(files) == 1:
        ((name, path),) = files.items()
        return _offer_file(path, name, notes, splits[name])
    many = {split for split in documents if documents.count(split) > 1}
    for split in sorted(str(split) for split in many):
        notes.add(f"{documents.count(split)} .txt files of the {split} split: one document per file", decision=True)
    return [
        SourcePart(
            name,
            split,
            partial(read_file, files[name], name, notes, name in text_files and split in many),
            (files[name],),
        )
        for name, split in splits.items()
    ]


def _offer_hub(data: Data, path: Path) -> list[SourcePart]:
    if not is_hub_id(data.id) or data_file_kind(path) or path.suffix == ".gz":
        raise _no_such_file(data.id, path)
    return _offer_sets(load_hub(data.id, data.subset), data.id)


def _offer_sets(sets: dict[str, object], label: str) -> list[SourcePart]:
    """The splits of a Hub dataset or a `save_to_disk` folder; a single one is for training."""
    only = len(sets) == 1
    return [
        SourcePart(
            name,
            "train" if only else split_of(name),
            partial(arrow_rows, split, f"{label} {name}"),
            *arrow_files(split),
        )
        for name, split in sets.items()
    ]


def _no_such_file(name: str, path: Path) -> UserError:
    try:
        siblings = sorted(child.name for child in path.parent.iterdir())
    except OSError:
        what = "file or folder not found, and its parent folder does not exist"
        return UserError(what, name, "check the path", code="data.not_found")
    known = [*siblings, *(EMBEDDED if path.parent == Path() else ())]
    what = f"file or folder not found{_like(path.name, known)}"
    return UserError(what, name, "check the path; Hub ids have the form owner/name", code="data.not_found")


def _like(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, 1)
    return f" (did you mean {close[0]!r}?)" if close else ""
