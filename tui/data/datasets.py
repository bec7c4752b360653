"""The list of datasets on the bench, each as a line of text, and the id of a dataset that a user typed."""

from __future__ import annotations

import contextlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from rich.cells import cell_len
from textual.content import Content

from engine.config.errors import UserError
from engine.config.files import READABLE, expanded, is_data_file, is_hub_id, working_directory
from engine.config.quantities import count
from engine.config.text import visible
from engine.runs.run.usage import ColumnUse, summarize_columns
from tui.data.preview import Preview
from tui.data.recent import EMBEDDED, read_recent
from tui.format import without_middle
from tui.selection import MARK

MAX_FILES = 200
"""Maximum number of files listed of the working directory."""
ON_THE_HUB = Preview(note="on the Hub: not checked, because that requires network access")
NOT_TEXT = "file name is not valid UTF-8: rename the file"
FORMATS = {"messages": "chat", "prompt-completion": "prompt", "sharegpt": "share"}
"""Short names for the list."""


@dataclass(frozen=True)
class DataSet:
    """A dataset in the list: its id in a preset, and the label displayed."""

    id: str
    label: str
    recent: bool = False

    @property
    def on_the_hub(self) -> bool:
        """Whether the id names a Hub dataset; files of that name come first."""
        exists = os.path.exists(self.id)  # noqa: PTH110 - Path.exists may raise OSError
        return is_hub_id(self.id) and not is_data_file(self.id) and not exists


def is_utf8(data: str) -> bool:
    """Whether a name is valid UTF-8: file names are bytes."""
    try:
        data.encode()
    except UnicodeEncodeError:
        return False
    return True


def list_datasets(chosen: str) -> list[DataSet]:
    """Embedded datasets, the working directory and its files, recent datasets; `chosen` is always included.

    .txt files are not listed, since most are no data; they can be added by their path.
    """
    sets = [DataSet(name, name) for name in EMBEDDED]
    with contextlib.suppress(OSError):  # missing or unreadable: list nothing
        folder = str(Path.cwd())
        with os.scandir(folder) as listing:
            names = sorted(
                entry.name
                for entry in listing
                if is_data_file(entry.name)
                and not entry.name.lower().endswith((".txt", ".txt.gz"))
                and not is_folder(entry)
            )
        if len(names) > 1:  # the folder is a dataset too
            sets.append(DataSet(folder, "./"))
        sets += [DataSet(str(Path(folder, name)), name) for name in names[:MAX_FILES]]
    ids = {dataset.id for dataset in sets}
    for recent in read_recent():
        if recent not in ids:  # a missing one is found by its preview, since a stalled network disk would block here
            sets.append(DataSet(recent, _label(recent), recent=True))
            ids.add(recent)
    return sets if chosen in ids else [DataSet(chosen, _label(chosen)), *sets]


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder or a link to one; False for broken links."""
    with contextlib.suppress(OSError):
        return entry.is_dir()
    return False


def _label(data: str) -> str:
    """Label of a set outside the working directory: file name, with its folder where the name is generic."""
    if not data.startswith("/"):
        return data
    path = Path(data)
    return f"{path.parent.name}/{path.name}" if path.stem in ("train", "data") else path.name or data


def line(dataset: DataSet, preview: Preview | None, taken: bool, width: int) -> Content:
    """Mark, name, rows, format, and `!` for problems; a narrow pane omits the format."""
    mark = MARK if taken else " "
    figure, style = _rows_text(dataset, preview)
    kind = preview.format if preview else ""
    kind = f" {FORMATS.get(kind, kind)[:6]:<6}" if width >= 26 and preview and preview.rows else ""
    flag = "!" if preview and preview.problems else " "
    room = max(4, width - len(mark) - len(figure) - len(kind) - len(flag) - 2)
    name = without_middle(visible(dataset.label), room)
    is_unusable = preview is not None and (preview.error or preview.unusable) and not preview.suggested
    worst = "$text-error" if is_unusable else "$text-warning"
    return Content.assemble(
        (mark, "bold"),
        (name, "bold" if taken else ""),
        " " * (room - cell_len(name) + 1),
        (figure, style),
        (kind, "dim"),
        (flag.rjust(len(flag) + 1), f"bold {worst}"),
    )


def _rows_text(dataset: DataSet, preview: Preview | None) -> tuple[str, str]:
    """Number of training rows, or why it is unknown."""
    if dataset.on_the_hub:
        return "Hub", "dim"
    if preview is None:
        return "…", "dim"
    if preview.error:
        return ("columns?", "$text-warning") if preview.suggested else ("error", "$text-error")
    if not preview.rows:
        return preview.note.partition(",")[0] if preview.note[:1].isdigit() else "?", "dim"
    rows = preview.rows.get("train", 0)
    return (f"{rows:,}" if rows < 1_000_000 else count(rows)), ""


def detail(dataset: DataSet, preview: Preview | None) -> str:
    """A set in one sentence, problems first, because the pane truncates it."""
    if dataset.on_the_hub:
        return ON_THE_HUB.note
    if preview is None:
        return "counting rows"
    if preview.error or preview.note:
        return preview.error or preview.note
    rows = " + ".join(f"{number:,} {split}" for split, number in preview.rows.items())
    used = summarize_columns([ColumnUse(column["name"], 0, column["role"]) for column in preview.columns])
    problems = preview.problems or [f"{preview.format}, no problems found"]
    return "; ".join([*problems, f"{rows} rows", *([used] if used else [preview.why])])


def typed_dataset(text: str) -> str:
    """The id of a dataset that a user typed: the name of an embedded one, an absolute path, or a Hub id.

    Raises UserError if the text is none of these. Reads the disk.
    """
    if text in EMBEDDED:
        return text
    path = expanded(text)
    if not path.is_absolute():
        path = working_directory() / path
    try:
        is_directory = stat.S_ISDIR(path.stat().st_mode)
        if ".." in path.parts:  # normpath would drop a link before `..` instead of following it
            path = path.parent.resolve() / path.name
    except (OSError, ValueError) as error:
        is_missing = isinstance(error, FileNotFoundError | NotADirectoryError)
        if is_missing and is_hub_id(text) and not is_data_file(text):
            return text
        problem = f"cannot read the file or folder ({getattr(error, 'strerror', None) or error})"
        hint = "check the path; Hub ids have the form owner/name"
        raise UserError(problem, visible(text), hint, code="data.not_found") from error
    if not is_directory and not is_data_file(path):
        raise UserError("unsupported file type", visible(path.name), f"use {READABLE}", code="data.file_type")
    return os.path.normpath(path)
