"""Every preset with the key that selects it; a broken one stands among them and harms nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from textual.content import Content
from textual.widgets import OptionList
from textual.widgets.option_list import Option

from engine.config.text import visible
from tui.choice import MARK

if TYPE_CHECKING:
    from engine.config.preset_library import PresetEntry


class PresetList(OptionList):
    """Shows the chosen one highlighted."""

    def __init__(self, id: str | None = None) -> None:
        super().__init__(id=id, compact=True)

    def on_resize(self) -> None:
        self.call_after_refresh(self.scroll_to_highlight)

    def show_presets(self, listed: Sequence[PresetEntry], chosen: str) -> None:
        """Replace the list."""
        names = [one.name for one in listed]
        prompts = [preset_text(one, one.name == chosen) for one in listed]
        shown = [(option.id, str(option.prompt)) for option in self.options]
        if shown != [(name, prompt.plain) for name, prompt in zip(names, prompts, strict=True)]:
            self.set_options(Option(prompt, id=name) for name, prompt in zip(names, prompts, strict=True))
        if chosen in names:
            self.highlighted = names.index(chosen)


def preset_text(one: PresetEntry, taken: bool = False) -> Content:
    """`▸2 LoRA · demo`, or what cannot be read."""
    mark = MARK if taken else " "
    if one.preset is None:
        return Content.styled(visible(f"{mark}! {one.name}: broken"), "$text-error")
    values = one.preset.values
    text = visible(f"{mark}{one.slot or ' '} {values.get('title') or one.name}")
    return Content.styled(text, "bold" if taken else "")
