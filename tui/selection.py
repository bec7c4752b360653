"""The selection on the bench: a preset, and what was changed on top of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from engine.config.schema import DESCRIPTIVE_KEYS, OF_ONE_MODEL

if TYPE_CHECKING:  # imported where they are used: the first frame has a selection, but no preset was read yet
    from engine.config.preset import EffectiveConfig
    from engine.config.settings import Flat

MARK = "▸"
"""In front of the selected line of a list."""
METHOD, MODEL, DATA = "method", "model.id", "data.id"
RATE = "train.learning_rate"
DEVICE = "hardware.device"


@dataclass(frozen=True)
class Selection:
    """A preset by name or path, and the settings that are changed on top of it."""

    preset: str = "demo-lora"
    settings: Flat = field(default_factory=dict)

    def with_preset(self, name: str) -> Selection:
        """Another preset with its own method and model; the selected data and device are kept."""
        return Selection(name, {key: value for key, value in self.settings.items() if key in (DATA, DEVICE)})

    def with_setting(self, key: str, value: Any) -> Selection:
        """Another value of a setting; None restores that of the preset or the default.

        With another model, the revision and the run to start from are dropped: they belong to the previous one.
        """
        from engine.config.preset import EXCLUSIVE

        replaced = (key, EXCLUSIVE.get(key), *(OF_ONE_MODEL if key == MODEL else ()))
        kept = {name: chosen for name, chosen in self.settings.items() if name not in replaced}
        return Selection(self.preset, kept if value is None else {**kept, key: value})

    @property
    def method(self) -> str | None:
        """The selected method; None for the method of the preset."""
        return self.settings.get(METHOD)

    @property
    def data(self) -> str | None:
        """The selected dataset; None for the dataset of the preset."""
        return self.settings.get(DATA)

    def overrides(self) -> Flat:
        """The settings except the method."""
        return {key: value for key, value in self.settings.items() if key != METHOD}

    def read_overrides(self) -> Flat:
        """The overrides that the selected method reads: others wait until a method that reads them is selected."""
        from engine.config.method_specs import reads

        return {key: value for key, value in self.overrides().items() if self.method is None or reads(self.method, key)}

    def effective(self) -> EffectiveConfig:
        """The complete configuration. Raises UserError for an invalid combination."""
        from engine.config.preset_library import resolve_preset

        return resolve_preset(self.preset, self.method, self.read_overrides(), given_by="selection")

    @property
    def name(self) -> str:
        from engine.config.preset_library import preset_name

        return preset_name(self.preset)


def device_name(device: object) -> str:
    """A value of `hardware.device` in words: `GPU 0`, `CPU`, `automatic`."""
    text = str(device)
    return f"GPU {text}" if text.isdecimal() else {"cpu": "CPU", "auto": "automatic"}.get(text, text)


def changes(before: EffectiveConfig | None, after: EffectiveConfig, same_preset: bool = False) -> list[str]:
    """`train.batch 16 → 8` for every key in which two configurations differ.

    `same_preset`: another method of one preset names its learning rate and what sets it, also where the rate is the
    same: methods need different ones.
    """
    from engine.config.quantities import rate
    from engine.config.settings import flatten
    from tui.format import setting

    if before is None:
        return []
    old, new = flatten(before.config), flatten(after.config)
    ignored = [*DESCRIPTIVE_KEYS, *(["train.epochs"] if new["train.steps"] else [])]  # which replace the epochs
    different = [key for key in new if key not in ignored and old[key] != new[key]]
    changed = {key: f"{key} {setting(old[key])} → {setting(new[key])}" for key in different}
    if DEVICE in changed:
        changed[DEVICE] = f"device {device_name(old[DEVICE])} → {device_name(new[DEVICE])}"
    if not same_preset or "method" not in changed:
        return list(changed.values())
    named = f"learning rate {rate(new[RATE])} ({after.origins.get(RATE, 'default')})"
    return [changed.pop("method"), named, *(text for key, text in changed.items() if key != RATE)]
