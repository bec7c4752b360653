"""What the terminal sends: any bytes become keys, mouse events and pastes.

Textual's parser (8.2) takes decoded text, and reissues a sequence that it does not know as keys: a byte that is not
UTF-8 would end the app, and the reply of a terminal to a question of another program would be typed into an input line.
Here only complete sequences that the parser knows reach it. A sequence without an end is dropped when no more of it
arrives, so that the next key is a key.
"""

from __future__ import annotations

import re
from codecs import getincrementaldecoder
from collections.abc import Generator, Iterator

from textual import events
from textual._ansi_sequences import ANSI_SEQUENCES_KEYS
from textual._xterm_parser import XTermParser
from textual.message import Message

MAX_PASTE = 4096
"""Characters of a paste; the rest is dropped. Paths are shorter, and inputs have one line."""
TYPED_AT_ONCE = 256
"""More characters in one read were not typed: a paste of a terminal that does not mark them."""
MAX_PENDING = 1 << 16
"""Bytes of an incomplete sequence that are kept."""

PASTE, PASTE_END = b"\x1b[200~", b"\x1b[201~"
TOKEN = re.compile(
    rb"(?P<x10>\x1b\[M[\s\S]{3})"  # a mouse report whose coordinates are bytes of any value
    rb"|(?P<string>\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\))"  # OSC, DCS, SOS, PM, APC: replies of the terminal
    rb"|(?P<csi>\x1b\[[0-?]*[ -/]*[@-~])"
    rb"|(?P<key>\x1b(?:O[ -~]|[^\x1b\[\]PX^_O]))"  # SS3, and alt with a key
    rb"|(?P<text>[^\x1b]+)"
)
INCOMPLETE = re.compile(rb"\x1b(?:\[(?:M[\s\S]{0,2}|[0-?]*[ -/]*)|[\]PX^_][^\x07\x1b]*\x1b?|O)?\Z")
"""At the end of what was read: the beginning of a token, or the escape key."""
STATEFUL = re.compile(
    r"\x1b\[(?:[IO]|<\d{1,5};-?\d{1,5};-?\d{1,5}[Mm]|\?\d{1,5};\d\$y|\d{1,5};\d{1,5}R|48(?:;[1-9]\d{0,4}){4}t)"
)
"""Focus, mouse, mode report, cursor position, size: what the parser remembers."""
EXTENDED_KEY = re.compile(r"\x1b\[\d{0,7}(?:;\d{0,5})?(?:;[\d:]{0,40})?[u~ABCDEFHPQRS]")
"""A key with modifiers."""
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


class TerminalInput:
    """Turns the bytes that a terminal sends into messages."""

    def __init__(self, debug: bool = False) -> None:
        self._debug, self._parser = debug, XTermParser(debug)
        self._decoder = getincrementaldecoder("utf-8")("ignore")
        self._pending = b""
        """The beginning of a sequence, or of the end of a paste."""
        self._pasted: bytearray | None = None
        """What was pasted so far; None outside of a paste."""

    @property
    def is_waiting(self) -> bool:
        """Whether the last byte was an escape: a key, or the beginning of a sequence."""
        return self._pending == b"\x1b"

    def feed(self, data: bytes) -> Iterator[Message]:
        """The messages of what was read."""
        data, self._pending = self._pending + data, b""
        while data:
            if self._pasted is not None:
                data = yield from self._paste(data)
            elif data.startswith(PASTE):
                data, self._pasted = data[len(PASTE) :], bytearray()
            elif match := TOKEN.match(data):
                data = data[match.end() :]
                yield from self._token(match)
            elif INCOMPLETE.match(data) and len(data) < MAX_PENDING:
                self._pending, data = data, b""
            else:  # the escape key before a sequence, or a sequence with a byte that does not belong into it
                if data.startswith(b"\x1b\x1b"):
                    yield events.Key("escape", "\x1b")
                data = data[1:]

    def idle(self) -> Iterator[Message]:
        """The messages of what is incomplete; called when nothing has arrived for a moment."""
        pending, self._pending = self._pending, b""
        if self._pasted is not None:
            text, self._pasted = bytes(self._pasted), None
            yield from pasted(text)
        elif pending == b"\x1b":
            yield events.Key("escape", "\x1b")
        elif len(pending) == 2:  # alt with a key that also begins sequences
            yield from key_events(pending.decode())

    def _paste(self, data: bytes) -> Generator[Message, None, bytes]:
        """Take what belongs to the paste; returns the rest."""
        assert self._pasted is not None
        content, end, rest = data.partition(PASTE_END)
        if not end:  # a part of its end may be the last bytes
            kept = next((size for size in range(len(PASTE_END) - 1, 0, -1) if data.endswith(PASTE_END[:size])), 0)
            content, self._pending = data[: len(data) - kept], data[len(data) - kept :]
        room = 4 * MAX_PASTE - len(self._pasted)  # at most four bytes per character
        self._pasted += content[: max(0, room)]
        if end:
            text, self._pasted = bytes(self._pasted), None
            yield from pasted(text)
        return rest

    def _token(self, match: re.Match[bytes]) -> Iterator[Message]:
        if match["csi"] or match["key"]:
            sequence = (match["csi"] or match["key"]).decode("utf-8", "ignore")
            if STATEFUL.fullmatch(sequence):
                yield from self._parser.feed(sequence)
            elif sequence in ANSI_SEQUENCES_KEYS or is_extended_key(sequence) or len(sequence) == 2:
                yield from key_events(sequence)
        elif match["text"]:
            text = self._decoder.decode(match["text"])
            if len(text) > TYPED_AT_ONCE:
                yield from pasted(text.encode())
            elif text:
                yield from self._parser.feed(text)


def pasted(content: bytes) -> Iterator[Message]:
    """The paste of a text, without control characters; nothing for an empty one."""
    if text := CONTROL.sub("", content.decode("utf-8", "ignore"))[:MAX_PASTE]:
        yield events.Paste(text)


def is_extended_key(sequence: str) -> bool:
    """Whether it is a key with modifiers, all of whose numbers are code points."""
    numbers = [int(number) for number in re.findall(r"\d+", sequence)] if len(sequence) < 64 else []
    in_range = all(number < 0xD800 or 0xDFFF < number <= 0x10FFFF for number in numbers)
    return in_range and EXTENDED_KEY.fullmatch(sequence) is not None


def key_events(sequence: str) -> Iterator[Message]:
    """The keys of one sequence, by a parser of its own: a sequence that it does not know changes no later one."""
    parser = XTermParser()
    yield from parser.feed(sequence)
    yield from parser.feed("")
