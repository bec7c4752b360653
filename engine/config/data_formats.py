"""Names of the data formats, from the file names in `engine/data/formats`; nothing is imported."""

from __future__ import annotations

from functools import cache
from pathlib import Path

_FOLDER = Path(__file__).parents[1] / "data" / "formats"


@cache
def format_names() -> tuple[str, ...]:
    """`prompt-completion` for `prompt_completion.py`, and so on, sorted."""
    modules = (path.stem for path in _FOLDER.glob("*.py") if not path.stem.startswith("_"))
    return tuple(sorted(module.replace("_", "-") for module in modules))


def module_name(name: str) -> str:
    """The module name of a format: `prompt_completion` for `prompt-completion`."""
    return name.replace("-", "_")
