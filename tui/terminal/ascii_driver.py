"""ASCII mode: a line filter that replaces every non-ASCII character before it is sent to the terminal.

Written by hand because Textual has no ASCII mode, and because transliteration libraries (Unidecode, anyascii) change
the number of cells: here every replacement is as wide as the original, so that the layout does not move.
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache

from rich.cells import cell_len
from rich.segment import Segment
from textual.color import Color
from textual.filter import LineFilter

REPLACEMENTS = {
    "-": "·⋅─━═╌╍┄┅┈┉╴╶╸╺╼╾–—‐‑−▔▁▂🭶🭻",
    "|": "│┃║╎╏┆┇┊┋╵╷╹╻╽╿▏▎▍▕▐▌▋▊▉",
    "+": "┌┍┎┏┐┑┒┓└┕┖┗┘┙┚┛├┝┞┟┠┡┢┣┤┥┦┧┨┩┪┫┬┭┮┯┰┱┲┳┴┵┶┷┸┹┺┻┼╀╂╋╭╮╯╰╔╗╚╝╠╣╦╩╬✓✔",
    "#": "█▇▆▅▓▛▜▙▟■▮",
    "=": "▄▃▀▬≡",
    ":": "▒░▖▗▘▝▚▞",
    "*": "•●◆★∙",
    "o": "○◯◦°",
    "u": "µμ",
    ">": "≥▸▶►→❯›»⏵",
    "<": "≤◂◀◄←❮‹«⏴",
    "^": "▲△↑⌃⏶▴",
    "v": "▼▽↓⌄⏷▾",
    "x": "✗✘×✕✖",
    "~": "…±≈",
    "'": "‘’‛′`",
    '"': "“”„″",
    "$": "⏎↵⌫",
    "_": "␣▂",
}
"""ASCII character -> similar characters that ftbench's and Textual's screens draw."""
ASCII = {ord(shape): plain for plain, shapes in REPLACEMENTS.items() for shape in shapes}


@lru_cache(4096)
def plain(text: str) -> str:
    """The text in ASCII with the same width in cells; a character without a replacement becomes `?`."""
    if text.isascii():
        return text
    return "".join(_plain(character) for character in text)


def _plain(character: str) -> str:
    if character.isascii():
        return character
    if similar := ASCII.get(ord(character)):
        return similar
    if 0x2800 < ord(character) <= 0x28FF:
        return ":"
    width = cell_len(character)
    base = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
    return base if base and len(base) == width else "?" * width


class AsciiFilter(LineFilter):
    """Line filter for ASCII mode; Textual applies it to every widget of every screen."""

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:
        return [one if one.control else Segment(plain(one.text), one.style) for one in segments]
