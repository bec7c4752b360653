"""A canvas of dots, 2 by 4 per character cell, drawn as braille or as ASCII.

Written by hand because textual-plotext requires plotext < 6, while plotext 6 is an incompatible rewrite, and because
neither has an ASCII fallback. Their updates are no smaller: for a full pane at 160x50, plotext sends 20 KB and this
canvas 26 KB, of which `FrameDiff` sends only the cells that changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

# Unicode's braille block numbers the dots of a cell column by column, with the lowest row last.
DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
BLANK = 0x2800
ASCII = " .':"
"""Characters for a cell with no dots, dots in the lower half, in the upper half, in both."""


class Canvas:
    """`columns` by `rows` cells; a cell has the style of the series that drew into it last."""

    def __init__(self, columns: int, rows: int) -> None:
        self.columns, self.rows = columns, rows
        self.width, self.height = columns * 2, rows * 4
        self.cells = [[0] * columns for _ in range(rows)]
        self.owners: list[list[int]] = [[-1] * columns for _ in range(rows)]

    def dot(self, x: int, y: int, owner: int) -> None:
        """Set a dot, (0, 0) at the upper left; dots outside are ignored."""
        if 0 <= x < self.width and 0 <= y < self.height:
            row, column = y // 4, x // 2
            self.cells[row][column] |= DOTS[y % 4][x % 2]
            self.owners[row][column] = owner

    def line(self, x0: int, y0: int, x1: int, y1: int, owner: int) -> None:
        """A straight line (Bresenham 1965)."""
        dx, dy = abs(x1 - x0), -abs(y1 - y0)
        step_x, step_y = (1 if x0 < x1 else -1), (1 if y0 < y1 else -1)
        error = dx + dy
        while True:
            self.dot(x0, y0, owner)
            if (x0, y0) == (x1, y1):
                return
            twice = 2 * error
            if twice >= dy:
                error += dy
                x0 += step_x
            if twice <= dx:
                error += dx
                y0 += step_y

    def path(self, points: Sequence[tuple[int, int]], owner: int) -> None:
        """Draw lines from point to point; a single point as a dot."""
        for (x0, y0), (x1, y1) in pairwise(points):
            self.line(x0, y0, x1, y1, owner)
        if len(points) == 1:
            self.dot(*points[0], owner)

    def text(self, row: int, ascii_only: bool) -> list[tuple[str, int]]:
        """A row as runs of (text, owner); owner -1 means empty."""
        runs: list[tuple[str, int]] = []
        for bits, owner in zip(self.cells[row], self.owners[row], strict=True):
            character = self._character(bits, ascii_only)
            if runs and runs[-1][1] == owner:
                runs[-1] = (runs[-1][0] + character, owner)
            else:
                runs.append((character, owner))
        return runs

    @staticmethod
    def _character(bits: int, ascii_only: bool) -> str:
        if not bits:
            return " "
        if not ascii_only:
            return chr(BLANK + bits)
        high, low = bits & 0x1B, bits & 0xE4  # rows 1 and 2; rows 3 and 4
        return ASCII[(2 if high else 0) + (1 if low else 0)]
