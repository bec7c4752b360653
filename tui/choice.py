"""The selection on the bench: a preset, and what was changed on top of it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # imported where they are used: the first frame has a selection, but no preset was read yet
    from engine.config.preset import Effective, Flat

MARK = "▸"
"""In front of the selected line of a list."""
NOT_COMPARED = ("title", "about", "slot")
"""Keys that describe a preset and configure nothing."""


@dataclass(frozen=True)
class Choice:
    """A preset by name or path, with overrides for method, model, data and single keys; None keeps the preset's."""

    preset: str = "demo-lora"
    method: str | None = None
    model: str | None = None
    data: str | None = None
    settings: Flat = field(default_factory=dict)

    def with_preset(self, name: str) -> Choice:
        """Another preset with its own method and model; the selected data is kept."""
        return Choice(preset=name, data=self.data)

    def with_method(self, method: str) -> Choice:
        return replace(self, method=method)

    def with_data(self, data: str | None) -> Choice:
        return replace(self, data=data)

    def overrides(self) -> Flat:
        """Everything except the method, as key = value pairs."""
        given = {"model.id": self.model, "data.id": self.data}
        return {**{key: value for key, value in given.items() if value is not None}, **self.settings}

    def effective(self) -> Effective:
        """The complete configuration. Raises UserError for an invalid combination."""
        from engine.config.preset_library import effective

        return effective(self.preset, self.method, self.overrides())

    @property
    def name(self) -> str:
        from engine.config.preset_library import preset_name

        return preset_name(self.preset)


def changes(before: Effective | None, after: Effective) -> list[str]:
    """`train.batch 16 → 8` for every key in which two configurations differ."""
    from engine.config.preset import flatten
    from tui.format import setting

    if before is None:
        return []
    old, new = flatten(before.config), flatten(after.config)
    different = [key for key in new if key not in NOT_COMPARED and old[key] != new[key]]
    return [f"{key} {setting(old[key])} → {setting(new[key])}" for key in different]
