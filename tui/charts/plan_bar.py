"""Peak memory by component as a bar scaled to the memory budget; each component has a letter and a color."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from rich.text import Text


@dataclass(frozen=True)
class MemoryComponent:
    """One component of memory."""

    letter: str
    label: str
    style: str
    """Rich style of the letter on the component's color."""


COMPONENTS = {
    "others": MemoryComponent("x", "others", "white on bright_black"),
    "process": MemoryComponent("P", "process", "black on white"),
    "weights": MemoryComponent("W", "weights", "white on blue"),
    "adapters": MemoryComponent("D", "adapters", "black on bright_cyan"),
    "optimizer": MemoryComponent("O", "optimizer", "white on magenta"),
    "gradients": MemoryComponent("G", "gradients", "black on yellow"),
    "activations": MemoryComponent("A", "activations", "black on green"),
    "logits": MemoryComponent("L", "logits", "white on red"),
    "checkpoint": MemoryComponent("K", "checkpoint copy", "black on bright_yellow"),
    "pool": MemoryComponent("C", "context, gaps", "black on cyan"),
}
"""Memory used by others and process overhead first, then the components of an estimate in order."""


def bar(parts: Mapping[str, int], total: int, width: int, colored: bool, ascii_only: bool) -> Text:
    """`width` cells for `total` bytes; an arrow in the last cell marks a peak above the total.

    Cells are rounded cumulatively, so that their sum is right; components smaller than a cell may have none.
    """
    text = Text()
    for name, count in _cells(parts, total, width):
        part = COMPONENTS[name]
        text.append(part.letter + " " * (count - 1), part.style) if colored else text.append(part.letter * count)
    if sum(parts.values()) > total:
        text.right_crop(max(0, text.cell_len - width + 1))
        text.append(">" if ascii_only or not colored else "▶", style="bold red" if colored else "")
    text.append(("." if ascii_only else "·") * (width - text.cell_len), style="dim" if colored else "")
    text.append("|" if ascii_only else "│")
    return text


def _cells(parts: Mapping[str, int], total: int, width: int) -> Iterator[tuple[str, int]]:
    """(component, cells) with at least one cell; the largest component has one where all would have none."""
    before, drawn = 0, 0
    for name in COMPONENTS:
        before += parts.get(name, 0)
        end = min(width, round(before / max(1, total) * width))
        if end > drawn:
            yield name, end - drawn
        drawn = max(drawn, end)
    if not drawn and before:
        yield max(parts, key=lambda name: parts[name]), 1


def legend(names: Mapping[str, int], width: int, colored: bool) -> Iterator[Text]:
    """The letters of the components in use, wrapped to `width`."""
    line = Text()
    for name, part in COMPONENTS.items():
        if not names.get(name):
            continue
        entry = Text().append(f" {part.letter} ", part.style) if colored else Text(part.letter)
        entry.append(f" {part.label}")
        if line and line.cell_len + 2 + entry.cell_len > width:
            yield line
            line = Text()
        line = line + "  " + entry if line else entry
    yield line
