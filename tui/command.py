"""A key of the bench and what it does; keys and screens that an extension adds (`ftbench.screens`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple


class Command(NamedTuple):
    id: str
    """Name in `config.toml` (`bench.start`); independent of the key."""
    keys: str
    """Default keys, separated by commas."""
    action: str
    """Textual action: the screen's method `action_…`, or `app.…` for one of the app."""
    label: str
    """One or two words for the footer."""
    help: str
    """One sentence for help, palette and tooltip."""
    shown: bool = True
    """Whether the footer shows it; help lists all commands."""
    always: bool = False
    """Whether it also works in dialogs and while text is typed."""
    listed: str = ""
    """Its action from the palette, where that is another one than the key's."""


class AddedKey(NamedTuple):
    """A key of an extension on a screen of the core: the first part of its id, `ladder` of `ladder.try`."""

    command: Command
    act: Callable[[Any], object]
    """Called with the screen (`tui/screens/base.py`)."""
    useful: Callable[[Any], bool] = lambda screen: screen.has_finished_run()
    """Whether it would do something now."""
    before: str = ""
    """Id of the command before which it is listed; else it is the last one."""


def added(command: Command) -> Command:
    """The command with the action of an added key."""
    return command._replace(action=f"extension({command.id!r})")


class ScreenKeys(NamedTuple):
    """What an extension adds to the bench."""

    title: str
    """Of its own screen, in the help."""
    commands: tuple[Command, ...]
    """Of its own screen; their ids begin with the name of the hook."""
    keys: tuple[AddedKey, ...]
    """On other screens."""
    while_typing: tuple[str, ...] = ()
    """Ids of commands of its screen that work while an input line has the focus, which takes characters as text."""
