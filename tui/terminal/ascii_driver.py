"""ASCII only: whatever a screen draws, no character above `~` goes to the terminal."""

from __future__ import annotations

import unicodedata
from functools import lru_cache

from rich.cells import cell_len
from rich.segment import Segment
from textual.color import Color
from textual.filter import LineFilter

# What our screens and Textual's draw with, in groups of one look.
DRAWN = {
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
ASCII = {ord(shape): plain for plain, shapes in DRAWN.items() for shape in shapes}


@lru_cache(4096)
def plain(text: str) -> str:
    """The text in ASCII, as many cells wide; a character that has no like is a question mark."""
    if text.isascii():
        return text
    return "".join(_plain(character) for character in text)


def _plain(character: str) -> str:
    if character.isascii():
        return character
    if like := ASCII.get(ord(character)):
        return like
    if 0x2800 < ord(character) <= 0x28FF:
        return ":"
    width = cell_len(character)
    base = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
    return base if base and len(base) == width else "?" * width


class Plain(LineFilter):
    """Textual's last step before the terminal, for every widget of every screen."""

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:
        return [one if one.control else Segment(plain(one.text), one.style) for one in segments]
