"""The registry of data formats: the modules of `engine.data.formats`."""

from __future__ import annotations

import difflib
import importlib
from functools import cache

from engine.config.data_formats import format_names, module_name
from engine.config.errors import UserError
from engine.data.format import DataFormat


@cache
def data_formats() -> dict[str, DataFormat]:
    """Name -> format, in the order of detection."""
    found = [importlib.import_module(f"engine.data.formats.{module_name(name)}").FORMAT for name in format_names()]
    return {one.name: one for one in sorted(found, key=lambda one: (one.order, one.name))}


def check_name(name: str) -> None:
    """Raise UserError for an unknown data.format."""
    names = ["auto", *data_formats()]
    if name not in names:
        close = difflib.get_close_matches(name, names, 1)
        like = f" (did you mean {close[0]!r}?)" if close else ""
        do = f"use one of {', '.join(names)}"
        raise UserError(f"unknown format {name!r}{like}", "data.format", do, code="data.unknown_format")
