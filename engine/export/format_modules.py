"""How an extension writes and checks its kind of artifact."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast

from engine.config.errors import UserError
from engine.runs.run.export_formats import export_formats


class FormatModule(Protocol):
    """What the `module` of an `ExportFormat` has."""

    LIBRARY: str
    """The name that the Hub knows."""
    TITLE: str
    """In the model card, before the name of the base: `A GGUF file of a model fine-tuned from`."""
    USAGE: str
    """In the model card: how it is loaded, as Markdown."""

    def require_tools(self) -> object:
        """Raise UserError if what it needs is missing."""

    def pull_tools(self, progress: Any) -> Path:
        """Download the tools; returns their folder."""

    def merged_type(self, weights: str) -> str:
        """Type of the merged weights that these are made from."""

    def write(self, run: Any, weights: str, merged: Path, folder: Path, progress: Any) -> None:
        """Write the artifact from a folder with a merged model. `run`: an `ExportSource`."""

    def check(self, job: Any, progress: Any) -> Any:
        """Load it, compare logits, answer the test rows (`CheckJob` -> `ArtifactCheck`), in a process of its own."""


def format_module(kind: str) -> FormatModule:
    """The module that writes this kind. Raises UserError if no package adds it, or if the core writes it."""
    known = export_formats().get(kind)
    if known is None or not known.module:
        raise UserError(f"no extension writes {kind!r}", "ftbench.exporters", "install its package", "export.kind")
    return cast(FormatModule, import_module(known.module))
