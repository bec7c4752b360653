"""What each setting accepts and means, read from the schema: for documentation, and for editing a value as text."""

from __future__ import annotations

import ast
import inspect
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import msgspec

from engine.config import schema
from engine.config.method_specs import method_names
from engine.config.metric_specs import metric_names
from engine.config.preset import parse_overrides

NAMED_TYPES = {
    "Positive": "int, ≥ 1",
    "NotNegative": "int, ≥ 0",
    "DeviceName": "str",
    "Share": "float, ≥ 0 and < 1",
    "Rate": "float, > 0 and ≤ 1",
    "FormatName": ", ".join(schema.DATA_FORMATS),
}


@dataclass(frozen=True)
class SettingSpec:
    """One setting of the schema."""

    key: str
    """Dotted: `train.batch`."""
    accepts: str
    """Type and range, or the choices: `int, ≥ 1`, `auto, bf16, mixed, fp32`."""
    default: Any
    """The schema's default; that of a method may differ."""
    meaning: str
    """One or two sentences."""


@cache
def setting_specs() -> dict[str, SettingSpec]:
    """Every setting by its dotted key, in the order of the schema; methods and metrics of packages are included."""
    names = {"method": ", ".join(method_names()), "evaluation.metric": ", ".join(metric_names())}
    own = [spec for spec in fields_of(schema.Config) if spec.key not in schema.SECTIONS]
    sections = [spec for section, struct in schema.SECTIONS.items() for spec in fields_of(struct, f"{section}.")]
    return {spec.key: replace(spec, accepts=names.get(spec.key, spec.accepts)) for spec in (*own, *sections)}


def fields_of(struct: type[msgspec.Struct], prefix: str = "") -> Iterator[SettingSpec]:
    """The fields of a section, parsed from its source: the docstring below a field is its meaning."""
    source = ast.parse(inspect.getsource(struct)).body[0]
    assert isinstance(source, ast.ClassDef)
    for node, following in zip(source.body, [*source.body[1:], None], strict=True):
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        docstring = following.value if isinstance(following, ast.Expr) else None
        meaning = str(docstring.value) if isinstance(docstring, ast.Constant) else ""
        name = node.target.id
        yield SettingSpec(f"{prefix}{name}", _accepts(node.annotation), getattr(struct(), name), _one_line(meaning))


def parse_setting(key: str, text: str) -> Any:
    """Parse a text into a value, as with `--set KEY=TEXT`. It is not checked here: `resolve` does."""
    return parse_overrides([f"{key}={text}"])[key]


def setting_text(value: Any) -> str:
    """A value as a text that `parse_setting` reads back; '' for one that is not set."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        pairs = ", ".join(f"{name} = {_quoted(item)}" for name, item in value.items())
        return f"{{ {pairs} }}" if value else "{}"
    if isinstance(value, list):
        return _quoted(value)
    return _string_text(value) if isinstance(value, str) else str(value)


def _string_text(value: str) -> str:
    """Bare where it is read back as the same string, else quoted."""
    is_bare = value == value.strip() and parse_setting("title", value) == value
    return value if is_bare else _quoted(value)


def _quoted(value: Any) -> str:
    """A string or list as in TOML."""
    return json.dumps(value, ensure_ascii=False)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _accepts(annotation: ast.expr) -> str:
    """A type annotation for readers of TOML: `int, ≥ 1 and ≤ 9`, `auto, bf16, fp32`."""
    match annotation:
        case ast.Constant(value=None):
            return ""
        case ast.BinOp(left=left, right=right):
            return " or ".join(filter(None, map(_accepts, (left, right))))
        case ast.Subscript(value=ast.Name(id="Literal"), slice=chosen):
            return ast.unparse(chosen).strip("()").replace("'", "")
        case ast.Subscript(value=ast.Name(id="Annotated"), slice=ast.Tuple(elts=[kind, ast.Call(keywords=bounds)])):
            return f"{_accepts(kind)}, {_range({bound.arg: ast.unparse(bound.value) for bound in bounds})}"
        case ast.Subscript(value=ast.Name(id="dict")):
            return "table"
        case ast.Subscript(value=ast.Name(id="list")):
            return "list"
        case _:
            return NAMED_TYPES.get(name := ast.unparse(annotation), name)


def _range(bounds: dict[str | None, str]) -> str:
    low = f"≥ {bounds['ge']}" if "ge" in bounds else f"> {bounds['gt']}" if "gt" in bounds else ""
    high = f"≤ {bounds['le']}" if "le" in bounds else f"< {bounds['lt']}" if "lt" in bounds else ""
    return " and ".join(filter(None, (low, high)))
