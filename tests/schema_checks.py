"""Check the files of runs and ladders against their JSON Schemas."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

from tui.cli.schema import json_schema


@cache
def validator(name: str) -> Any:
    return Draft202012Validator(json_schema(name))


def check_files(home: Path) -> int:
    """Validate every file of all runs and ladders below a runs home; returns the number of files."""
    events, result, ladder = map(validator, ("events", "result", "ladder"))
    checked = 0
    for log in home.glob("**/events.jsonl"):
        for line in log.read_text().splitlines():
            events.validate(json.loads(line))
        checked += 1
    for check, name in ((result, "result.json"), (ladder, "ladder.json")):
        for file in home.glob(f"**/{name}"):
            check.validate(json.loads(file.read_text()))
            checked += 1
    return checked
