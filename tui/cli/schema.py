"""`schema`: print the JSON Schema (2020-12) of a file or of what `plan --json` prints, generated from its type.

Unknown fields are allowed: later versions add some. Descriptions are the docstrings of the types and their fields.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Annotated, Any

import msgspec
import typer

from engine.config.errors import UserError
from engine.config.hooks import hooks, shipped_hooks
from engine.config.settings import documented_fields
from engine.memory.formula.method_plan import PlanReport
from engine.runs.ladder.ladder_state import Ladder
from engine.runs.run.events import AnyEvent
from engine.runs.run.result import SCHEMA_VERSION, Result
from tui.cli import completion, options
from tui.output.console import print_json

DIALECT = "https://json-schema.org/draft/2020-12/schema"
FILES: dict[str, tuple[Any, str]] = {
    "events": (AnyEvent, "one line of events.jsonl"),
    "result": (Result, "result.json of a run"),
    "ladder": (Ladder, "ladder.json of a ladder"),
    "plan": (PlanReport, "output of plan --json"),
}
"""Name of a schema -> type and title; extensions add theirs (`ftbench.schemas`)."""
NAMES = (*FILES, *shipped_hooks("ftbench.schemas"))


def schema(
    name: Annotated[
        str,
        typer.Argument(
            metavar="FILE", help=f"{', '.join(NAMES)}.", autocompletion=completion.offers(lambda home: NAMES)
        ),
    ],
    json: options.Json = False,
) -> None:
    """Print the schema of this name. Raises UserError for an unknown one."""
    print_json(json_schema(name))


def json_schema(name: str) -> dict[str, Any]:
    """The schema of this name. Raises UserError for an unknown one."""
    added = hooks("ftbench.schemas")
    if name not in FILES and name not in added:
        raise UserError(f"unknown schema {name!r}", hint=f"use {', '.join([*FILES, *added])}", code="schema.unknown")
    kind, title = FILES[name] if name in FILES else (added[name].load(), added[name].about or name)
    schema = msgspec.json.schema(kind)
    structs = {
        struct.__name__: struct for struct in _structs(msgspec.Struct) if struct.__module__.startswith("engine.")
    }
    for struct_name, definition in schema["$defs"].items():  # with the docstrings of the type and its fields
        struct = structs[struct_name]
        if struct.__doc__:
            definition["description"] = " ".join(inspect.cleandoc(struct.__doc__).split())
        names = dict(zip(struct.__struct_fields__, struct.__struct_encode_fields__, strict=True))
        for base in reversed(struct.__mro__):
            for field, _, meaning in documented_fields(base) if base.__module__.startswith("engine.") else ():
                if meaning and names.get(field) in definition.get("properties", {}):
                    definition["properties"][names[field]]["description"] = meaning
    return {"$schema": DIALECT, "title": f"ftbench {title}, version {SCHEMA_VERSION}", **_null_last(schema)}


def _null_last(schema: Any) -> Any:
    """The schema with null at the end of each `anyOf`: versions of msgspec differ in the order."""
    if isinstance(schema, list):
        return [_null_last(option) for option in schema]
    if not isinstance(schema, dict):
        return schema
    result = {key: _null_last(value) for key, value in schema.items()}
    if isinstance(choices := result.get("anyOf"), list):
        result["anyOf"] = sorted(choices, key=lambda option: option == {"type": "null"})
    return result


def _structs(kind: type[msgspec.Struct]) -> Iterator[type[msgspec.Struct]]:
    """All imported types that inherit from it."""
    for struct in kind.__subclasses__():
        yield struct
        yield from _structs(struct)
