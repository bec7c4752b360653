"""Find the rows of a dataset (embedded, file, folder or Hub) and the split of each part, and read them as a stream."""

from __future__ import annotations

import os
import re
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import chain, count
from pathlib import Path

from engine.assets import tickets_folder
from engine.config.errors import UserError
from engine.config.files import READABLE, data_file_kind, expanded, is_data_file, is_hub_id
from engine.config.schema import Data
from engine.config.text import amount, escaped
from engine.data.columns import Summary, did_you_mean, summarize
from engine.data.readers.arrow_files import arrow_files, arrow_rows, is_disk_set, load_disk_set, load_hub, read_parquet
from engine.data.readers.json_files import array_keys, read_json, read_lines, read_member
from engine.data.readers.message_trees import without_trees
from engine.data.readers.text_files import (
    SPREADSHEETS,
    is_log,
    log_file,
    no_rows,
    read_csv,
    read_text,
    spreadsheet,
    unreadable,
)
from engine.data.rows import SPLITS, RawRow, ReadingNotes

_WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev", "eval"),
    "test": ("test", "testing"),
}
_DEPTH, _ENTRIES = 3, 10_000
_STARTS = 256
"""Bytes at the start of a file that show whether it is something else than data."""
MIN_LABELED = 5
"""The names of folders may be labels if each folder has at least so many documents."""
PROGRESS_ROWS = 4096
_PACKED = (".zst", ".zip", ".bz2", ".xz", ".7z", ".tar", ".tgz", ".rar")
EMBEDDED = {"tickets": tickets_folder}
_DEFAULT_SHARE = Data().validation
NOT_READ = "not read: "
"""The start of a note, before the name of a file or split."""


@dataclass(frozen=True)
class SourcePart:
    """A file, Hub split or array of rows: its name, the split that its name implies, and how to read it."""

    name: str
    split: str | None
    load: Callable[[], Iterator[RawRow]]
    files: tuple[Path, ...] = ()
    """The files that are read, to detect changes; empty if unknown."""
    features: str = ""
    """Column types, where they are not part of the files."""


class RowStream:
    """The rows of a split. Each iteration reads the files again; only the summary is cached."""

    def __init__(self, parts: Iterable[SourcePart], notes: ReadingNotes | None = None) -> None:
        self.parts = list(parts)
        self.notes = ReadingNotes() if notes is None else notes
        """Decisions made while reading; complete after the first iteration."""
        self.progress: Callable[[int], None] = lambda done: None
        """Called every PROGRESS_ROWS rows while the summary is computed."""

    def __iter__(self) -> Iterator[RawRow]:
        return chain.from_iterable(self.rows_of(part)() for part in self.parts)

    def rows_of(self, part: SourcePart) -> Callable[[], Iterator[RawRow]]:
        """What reads the rows of a part."""
        return lambda: without_trees(part.load(), part.name, self.notes)

    @cached_property
    def summary(self) -> Summary:
        """The columns, computed in one pass on first use."""
        done = count(1)

        def reported(rows: Iterator[RawRow]) -> Iterator[RawRow]:
            for row, number in zip(rows, done, strict=False):
                if number % PROGRESS_ROWS == 0:
                    self.progress(number)
                yield row

        return summarize((part.name, reported(self.rows_of(part)())) for part in self.parts)


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

    @property
    def about(self) -> str:
        """One sentence on what was read."""
        return f"{self.id}: " + ", ".join(
            amount(rows.summary.rows, f"{name} row") for name, rows in self.splits.items()
        )


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
        hint = "name one file train.jsonl (.csv, .parquet, …), or use `--data FILE`"
        raise UserError("no training split", data.id, hint, code="data.no_training_split")
    for part in parts:
        if not any(part in used for used in chosen.values()):
            notes.add(f"{NOT_READ}{part.name}")
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
    source = expanded(data.id)
    folder = source if source.is_dir() else source.parent
    path = next((path for path in (expanded(setting), folder / setting) if path.is_file()), None)
    if path is None:
        offered = sorted({stem_of(part.name) for part in parts})
        problem = f"unknown split or file {setting!r}{did_you_mean(setting, offered)}"
        hint = f"use one of {', '.join(offered[:8])}, or a file"
        raise UserError(problem, f"data.{split}", hint, code="data.split_not_found")
    return [SourcePart(path.name, split, partial(read_file, path, path.name, notes), (path,))]


def _offer(data: Data, notes: ReadingNotes) -> list[SourcePart]:
    """All parts of the source, in a fixed order."""
    if not data.id.strip():
        hint = "set it to an embedded dataset, a file, a folder or a Hub id"
        raise UserError("empty data.id", "data.id", hint, code="data.empty_id")
    path = EMBEDDED[data.id]() if data.id in EMBEDDED else expanded(data.id)
    try:
        status = path.stat()
    except FileNotFoundError:
        if is_hub_id(data.id) and not data_file_kind(path) and path.suffix != ".gz":
            return _offer_sets(load_hub(data.id, data.subset), data.id)
        problem, hint = "file or folder not found", "check the path; Hub ids have the form owner/name"
        try:
            siblings = sorted(child.name for child in path.parent.iterdir())
            problem += did_you_mean(path.name, [*siblings, *(EMBEDDED if path.parent == Path() else ())])
        except OSError:
            problem, hint = f"{problem}, and its parent folder does not exist", "check the path"
        raise UserError(problem, data.id, hint, code="data.not_found") from None
    except (OSError, ValueError) as error:
        raise unreadable(error, data.id) from error
    if data.subset is not None:
        problem = "only Hub datasets have subsets"
        hint = "remove it, or use `--data OWNER/NAME` of the Hub"
        raise UserError(problem, f"data.subset = {data.subset!r}", hint, code="data.subset_unread")
    if not stat.S_ISDIR(status.st_mode):
        return _offer_file(path, path.name, notes, "train")
    if is_disk_set(path):
        return _offer_sets(load_disk_set(path, data.id), data.id)
    return _offer_folder(path, data.id, notes)


def _offer_file(
    path: Path, name: str, notes: ReadingNotes, split: str | None, whole_file: bool = False
) -> list[SourcePart]:
    """A file as one part; a JSON object of splits has a part per array, several of which may be of one split."""
    if data_file_kind(path) == ".json" and stat.S_ISREG(path.stat().st_mode):
        keys = array_keys(path, name)
        named = {key: split_name for key in keys if (split_name := split_of(key))}
        if "train" in named.values() and len(named) == len(keys) > 1:
            return [
                SourcePart(f"{name} {key}", split_name, partial(read_member, path, name, key), (path,))
                for key, split_name in named.items()
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
    labels = _folder_labels([name for name in splits if name in text_files and splits[name] in many])
    return [
        SourcePart(
            name,
            split,
            partial(_read_document, files[name], name, notes, labels[name])
            if name in labels
            else partial(read_file, files[name], name, notes, name in text_files and split in many),
            (files[name],),
        )
        for name, split in splits.items()
    ]


def _folder_labels(documents: list[str]) -> dict[str, str]:
    """Document -> its folder, if the folders may be labels: at least two, each with at least MIN_LABELED documents."""
    labels = {name: Path(name).parent.name for name in documents}
    folders = Counter(labels.values())
    are_labels = all(folder and not split_of(folder) and folders[folder] >= MIN_LABELED for folder in folders)
    return labels if len(folders) > 1 and are_labels else {}


def _read_document(path: Path, name: str, notes: ReadingNotes, folder: str) -> Iterator[RawRow]:
    """A .txt file as one document, and the name of its folder in a second column."""
    for raw in read_file(path, name, notes, whole_file=True):
        yield RawRow({**raw.values, "folder": folder}, raw.where)


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


def data_files(folder: Path, label: str, notes: ReadingNotes) -> tuple[dict[str, Path], set[str]]:
    """(data files by name, names of the .txt files), sorted; names are relative to the folder.

    Bytes of a name that are not UTF-8 are escaped. A .txt file next to files of other kinds is a README or a list and
    is not read. Raises UserError for folders without data files or with too many files.
    """

    def refuse(error: OSError) -> None:
        raise unreadable(error, escaped(str(error.filename))) from error

    paths, count = [], 0
    for root, folders, names in os.walk(folder, onerror=refuse):  # links to folders are not followed: no loops
        depth = len(Path(root).relative_to(folder).parts)
        folders[:] = sorted(name for name in folders if not name.startswith(".") and depth < _DEPTH)
        count += len(names) + len(folders)
        if count > _ENTRIES:
            hint = "use the path of the file, or of a folder with only the data"
            raise UserError(f"more than {_ENTRIES:,} files", label, hint, code="data.too_many_files")
        paths += [Path(root, name) for name in names if not name.startswith(".") and is_data_file(name)]
    files = {escaped(path.relative_to(folder).as_posix()): path for path in sorted(paths)}
    texts = {name for name, path in files.items() if data_file_kind(path) == ".txt"}
    if len(texts) < len(files):
        for name in sorted(texts):
            notes.add(f"{NOT_READ}{name}")
        files, texts = {name: path for name, path in files.items() if name not in texts}, set()
    if not files:
        hint = f"use {READABLE}"
        raise UserError("no data files in the folder", label, hint, code="data.no_files")
    return files, texts


def split_of(name: str) -> str | None:
    """The split at the start or end of a file's name, else of its folder: train-00000.parquet, my_dev.csv."""
    stem = stem_of(name).lower()
    for split, words in _WORDS.items():
        joined = "|".join(words)
        if re.search(rf"^({joined})(?![a-z])|(?<![a-z])({joined})$", stem):
            return split
    return split_of(name.rsplit("/", 1)[0]) if "/" in name else None


def stem_of(name: str) -> str:
    """`data/train.jsonl.gz` -> `train`."""
    stem = name.rsplit("/", 1)[-1].removesuffix(".gz")
    return stem.rsplit(".", 1)[0] if is_data_file(stem) else stem


def read_file(path: Path, name: str, notes: ReadingNotes, whole_file: bool = False) -> Iterator[RawRow]:
    """All rows of a file. `name`: its name in errors. Adds a note if the content differs from what the name implies.

    `whole_file`: a .txt file is a single document. Raises UserError for invalid content, with the line, item or row.
    """
    kind = data_file_kind(path)
    if kind is None:
        suffix = path.suffix.lower()
        if suffix in SPREADSHEETS:
            raise spreadsheet(name)
        hint = f"use {READABLE}"
        if suffix == ".log":
            raise log_file(name)
        if suffix in _PACKED or suffix == ".gz":
            hint = f"unpack it first ({READABLE} are supported)"
        raise UserError(f"unsupported file type ({suffix or 'no suffix'})", name, hint, code="data.file_type")
    if path.is_file():  # opening a named pipe would wait
        _refuse_other_content(path, name, kind)
    if kind == ".parquet":
        rows = read_parquet(path, name)
    elif kind in (".csv", ".tsv"):
        rows = read_csv(path, name, "\t" if kind == ".tsv" else None, notes)
    elif kind == ".json":
        rows = read_json(path, name, notes)
    elif kind == ".txt":
        rows = read_text(path, name, notes, whole_file)
    else:
        rows = read_lines(path, name)
    if (first := next(rows, None)) is None:
        raise no_rows(name)
    return chain([first], rows)


def _refuse_other_content(path: Path, name: str, kind: str) -> None:
    """Raise UserError if the file is a Git LFS pointer or an HTML page, which failed downloads leave."""
    try:
        with path.open("rb") as file:
            start = file.read(_STARTS).lstrip().lower()
    except OSError:
        return  # the reader says what is wrong
    if start.startswith(b"version https://git-lfs.github.com/spec/"):
        problem, hint = "a Git LFS pointer, not the data", "run `git lfs pull` in its repository, then try again"
        raise UserError(problem, name, hint, code="data.lfs_pointer")
    if kind in (".json", ".jsonl") and is_log(start.decode("latin-1")):
        raise log_file(name)
    if kind != ".txt" and start.startswith((b"<!doctype html", b"<html")):
        problem, hint = "an HTML page, not the data", "download the file itself; the page may say why that failed"
        raise UserError(problem, name, hint, code="data.html_page")


def summary_of(rows: Iterable[RawRow]) -> Summary:
    """The summary of rows; that of a `RowStream` object is computed once."""
    return rows.summary if isinstance(rows, RowStream) else summarize([("", rows)])


def reading_decisions(rows: Iterable[RawRow]) -> list[str]:
    """Decisions made while reading rows: how documents are separated, and a missing header."""
    return rows.notes.decisions if isinstance(rows, RowStream) else []
