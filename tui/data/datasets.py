"""The data sets that the bench lists, and each one as a line of text."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

from rich.cells import cell_len
from textual.content import Content

from engine.config.preset_library import is_data_file, is_hub_id
from engine.config.text import visible
from engine.runs.account import ColumnUse, columns_in_short
from tui.data.preview import Preview
from tui.data.recent import read_recent
from tui.format import count

EMBEDDED = ("tickets",)
"""Data sets that are shipped with ftbench."""
MOST_FILES = 200
ON_THE_HUB = Preview(note="on the Hub: not checked, because that requires network access")
NOT_TEXT = "file name is not UTF-8, so a preset cannot name it; rename the file"
FORMATS = {"messages": "chat", "prompt-completion": "pairs", "sharegpt": "share"}
"""Short names for the list."""


@dataclass(frozen=True)
class DataSet:
    """A data set of the list: its id for the preset, and its name here."""

    id: str
    label: str
    recent: bool = False

    @property
    def on_the_hub(self) -> bool:
        return on_the_hub(self.id)


def on_the_hub(data: str) -> bool:
    """Whether a data id names a Hub data set; files of that name come first."""
    return is_hub_id(data) and not is_data_file(data) and not Path(data).exists()


def is_text(data: str) -> bool:
    """Whether a name is valid UTF-8: file names are bytes."""
    try:
        data.encode()
    except UnicodeEncodeError:
        return False
    return True


def offered(chosen: str) -> list[DataSet]:
    """Embedded sets, the working directory and its files, recent ones; `chosen` is always among them."""
    sets = [DataSet(name, name) for name in EMBEDDED] + _here()
    ids = {one.id for one in sets}
    for recent in read_recent():
        if recent not in ids:  # whether it is still there is looked at where a dead network disk holds up nobody
            sets.append(DataSet(recent, _called(recent), recent=True))
            ids.add(recent)
    return sets if chosen in ids else [DataSet(chosen, _called(chosen)), *sets]


def _here() -> list[DataSet]:
    """The data files of the working directory; several make a set together as well.

    A .txt file is more often a README than data: it is named by its path, or chosen from the file picker.
    """
    names: list[str] = []
    folder = ""
    with contextlib.suppress(OSError):  # gone or unreadable: nothing is offered from it
        folder = str(Path.cwd())
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries if _is_offered(entry.name) and not is_folder(entry))
    files = [DataSet(str(Path(folder, name)), name) for name in names[:MOST_FILES]]
    return [DataSet(folder, "./"), *files] if len(files) > 1 else files


def _is_offered(name: str) -> bool:
    return is_data_file(name) and not name.lower().endswith((".txt", ".txt.gz"))


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Also a link to one; a link that leads nowhere or to itself is none."""
    with contextlib.suppress(OSError):
        return entry.is_dir()
    return False


def _called(data: str) -> str:
    """A set from elsewhere by its file's name, a folder with a slash behind it."""
    if not data.startswith("/"):
        return data
    path = Path(data)
    return f"{path.parent.name}/{path.name}" if path.stem in ("train", "data") else path.name or data


def line(one: DataSet, preview: Preview | None, taken: bool, width: int, ascii_only: bool) -> Content:
    """Mark, name, rows, format, and `!` where a problem was found; in a narrow pane the format is left out."""
    mark = (">" if ascii_only else "▸") if taken else " "
    figure, style = _figure(one, preview, ascii_only)
    kind = preview.format if preview else ""
    kind = f" {FORMATS.get(kind, kind)[:6]:<6}" if width >= 26 and preview and preview.rows else ""
    flag = "!" if preview and preview.problems else " "
    room = max(4, width - len(mark) - len(figure) - len(kind) - len(flag) - 2)
    name = _fitted(visible(one.label), room, ascii_only)
    worst = "$text-error" if preview and (preview.error or preview.unusable) else "$text-warning"
    return Content.assemble(
        (mark, "bold"),
        (name, "bold" if taken else ""),
        " " * (room - cell_len(name) + 1),
        (figure, style),
        (kind, "dim"),
        (flag.rjust(len(flag) + 1), f"bold {worst}"),
    )


def _figure(one: DataSet, preview: Preview | None, ascii_only: bool) -> tuple[str, str]:
    """Training rows, or why they are not known."""
    if one.on_the_hub:
        return "Hub", "dim"
    if preview is None:
        return "..." if ascii_only else "…", "dim"
    if preview.error:
        return "error", "$text-error"
    if not preview.rows:
        return preview.note.partition(",")[0] if preview.note[:1].isdigit() else "?", "dim"
    rows = preview.rows.get("train", 0)
    return (f"{rows:,}" if rows < 1_000_000 else count(rows)), ""


def detail(one: DataSet, preview: Preview | None) -> str:
    """A set in one sentence, problems first, because it is cut where there is no room."""
    if one.on_the_hub:
        return ON_THE_HUB.note
    if preview is None:
        return "counting rows"
    if preview.error or preview.note:
        return preview.error or preview.note
    rows = " + ".join(f"{number:,} {split}" for split, number in preview.rows.items())
    used = columns_in_short([ColumnUse(one["name"], 0, one["role"]) for one in preview.columns])
    found = preview.problems or [f"{preview.format}, no problems found"]
    return "; ".join([*found, f"{rows} rows", *([used] if used else [preview.why])])


def _fitted(text: str, cells: int, ascii_only: bool) -> str:
    """Cut in the middle, so that a name's beginning and its suffix stay."""
    if cell_len(text) <= cells:
        return text
    head, tail = text[: cells * 2 // 3], text[-(cells // 3) :]
    while head and cell_len(head) + cell_len(tail) >= cells:
        head = head[:-1]
    return f"{head}{'~' if ascii_only else '…'}{tail}"
