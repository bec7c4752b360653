"""Message handlers that Textual finds by name: a renamed message must not leave its handler behind, never called."""

from __future__ import annotations

import importlib
from typing import TypeVar

from places import ROOT
from textual.message import Message
from textual.message_pump import MessagePump

C = TypeVar("C")


def test_every_handler_has_a_message() -> None:
    for file in sorted((ROOT / "tui").rglob("*.py")):
        importlib.import_module(".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"))
    known = {message.handler_name for message in subclasses(Message)} | {"on_event"}
    ours = [pump for pump in subclasses(MessagePump) if pump.__module__.startswith("tui.")]
    handlers = {f"{pump.__name__}.{name}" for pump in ours for name in vars(pump) if name.startswith("on_")}
    assert len(handlers) > 20
    assert not {handler for handler in handlers if handler.partition(".")[2] not in known}


def subclasses(base: type[C]) -> set[type[C]]:
    """All subclasses, at any depth."""
    below = set(base.__subclasses__())
    return below.union(*(subclasses(subclass) for subclass in below))
