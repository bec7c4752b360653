"""Cards one can rent: memory and price. Shipped in `presets/cards.toml`, the user's own beside his configuration."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import msgspec
import platformdirs
import tomli
from msgspec import Meta, Struct, field

from engine.config.errors import UserError
from engine.config.preset_library import shipped_folder


class Card(Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """One kind of card."""

    name: str
    memory: Annotated[float, Meta(gt=0)]
    """GiB that a process may use."""
    price_per_hour: Annotated[float, Meta(ge=0)]
    currency: str = "USD"
    match: list[str] = field(default_factory=list)
    """Whole words of the NVML name that mean this card."""

    @property
    def bytes(self) -> int:
        return int(self.memory * 2**30)


class CardFile(Struct, forbid_unknown_fields=True, frozen=True):
    card: list[Card]


def own_file() -> Path:
    """The user's own list: `$XDG_CONFIG_HOME/ftbench/cards.toml`."""
    return Path(platformdirs.user_config_dir("ftbench")) / "cards.toml"


def list_cards() -> list[Card]:
    """Every known card, the cheapest first; an own one hides a shipped one of its name.

    Raises UserError for a list that cannot be read.
    """
    cards: dict[str, Card] = {}
    for path in (shipped_folder() / "cards.toml", own_file()):
        if path.is_file():
            cards |= {card.name: card for card in _read(path)}
    return sorted(cards.values(), key=lambda card: (card.price_per_hour, card.memory))


def cheapest_for(peak: float, cards: list[Card]) -> Card | None:
    """The cheapest card that holds `peak` bytes, None where none does."""
    return next((card for card in cards if card.bytes >= peak), None)


def named(nvml_name: str, cards: list[Card]) -> Card | None:
    """The listed card that a machine's card is, None where it is not listed. The longest match wins."""
    found = [
        (len(part), card)
        for card in cards
        for part in [card.name, *card.match]
        if re.search(rf"(?<!\w){re.escape(part)}(?!\w)", nvml_name)  # L4 is no part of L40S
    ]
    return max(found, key=lambda pair: pair[0])[1] if found else None


def pick(wanted: str, cards: list[Card]) -> Card:
    """The listed card that somebody means by "a100", "RTX4090" or "H100 80GB".

    Raises UserError where it is none, with the nearest name, or several.
    """
    asked = _words(wanted)
    for fits in _WAYS if asked else ():
        found = [card for card in cards if fits(asked, card)]
        if len(found) == 1:
            return found[0]
        if found:
            several = ", ".join(card.name for card in found)
            raise UserError(f"{wanted!r} could be {several}", "--card", "give more of the name")
    names = {near: card.name for card in cards for near in (*_own_words(card), _squashed(card.name))}
    close = difflib.get_close_matches("".join(asked), names, n=1)
    hint = f"did you mean {names[close[0]]}?" if close else f"listed are {', '.join(card.name for card in cards)}."
    raise UserError(f"no card {wanted!r} is listed", "--card", f"{hint} Others can be added to {own_file()}")


def _words(text: str) -> list[str]:
    return [word for word in re.findall(r"[a-z0-9]+", text.lower()) if word not in ("nvidia", "geforce")]


def _squashed(text: str) -> str:
    return "".join(_words(text))


def _own_words(card: Card) -> set[str]:
    return {word for name in (card.name, *card.match) for word in _words(name)}


_WAYS: tuple[Callable[[list[str], Card], bool], ...] = (
    lambda asked, card: "".join(asked) in {_squashed(name) for name in (card.name, *card.match)},
    lambda asked, card: set(asked) <= _own_words(card),
    lambda asked, card: all(any(own.startswith(word) for own in _own_words(card)) for word in asked),
    lambda asked, card: any("".join(asked) in _squashed(name) for name in (card.name, *card.match)),
)
"""How a name may be meant, the strictest first: whole, by its words, by their beginnings, by a part without spaces."""


def _read(path: Path) -> list[Card]:
    try:
        return msgspec.convert(tomli.loads(path.read_text("utf-8")), CardFile).card
    except (tomli.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as error:
        raise UserError(f"not a list of cards: {error}", str(path), "see presets/cards.toml for one") from error
