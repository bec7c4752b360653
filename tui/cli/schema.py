"""`schema`: print the JSON Schema of a file that ftbench writes."""

from __future__ import annotations

from engine.runs.json_schemas import json_schema
from tui.output.console import print_json


def show(name: str) -> None:
    """Print the schema of events, result or ladder. Raises UserError for an unknown name."""
    print_json(json_schema(name))
