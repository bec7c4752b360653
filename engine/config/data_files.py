"""Names of datasets: data files and their kinds, Hub ids, and the data formats."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

TEXT_KINDS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".txt")
"""Kinds of text file, which may be gzipped."""
KINDS = (*TEXT_KINDS, ".parquet")
READABLE = f"{' '.join(KINDS)}, the text formats also as .gz"
"""The supported kinds, as errors list them."""
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def data_file_kind(name: str | Path) -> str | None:
    """The suffix that says how to read a file (`.csv` for `a.CSV.gz`); None for other files."""
    suffixes = [suffix.lower() for suffix in Path(name).suffixes]
    if suffixes[-1:] == [".gz"]:
        return suffixes[-2] if suffixes[-2:-1] and suffixes[-2] in TEXT_KINDS else None
    return suffixes[-1] if suffixes and suffixes[-1] in KINDS else None


def is_data_file(name: str | Path) -> bool:
    """Whether ftbench reads files of this name."""
    return data_file_kind(name) is not None


def is_hub_id(name: str) -> bool:
    """Whether a name has the form owner/name."""
    return bool(_HUB_ID.fullmatch(name))


_FOLDER = Path(__file__).parents[1] / "data" / "formats"


@cache
def format_names() -> tuple[str, ...]:
    """`prompt-completion` for `prompt_completion.py`, and so on, sorted."""
    modules = (path.stem for path in _FOLDER.glob("*.py") if not path.stem.startswith("_"))
    return tuple(sorted(module.replace("_", "-") for module in modules))
