"""Which data sets the bench offers, and how each reads on one line."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

from rich.cells import cell_len
from textual.content import Content

from engine.contract.library import is_data_file, is_hub_id
from engine.contract.text import visible
from tui.data.glance import Glance
from tui.data.recent import read_recent
from tui.show import count

EMBEDDED = ("tickets",)
"""Data sets that come along."""
MOST_FILES = 200
ON_THE_HUB = Glance(note="on the Hub: not checked, that needs the network")
NOT_TEXT = "its name is not UTF-8, which a preset has to be; rename it"
FORMATS = {"messages": "chat", "prompt-completion": "pairs", "sharegpt": "share"}
"""Where there is no room for the name."""


@dataclass(frozen=True)
class DataSet:
    """One line of the list: what goes into the preset, and what it is called here."""

    id: str
    label: str
    recent: bool = False

    @property
    def on_the_hub(self) -> bool:
        return on_the_hub(self.id)


def on_the_hub(data: str) -> bool:
    """Whether a data id can only be meant for the Hub: the engine takes files of that name first."""
    return is_hub_id(data) and not is_data_file(data) and not Path(data).exists()


def is_text(data: str) -> bool:
    """Whether a name can be written down: file names are bytes, and not all of them are UTF-8."""
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


def line(one: DataSet, glance: Glance | None, taken: bool, width: int, ascii_only: bool) -> Content:
    """Mark, name, rows, format, and `!` where something was found; what has no room goes from the right."""
    mark = (">" if ascii_only else "▸") if taken else " "
    figure, style = _figure(one, glance, ascii_only)
    kind = glance.format if glance else ""
    kind = f" {FORMATS.get(kind, kind):<6}" if width >= 26 and glance and glance.rows else ""
    flag = "!" if glance and glance.problems else " "
    room = max(4, width - len(mark) - len(figure) - len(kind) - len(flag) - 2)
    name = _fitted(visible(one.label), room, ascii_only)
    worst = "$text-error" if glance and (glance.error or glance.unusable) else "$text-warning"
    return Content.assemble(
        (mark, "bold"),
        (name, "bold" if taken else ""),
        " " * (room - cell_len(name) + 1),
        (figure, style),
        (kind, "dim"),
        (flag.rjust(len(flag) + 1), f"bold {worst}"),
    )


def _figure(one: DataSet, glance: Glance | None, ascii_only: bool) -> tuple[str, str]:
    """Rows that train, or in their place why there is no such number."""
    if one.on_the_hub:
        return "Hub", "dim"
    if glance is None:
        return "..." if ascii_only else "…", "dim"
    if glance.error:
        return "error", "$text-error"
    if not glance.rows:
        return glance.note.partition(",")[0] if glance.note[:1].isdigit() else "?", "dim"
    rows = glance.rows.get("train", 0)
    return (f"{rows:,}" if rows < 1_000_000 else count(rows)), ""


def detail(one: DataSet, glance: Glance | None) -> str:
    """One set in a sentence, the worst first: as much of it is read as there is room for."""
    if one.on_the_hub:
        return ON_THE_HUB.note
    if glance is None:
        return "counting"
    if glance.error or glance.note:
        return glance.error or glance.note
    rows = " + ".join(f"{number:,} {split}" for split, number in glance.rows.items())
    return "; ".join([*(glance.problems or [f"{glance.format}, no problem found"]), f"{rows} rows; {glance.why}"])


def _fitted(text: str, cells: int, ascii_only: bool) -> str:
    """Cut in the middle, so that a name's beginning and its suffix stay."""
    if cell_len(text) <= cells:
        return text
    head, tail = text[: cells * 2 // 3], text[-(cells // 3) :]
    while head and cell_len(head) + cell_len(tail) >= cells:
        head = head[:-1]
    return f"{head}{'~' if ascii_only else '…'}{tail}"
