"""Decode lines of `events.jsonl`: current events, events of earlier versions, and damaged lines."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from engine.runs.events import AnyEvent, Event
from engine.runs.renamed_fields import RENAMED_EVENTS, SCHEMA_VERSION, current_event

_decode = msgspec.json.Decoder(AnyEvent).decode


def decode(line: bytes) -> Event | None:
    """Decode one line; None for event types unknown to this version and for lines that are not events."""
    try:
        event: Event = _decode(line)
        if event.v >= SCHEMA_VERSION or event.__struct_config__.tag not in RENAMED_EVENTS:
            return event
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    return _decode_old(line)


def _decode_old(line: bytes) -> Event | None:
    try:
        table = msgspec.json.decode(line, type=dict[str, Any])
        event: Event = msgspec.convert(current_event(table), AnyEvent)
        return event
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError, RecursionError):
        return None


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
