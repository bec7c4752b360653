"""A peak by part as a bar as long as the card's memory; a part has a letter, and a colour where there are colours."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from rich.text import Text


@dataclass(frozen=True)
class Part:
    """One kind of memory."""

    letter: str
    label: str
    style: str
    """Of the letter on its colour."""


PARTS = {
    "others": Part("x", "others", "white on bright_black"),
    "process": Part("P", "process", "black on white"),
    "weights": Part("W", "weights", "white on blue"),
    "adapters": Part("D", "adapters", "black on bright_cyan"),
    "optimizer": Part("O", "optimizer", "white on magenta"),
    "gradients": Part("G", "gradients", "black on yellow"),
    "activations": Part("A", "activations", "black on green"),
    "logits": Part("L", "logits", "white on red"),
    "pool": Part("C", "context, gaps", "black on cyan"),
}
"""What others hold and the process itself first, then an estimate's parts in their order."""


def bar(parts: Mapping[str, int], total: int, width: int, coloured: bool, ascii_only: bool) -> Text:
    """`width` cells for `total` bytes; what is beyond shows as an arrow in the last one.

    Cells are rounded cumulatively, so that all together are right; parts of less than a cell may have none.
    """
    made = Text()
    for name, count in _cells(parts, total, width):
        part = PARTS[name]
        made.append(part.letter + " " * (count - 1), part.style) if coloured else made.append(part.letter * count)
    if sum(parts.values()) > total:
        made.right_crop(max(0, made.cell_len - width + 1))
        made.append(">" if ascii_only or not coloured else "▶", style="bold red" if coloured else "")
    made.append(("." if ascii_only else "·") * (width - made.cell_len), style="dim" if coloured else "")
    made.append("|" if ascii_only else "│")
    return made


def _cells(parts: Mapping[str, int], total: int, width: int) -> Iterator[tuple[str, int]]:
    """(part, cells), none of them empty; the largest has one where all would be empty."""
    before, drawn = 0, 0
    for name in PARTS:
        before += parts.get(name, 0)
        end = min(width, round(before / max(1, total) * width))
        if end > drawn:
            yield name, end - drawn
        drawn = max(drawn, end)
    if not drawn and before:
        yield max(parts, key=lambda name: parts[name]), 1


def legend(names: Mapping[str, int], width: int, coloured: bool) -> Iterator[Text]:
    """The letters of those parts that are there, in as many lines as it takes."""
    line = Text()
    for name, part in PARTS.items():
        if not names.get(name):
            continue
        entry = Text().append(f" {part.letter} ", part.style) if coloured else Text(part.letter)
        entry.append(f" {part.label}")
        if line and line.cell_len + 2 + entry.cell_len > width:
            yield line
            line = Text()
        line = line + "  " + entry if line else entry
    yield line
