"""Strings that control a terminal, reorder or hide text, or become markup if they reach a screen unescaped."""

from __future__ import annotations

import re
from collections.abc import Sequence

import regex

MARK = "h4"
"""Part of each string, so that a test can verify that it was shown."""

STRINGS = [
    f"\x1b[2J{MARK}",  # CSI: clear the screen
    f"\x1b[31;7;95m{MARK}",  # colors
    f"\x1b[?1049h{MARK}",  # the alternate screen
    f"\x1b[?1003h{MARK}",  # every movement of the mouse
    f"\x1b[6n{MARK}",  # the terminal answers on stdin
    f"\x1b[21t{MARK}",  # and with its title
    f"\x1b[8;1;1t{MARK}",  # another size
    f"\x1b[200~{MARK}\x1b[201~",  # a paste
    f"\x1b]0;{MARK}\x07",  # OSC: the title
    f"\x1b]0;{MARK}\x1b\\",
    f"\x1b]52;c;{MARK}\x07",  # the clipboard
    f"\x1b]8;;http://{MARK}\x07here\x1b]8;;\x07",  # a link
    f"\x1b]4;1;#{MARK}\x1b\\",  # the palette
    f"\x1b]1337;File=:{MARK}\x07",  # a file
    f"\x1b]{MARK} without an end",
    f"\x1bP$q{MARK}\x1b\\",  # DCS
    f"\x1bP{MARK} without an end",
    f"\x1b_G{MARK}\x1b\\",  # APC: an image
    f"\x1b^{MARK}\x1b\\",  # PM
    f"\x1bX{MARK}\x1b\\",  # SOS
    f"\x1bc{MARK}",  # reset
    f"\x9b2J{MARK}",  # C1: CSI, OSC and DCS in one character
    f"\x9d0;{MARK}\x9c",
    f"\x90{MARK}\x9c",
    f"\x08\x08{MARK}\r\x0b\x0c",
    f"\x00\x07{MARK}\x7f\x0e",
    f"[/oops][bold red]{MARK}[@click=app.quit]",  # Textual's markup
    f"[link=file:///etc/passwd]{MARK}[/link]",
    f"\u202e{MARK}\u2066\u200b\u2069\u202c",  # written backwards
    f"\u2028{MARK}\u2029\ufeff\U000e0041",  # line separators and invisible tags
    f"\u115f{MARK}\u1160",  # Hangul fillers
    f"\u3164{MARK}\uffa0",
    f"a\ufe0f{MARK}\ufe00",  # variation selectors
    f"a\U000e0100{MARK}\U000e01ef",
    f"a\u034f{MARK}",  # combining grapheme joiner
    f"\u17b4{MARK}\u17b5",  # Khmer inherent vowels
    f"\u180b{MARK}\u180e\u180f",  # Mongolian separators
    f"\u2060{MARK}\u2064\u206f",  # word joiner, invisible operators, deprecated formats
    f"\U0001bca0{MARK}\U0001d173",  # shorthand and musical formats
    f"\xad{MARK}\u061c",  # soft hyphen, Arabic letter mark
    f"\u200e{MARK}\u200f\u200d\u200c",  # marks of direction, joiners
    f"\u202a{MARK}\u202b\u202d\u2067\u2068",  # embeddings and isolates
    f"\ufff0{MARK}\U000e0000\U000e0fff",  # unassigned, but ignorable
    f"\ue000{MARK}\U000f0000",  # private use
    f"\ufdd0{MARK}\U0010ffff\u0378",  # noncharacters, unassigned
    f"\x85{MARK}\x84\x8d",  # C1: next line, index, reverse index
    f"\x98{MARK}\x9e\x9f",  # C1: SOS, PM, APC
    f"\x1b(0{MARK}\x1b)0\x0e",  # the line drawing character set
    f"\x1b#8{MARK}",  # fill the screen with E
    f"\x1b[5i{MARK}\x1b[4i",  # the printer
    f"\x1b[?5h{MARK}",  # reverse video
    f"\x1b[!p{MARK}",  # soft reset
    f"\x1b7{MARK}\x1b[99;99H\x1b8",  # save, move, restore
    f"\x1bD{MARK}\x1bM\x1bE",  # index, reverse index, next line
    f"\x05{MARK}\x1a\x18",  # answerback, substitute, cancel
    f"\x1b[c{MARK}\x1b[>c\x1b[0x",  # the terminal's attributes
    f"\x1b[>4;2m{MARK}\x1b[=1;1u",  # keyboard modes
    f"\x1b]9;{MARK}\x07\x1b]777;notify;{MARK}\x07",  # notifications
    f"\x1b]133;A{MARK}\x1b\\",  # prompt marks
    f"\x1bPtmux;\x1b\x1b]52;c;{MARK}\x07\x1b\\",  # through tmux
    f"\x1b[?2004l{MARK}\x1b[?25l",  # paste mode off, cursor off
    f"\x1b[s{MARK}\x1b[u\x1b[2;5r",  # scroll region
    f"\x1b%G{MARK}\x1b%@",  # character encoding
    f"\x1b[1;31m\x1b[K{MARK}\x1b[1A\x1b[2K",  # erase the line above
]


def strings(source: str) -> list[str]:
    """All hostile strings, with the source in the mark."""
    return [text.replace(MARK, f"{MARK}_{source}") for text in STRINGS]


OURS = re.compile(rb"\x1b\](52;c;[A-Za-z0-9+/=]*|22;[a-z-]+)(\x07|\x1b\\)")
"""Clipboard sequences (base64 only) and Textual's pointer shapes, which ftbench sends."""
SENT = re.compile(
    r"\x1b\[[0-9;]*m|\x1b\[\d+;\d+H|\x1b\[\?[0-9]+(?:[hl]|\$p)|\x1b\[>1u|\x1b\[>25u|\x1b\[<u"  # styles, places, modes
    r"|\x1b\[2K|\x1b\[\d*A|\x1b\[[HJ]|\r|\n|\x07"  # Rich's displays; the bell
)
"""Every other sequence that ftbench sends."""
HIDDEN = regex.compile(r"[\p{C}\p{Zl}\p{Zp}\p{Default_Ignorable_Code_Point}]")
"""Control, hidden, private and unassigned characters, by Unicode's properties and independent of ftbench's code."""


def arrived(shown: bytes, sources: Sequence[str] = ()) -> list[str]:
    """Output that is neither visible text nor a sequence of ftbench, and hostile strings that were not escaped."""
    text = OURS.sub(b"", shown).decode("utf-8", "surrogateescape")
    left = SENT.sub("", text)
    excerpts = [left[max(0, hit.start() - 20) : hit.start() + 20] for hit in HIDDEN.finditer(left)]
    given = [string for source in sources for string in strings(source) if HIDDEN.search(string)]
    return excerpts[:20] + [string for string in given if string in text]
