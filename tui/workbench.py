"""What screens and widgets need of the app that shows them, so that none of them imports the app."""

from __future__ import annotations

from typing import Protocol, cast

from textual.message_pump import MessagePump

from tui.keymap import CommandKeys
from tui.settings import Settings


class WorkbenchApp(Protocol):
    """An app with the user's settings; everything else comes from Textual's own `App`."""

    settings: Settings


def app_settings(node: MessagePump) -> Settings:
    """The user's settings, as the app of a screen or widget has them."""
    return cast(WorkbenchApp, node.app).settings


def app_keys(node: MessagePump) -> CommandKeys:
    """The keys of the commands, for the sentences of a screen or widget."""
    return CommandKeys(app_settings(node).keys)
