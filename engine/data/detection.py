"""The format of a data set, with settings offered where it is not clear, each tried before it is shown."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from engine.config.errors import UserError
from engine.config.schema import Data
from engine.data.format import Format
from engine.data.recognition import Undecided, recognize
from engine.data.row_limits import Raw
from engine.data.suggestions import as_options, suggest_prompt, tried


def detect(rows: Iterable[Raw], data: Data) -> Format:
    """The format that `data` asks for or that the columns show. Reads all rows once, and some again for suggestions.

    Raises UserError when they show none, or when data.format, data.map and data.separator contradict them.
    """
    try:
        found = recognize(rows, data)
    except Undecided as error:
        result = tried(rows, data, error.changes)
        if result is None:
            raise
        do = f"{error.intro} {as_options(error.changes)} ({result})"
        raise UserError(error.what, error.where, do, error.code) from error
    if found.name != "prompt-completion" or data.map:
        return found
    return replace(found, warnings=[*found.warnings, *suggest_prompt(rows, data, found)])
