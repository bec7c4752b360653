"""The list of presets, each with the key that selects it; an invalid one is listed as such."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from textual.content import Content
from textual.widgets import OptionList
from textual.widgets.option_list import Option

from engine.config.text import visible
from tui.selection import MARK
from tui.workbench import app_keys

if TYPE_CHECKING:
    from engine.config.preset_library import PresetEntry


class PresetList(OptionList):
    """Highlights the selected preset."""

    def __init__(self, id: str | None = None) -> None:
        super().__init__(id=id, compact=True)

    def on_resize(self) -> None:
        self.call_after_refresh(self.scroll_to_highlight)

    def show_presets(self, listed: Sequence[PresetEntry], selected: str) -> None:
        """Replace the list and highlight the selected preset."""
        names = [one.name for one in listed]
        keys = app_keys(self)
        prompts = [preset_text(one, keys.of_preset(one.slot), one.name == selected) for one in listed]
        shown = [(option.id, str(option.prompt)) for option in self.options]
        if shown != [(name, prompt.plain) for name, prompt in zip(names, prompts, strict=True)]:
            self.set_options(Option(prompt, id=name) for name, prompt in zip(names, prompts, strict=True))
        if selected in names:
            self.highlighted = names.index(selected)


def preset_text(one: PresetEntry, key: str, selected: bool = False) -> Content:
    """`▸2 LoRA · demo`, or that the preset is invalid. key: the key that selects it, '' if it has none."""
    mark = MARK if selected else " "
    if one.preset is None:
        return Content.styled(visible(f"{mark}! {one.name}: invalid"), "$text-error")
    values = one.preset.values
    text = visible(f"{mark}{key or ' '} {values.get('title') or one.name}")
    return Content.styled(text, "bold" if selected else "")
