"""Decode lines of `events.jsonl`, and distinguish damaged lines from events of an unknown type."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from engine.runs.events import AnyEvent, Event

_decode = msgspec.json.Decoder(AnyEvent).decode


def decode(line: bytes) -> Event | None:
    """Decode one line; None for event types unknown to this version and for lines that are not events."""
    try:
        event: Event = _decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return event


def is_damaged(line: bytes) -> bool:
    """Whether a line that `decode` rejected is damaged, as opposed to an event type of a later version."""
    try:
        return msgspec.json.decode(line, type=_Tagged).type in _KNOWN
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return True


class _Tagged(msgspec.Struct):
    type: str


_KNOWN = {str(kind.__struct_config__.tag) for kind in Event.__subclasses__()}


def opening_of(kinds: Iterable[type[Event]]) -> tuple[bytes, ...]:
    """Line prefixes of these event types as `EventLog` writes them."""
    return tuple(f'{{"type":"{kind.__struct_config__.tag}"'.encode() for kind in kinds)
