"""Suggested settings: each is tried on rows first, and shown with the result."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable
from itertools import islice
from typing import Any

import msgspec

from engine.config.errors import Notice, UserError
from engine.config.schema import Data
from engine.data.conversation import Example
from engine.data.format import DetectedFormat
from engine.data.recognition import recognize, to_example
from engine.data.row_limits import RawRow
from engine.data.rows import summary_of

TRIED = 300
"""Maximum rows on which a suggestion is tried."""
_TRIED_LENGTH = 32 << 20
"""Maximum total characters of these rows."""
_LIKELY_PROMPT = ("context", "passage", "document", "schema", "input", "choices", "options", "text", "title")
"""Names of columns that usually belong to the prompt."""
_BARE = re.compile(r"[A-Za-z_][\w.-]*")


def try_settings(rows: Iterable[RawRow], data: Data, changes: dict[str, Any]) -> str | None:
    """The result of changed settings ("299 of the first 300 rows usable"); None if no row is usable."""
    sample = _first_rows(rows)
    try:
        found = recognize(sample, msgspec.structs.replace(data, **changes))
        trained = sum(isinstance(to_example(raw, found), Example) for raw in sample)
    except UserError:
        return None
    if not trained:
        return None
    total = summary_of(rows).rows
    rows_ = f"the first {len(sample):,} rows" if total > len(sample) else f"{len(sample):,} rows"
    return f"{trained:,} of {rows_} usable"


def _first_rows(rows: Iterable[RawRow]) -> list[RawRow]:
    """At most TRIED rows, fewer if they are long."""
    sample: list[RawRow] = []
    length = 0
    for raw in islice(iter(rows), TRIED):
        sample.append(raw)
        length += sum(len(str(value)) for value in raw.values.values())
        if length > _TRIED_LENGTH:
            break
    return sample


def as_options(changes: dict[str, Any]) -> str:
    """The settings as shell options: `--set data.format=chosen`. A map becomes one option per role."""
    flat = {f"map.{role}": source for role, source in changes.get("map", {}).items()}
    flat |= {key: value for key, value in changes.items() if key != "map" and (key, value) != ("format", "auto")}
    return " ".join(f"--set {shlex.quote(f'data.{key}={_value(value)}')}" for key, value in flat.items())


def suggest_prompt(rows: Iterable[RawRow], data: Data, found: DetectedFormat) -> list[Notice]:
    """Suggest adding an ignored column to the prompt if its name indicates context."""
    likely = [name for name, role in found.roles.items() if role == "ignored" and name.lower() in _LIKELY_PROMPT]
    prompt, completion = found.parts["prompt"].lone, found.parts["completion"].lone
    if not likely or prompt is None or completion is None:
        return []
    changes = {"prompt": f"{{{likely[0]}}}\n\n{{{prompt}}}", "completion": completion}
    result = try_settings(rows, data, {"map": changes})
    if result is None:
        return []
    text = f"to add column {likely[0]} to the prompt: {as_options({'map': changes})} ({result})"
    return [Notice("data.prompt_suggestion", text)]


def _value(value: Any) -> str:
    """A TOML value; bare words are not quoted."""
    text = str(value)
    if _BARE.fullmatch(text) and text not in ("true", "false", "inf", "nan"):
        return text
    return json.dumps(text, ensure_ascii=False)
