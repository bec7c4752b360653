"""Keys that the user assigns in `config.toml`: their display, their validity and conflicts between them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from textual.keys import KEY_NAME_REPLACEMENTS, Keys, key_to_character

from tui.commands import TABLES, all_commands

RESERVED_KEYS = ("ctrl+a", "ctrl+b", "ctrl+c", "ctrl+s", "ctrl+q", "ctrl+z")
"""Used by tmux, screen, and the terminal's flow control and job control."""

MODIFIERS = {"ctrl", "shift", "alt", "super", "hyper", "meta"}

PUNCTUATION = {"question_mark": "?", "slash": "/", "backslash": "\\", "colon": ":"}
"""Textual's name of a key -> its character."""

WHILE_TYPING = ("try.back", *(command.id for command in TABLES["picker"]))
"""Commands that work while an input line has the focus, which takes characters as text."""

FIRST_PRESET = "preset.1"
"""In the line of keys it stands for all keys of presets."""
DEFAULT_KEYS = {command.id: command.keys for command in all_commands()}


class CommandKeys:
    """The key of each command: the user's own, else the default. Sentences that name a key take it from here."""

    def __init__(self, user: Mapping[str, str] | None = None) -> None:
        """`user`: command id -> keys, the table `[keys]` of config.toml."""
        self._user = user or {}

    def of(self, id: str) -> str:
        """Display name of a command's first key."""
        return displayed_key(self.all_of(id).partition(",")[0].strip())

    def all_of(self, id: str) -> str:
        """All keys of a command, separated by commas, with Textual's names."""
        return self._user.get(id) or DEFAULT_KEYS[id]

    def of_preset(self, slot: int | None) -> str:
        """Display name of the key that selects the preset with this slot; '' for a preset without one."""
        return self.of(f"preset.{slot}") if slot else ""

    @property
    def presets(self) -> str:
        """`1-9`; where the user has changed one of these keys, the key of the list of presets."""
        slots = [id for id in DEFAULT_KEYS if id.startswith("preset.") and id[-1].isdigit()]
        if any(self.all_of(id) != DEFAULT_KEYS[id] for id in slots):
            return self.of("bench.presets")
        return f"{self.of(slots[0])}-{self.of(slots[-1])}"


def displayed_key(key: str) -> str:
    """The key as it is displayed: `?` for Textual's `question_mark`."""
    modifiers, plus, name = key.rpartition("+")
    return f"{modifiers}{plus}{PUNCTUATION.get(name, name)}"


def key_conflicts(user_keys: Mapping[str, str]) -> Iterator[str]:
    """Problems in the user's keys: reserved by the terminal, invalid, text, or bound to two commands of one screen."""
    for name, keys in user_keys.items():
        key_names = [key.strip() for key in keys.split(",")]
        if name in WHILE_TYPING and all(map(is_typed_character, key_names)):
            yield f"keys: {name}: an input line takes {keys} as text; choose a key such as ctrl+x [keys.text]"
        for key in key_names:
            if key in RESERVED_KEYS:
                yield f"keys: {name}: {key} is reserved by tmux, screen or the terminal; choose another [keys.reserved]"
            elif not is_key(key):
                yield f"keys: {name}: invalid key {key!r}; use one character or a name such as ctrl+x [keys.invalid]"
    for group in TABLES:
        command_of: dict[str, str] = {}
        for command in (*TABLES[group], *(TABLES["app"] if group != "app" else ())):
            for key in filter(None, map(str.strip, user_keys.get(command.id, command.keys).split(","))):
                other = command_of.setdefault(key, command.id)
                if other != command.id and {other, command.id} & set(user_keys):
                    yield f"keys: {key} is bound to both {other} and {command.id}; change one of them [keys.conflict]"


def is_typed_character(key: str) -> bool:
    """Whether an input line takes the key as a character."""
    character = key if len(key) == 1 else key_to_character(key)
    return character is not None and character.isprintable()


def is_key(name: str) -> bool:
    """Whether a terminal can send the key: one character, or a key name of Textual, with modifiers such as ctrl."""
    *modifiers, key = name.split("+") if len(name) > 1 else [name]
    key_names = {*(key.value for key in Keys), *KEY_NAME_REPLACEMENTS.values()}
    known = len(key) == 1 or key in key_names or key_to_character(key) is not None
    return known and set(modifiers) <= MODIFIERS
