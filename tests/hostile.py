"""Thirty strings that would steer a terminal, reorder a line or become markup if they reached a screen as they are."""

from __future__ import annotations

import re
from collections.abc import Sequence

MARK = "h4"
"""In each of them, so that a test sees that it was shown."""

STRINGS = [
    f"\x1b[2J{MARK}",  # CSI: clear the screen
    f"\x1b[31;7;95m{MARK}",  # colours
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
    f"\x1b_G{MARK}\x1b\\",  # APC: a picture
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
    f"\u2028{MARK}\u2029\ufeff\U000e0041",  # line ends and tags nobody sees
]


def strings(source: str) -> list[str]:
    """All of them with the name of where they were put in place of the mark."""
    return [text.replace(MARK, f"{MARK}_{source}") for text in STRINGS]


OURS = re.compile(rb"\x1b\](52;c;[A-Za-z0-9+/=]*|22;[a-z-]+)(\x07|\x1b\\)")
"""What copying by a key of ours sends, base64 and nothing else; and the shapes that Textual gives the pointer."""
NEVER = (
    b"\x1bP",
    b"\x1b_",
    b"\x1b^",
    b"\x1bX",
    b"\x1bc",
    b"\xc2\x9b",
    b"\xc2\x9d",
    b"\xc2\x90",
    b"\xe2\x80\xae",
    b"\x1b]",
)
"""What begins a string that we never send: DCS, APC, PM, SOS, reset, C1, an override of direction, another OSC."""


def raw(shown: bytes, sources: Sequence[str] = ()) -> list[bytes]:
    """What a terminal was given as it was."""
    ours = OURS.sub(b"", shown)
    found = [ours[at : at + 40] for start in NEVER if (at := ours.find(start)) >= 0]
    given = [text.encode() for source in sources for text in strings(source) if not text.startswith("[")]
    return found + [text for text in given if text in shown]
