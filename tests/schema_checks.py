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


@cache
def event_validator(kind: str) -> Any:
    """Of the definition that the schema of events names for this type."""
    schema = json_schema("events")
    return Draft202012Validator({"$ref": schema["discriminator"]["mapping"][kind], "$defs": schema["$defs"]})


def check_files(home: Path) -> int:
    """Validate every file of all runs and ladders below a runs home; returns the number of files.

    The first event of each type is validated by the complete schema, which tries the definitions of all types.
    """
    events, result, ladder = map(validator, ("events", "result", "ladder"))
    checked, complete = 0, set()
    for log in home.glob("**/events.jsonl"):
        for line in log.read_text().splitlines():
            event = json.loads(line)
            if event["type"] not in complete:
                events.validate(event)
                complete.add(event["type"])
            event_validator(event["type"]).validate(event)
        checked += 1
    for check, name in ((result, "result.json"), (ladder, "ladder.json")):
        for file in home.glob(f"**/{name}"):
            check.validate(json.loads(file.read_text()))
            checked += 1
    return checked
