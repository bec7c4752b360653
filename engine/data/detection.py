"""Detect the format of a dataset; where it is unclear, suggest settings that were tried on the rows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from engine.config.errors import UserError
from engine.config.schema import Data
from engine.data.format import DetectedFormat
from engine.data.recognition import Undecided, recognize
from engine.data.row_limits import RawRow
from engine.data.suggestions import as_options, suggest_prompt, try_settings


def detect(rows: Iterable[RawRow], data: Data) -> DetectedFormat:
    """The format that `data` sets or that the columns suggest. Reads all rows once, and some again for suggestions.

    Raises UserError for an unknown format, and if data.format, data.map or data.separator contradict the columns.
    """
    try:
        found = recognize(rows, data)
    except Undecided as error:
        result = try_settings(rows, data, error.changes)
        if result is None:
            raise
        do = f"{error.intro} {as_options(error.changes)} ({result})"
        raise UserError(error.what, error.where, do, code=error.code) from error
    if found.name != "prompt-completion" or data.map:
        return found
    return replace(found, warnings=[*found.warnings, *suggest_prompt(rows, data, found)])
