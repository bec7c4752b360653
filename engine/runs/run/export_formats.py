"""What an export can write: a kind of artifact with the types of its weights (`ftbench.exporters`).

Adapters and merged weights are the core's. How an extension writes and checks its kind is in its `module`, whose
functions are those of `FormatModule` (`engine/export/format_modules.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from engine.config.errors import UserError
from engine.config.hooks import FIX, load_all


@dataclass(frozen=True)
class ExportFormat:
    """Without torch; its name in `ftbench.exporters` is the `--to` of an export."""

    noun: str
    """`merged weights`, `GGUF`."""
    contents: str
    """What it is, or what loads it: `PEFT adapter`, `safetensors`."""
    default: str
    """Type of the weights without `--type`."""
    types: tuple[str, ...] = ()
    """Types of stored weights; none for an adapter, which is stored as it was trained."""
    own_types: tuple[str, ...] = ()
    """Types that no other kind has, so that the type alone identifies the artifact."""
    is_complete: bool = True
    """Whether it is used without the base model."""
    weights: str = "*.safetensors"
    """The files whose size is that of the artifact."""
    module: str = ""
    """Writes it from merged weights; '' for the kinds of the core."""
    needs_tools: bool = False
    """Whether `ftbench pull` with its name downloads what it needs."""


BUILT_IN = {
    "adapter": ExportFormat("adapter", "PEFT adapter", "f32", is_complete=False),
    "merged": ExportFormat("merged weights", "safetensors", "bf16", ("bf16", "f16", "f32")),
}


@cache
def export_formats() -> dict[str, ExportFormat]:
    """By name, those of the core first. Raises UserError for what is not an ExportFormat, and for a name twice."""
    formats = dict(BUILT_IN)
    found = load_all("ftbench.exporters", "an ExportFormat", lambda loaded: isinstance(loaded, ExportFormat))
    for hook, loaded in found:
        if hook.name in formats:
            raise UserError(f"two kinds of exports are named {hook.name!r}", hook.place, FIX, "extension.name_taken")
        formats[hook.name] = loaded
    return formats


def weight_types() -> list[str]:
    """The types of weights of all formats, without duplicates."""
    return list(dict.fromkeys(weights for known in export_formats().values() for weights in known.types))


def kinds_with_tools() -> list[str]:
    """The formats whose tools `ftbench pull` downloads."""
    return [kind for kind, known in export_formats().items() if known.needs_tools]
