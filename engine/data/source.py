"""Where rows come from: an embedded set, a file, a folder of files or the Hub, and which of them are whose split."""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from engine.assets import tickets_folder
from engine.contract.errors import UserError
from engine.contract.library import is_hub_id
from engine.contract.schema import Data
from engine.contract.text import escaped
from engine.data.hub import read_hub
from engine.data.raw import Raw
from engine.data.rows import KINDS, kind, read_file

__all__ = ["EMBEDDED", "Raw", "Source", "read"]

EMBEDDED = {"tickets": tickets_folder}
_WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev", "eval"),
    "test": ("test", "testing"),
}
_DEFAULT_SHARE = Data().validation
_FOLDER_DEPTH, _FOLDER_ENTRIES = 3, 10_000


@dataclass(frozen=True)
class Source:
    """The rows of a data set by split, before anything is held out of them."""

    train: list[Raw]
    validation: list[Raw] | None
    test: list[Raw] | None
    fingerprint: str
    """sha256 over the rows of the three splits, whatever file they lay in."""
    about: str
    """One sentence: what was read."""
    files: dict[str, list[str]] = field(default_factory=dict)
    """Split -> the files (or Hub splits) it was read from."""
    notes: list[str] = field(default_factory=list)
    """What was ignored, or read in another way than its name says."""


@dataclass(frozen=True)
class _Part:
    """One file or Hub split on offer: what it is called, whose split its name makes it, and how to read it."""

    name: str
    split: str | None
    load: Callable[[], list[Raw]]


def read(data: Data) -> Source:
    """Read what `data` names. `validation` and `test` given as text are a split's name or a file.

    A share leaves the split None, to be held out of training by content. The default validation share gives
    way to a validation split of the data's own; any other share is taken at its word.
    """
    notes: list[str] = []
    parts = _offer(data, notes)
    chosen: dict[str, list[_Part]] = {}
    chosen["test"] = _choose("test", data.test, parts, data, [], notes)
    wish = None if data.validation == _DEFAULT_SHARE else data.validation
    chosen["validation"] = _choose("validation", wish, parts, data, chosen["test"], notes)
    held = chosen["test"] + chosen["validation"]
    chosen["train"] = [part for part in parts if part.split == "train" and part not in held]
    if not chosen["train"]:
        do = "call one file train.jsonl (.csv, .parquet …), or name the file itself"
        raise UserError("no training split", data.id, do)
    notes += [f"not read: {part.name}" for part in parts if not any(part in used for used in chosen.values())]

    splits = {split: _load(chosen[split]) for split in _WORDS if chosen[split]}
    files = {split: [part.name for part in chosen[split]] for split in splits}
    about = f"{data.id}: " + ", ".join(f"{split} {len(rows):,}" for split, rows in splits.items()) + " rows"
    held_out = splits.get("validation"), splits.get("test")
    return Source(splits["train"], *held_out, _fingerprint(splits), about, files, notes)


def _choose(
    split: str, wish: float | str | None, parts: list[_Part], data: Data, taken: list[_Part], notes: list[str]
) -> list[_Part]:
    """The parts that make up a held-out split: the data's own, those asked for, or none where a share is held out."""
    if wish is None:
        return [part for part in parts if part.split == split and part not in taken]
    if not isinstance(wish, str):
        return []
    named = [part for part in parts if wish in (part.name, _stem(part.name))]
    named = named or [part for part in parts if part.split and part.split == _split_of(wish)]
    if named:
        return named
    path = _file_beside(wish, data)
    if path is None:
        offered = sorted({_stem(part.name) for part in parts})
        what = f"no split and no file {wish!r}{_like(wish, offered)}"
        raise UserError(what, f"data.{split}", f"{data.id} has {', '.join(offered[:8])}; or name a file")
    return [_Part(path.name, split, partial(read_file, path, path.name, notes))]


def _file_beside(wish: str, data: Data) -> Path | None:
    """A file by its path, or by its name inside the data's own folder."""
    here = Path(data.id).expanduser()
    folder = here if here.is_dir() else here.parent
    return next((path for path in (Path(wish).expanduser(), folder / wish) if path.is_file()), None)


def _load(parts: list[_Part]) -> list[Raw]:
    return [raw for part in parts for raw in part.load()]


def _offer(data: Data, notes: list[str]) -> list[_Part]:
    """Everything the source could give, in a fixed order."""
    path = EMBEDDED[data.id]() if data.id in EMBEDDED else Path(data.id).expanduser()
    try:
        status = path.stat()
    except FileNotFoundError:
        return _offer_hub(data, path)
    except (OSError, ValueError) as error:
        what = f"cannot be read: {getattr(error, 'strerror', None) or error}"
        raise UserError(what, data.id, "check the path and its permissions") from error
    if data.subset is not None:
        raise UserError(
            "only Hub data sets have subsets", f"data.subset = {data.subset!r}", "drop it, or name a Hub id"
        )
    if stat.S_ISDIR(status.st_mode):
        return _offer_folder(path, data.id, notes)
    return [_Part(path.name, "train", partial(read_file, path, path.name, notes))]


def _offer_folder(folder: Path, label: str, notes: list[str]) -> list[_Part]:
    """The files of a folder. Where some are named after splits only those count; otherwise all are training."""
    paths = _files(folder, label)
    if not paths:
        raise UserError("no file of rows in the folder", label, f"ftbench reads {' '.join(KINDS)}")
    named = [(escaped(path.relative_to(folder).as_posix()), path) for path in paths]
    splits = {name: _split_of(name) for name, _ in named}
    if not any(splits.values()):
        splits = dict.fromkeys(splits, "train")
    return [_Part(name, splits[name], partial(read_file, path, name, notes)) for name, path in named]


def _files(folder: Path, label: str) -> list[Path]:
    """Data files of a folder and its subfolders, sorted; links to folders are not followed, so loops cannot be."""

    def refuse(error: OSError) -> None:
        raise UserError(f"cannot be read: {error.strerror}", str(error.filename), "check its permissions") from error

    found, seen = [], 0
    for root, folders, files in os.walk(folder, onerror=refuse):
        depth = len(Path(root).relative_to(folder).parts)
        folders[:] = sorted(name for name in folders if not name.startswith(".") and depth < _FOLDER_DEPTH)
        seen += len(files) + len(folders)
        if seen > _FOLDER_ENTRIES:
            raise UserError(
                f"more than {_FOLDER_ENTRIES:,} files", label, "name the file, or a folder with only the data"
            )
        found += [Path(root, name) for name in files if not name.startswith(".") and kind(Path(name))]
    return sorted(found)


def _offer_hub(data: Data, path: Path) -> list[_Part]:
    if not is_hub_id(data.id) or kind(path) or path.suffix == ".gz":
        raise _no_such_file(data.id, path)
    splits = read_hub(data.id, data.subset)
    only = len(splits) == 1
    return [_Part(name, "train" if only else _split_of(name), partial(list, rows)) for name, rows in splits.items()]


def _no_such_file(name: str, path: Path) -> UserError:
    beside: list[str] = []
    try:
        beside = sorted(child.name for child in path.parent.iterdir())
    except OSError:
        return UserError("no such file or folder, nor the folder it should be in", name, "check the path")
    known = [*beside, *(EMBEDDED if path.parent == Path() else ())]
    return UserError(
        f"no such file or folder{_like(path.name, known)}", name, "check the path; Hub ids read owner/name"
    )


def _like(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, 1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _stem(name: str) -> str:
    """`data/train.jsonl.gz` -> `train`."""
    stem = name.rsplit("/", 1)[-1].removesuffix(".gz")
    return stem.rsplit(".", 1)[0] if kind(Path(stem)) else stem


def _split_of(name: str) -> str | None:
    """The split that a file's name begins or ends with, else its folder's: train-00000.parquet, my_dev.csv."""
    stem = _stem(name).lower()
    for split, words in _WORDS.items():
        joined = "|".join(words)
        if re.search(rf"^({joined})(?![a-z])|(?<![a-z])({joined})$", stem):
            return split
    return _split_of(name.rsplit("/", 1)[0]) if "/" in name else None


def _fingerprint(splits: dict[str, list[Raw]]) -> str:
    digest = hashlib.sha256()
    for split, rows in splits.items():
        digest.update(f"{split} {len(rows)}\n".encode())
        for raw in rows:
            digest.update(json.dumps(raw.values, sort_keys=True, default=repr).encode() + b"\n")
    return digest.hexdigest()
