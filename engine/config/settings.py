"""Settings by dotted key: their values in a configuration and as text, and what each accepts and means."""

from __future__ import annotations

import ast
import inspect
import json
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import msgspec
import tomli

from engine.config.errors import UserError
from engine.config.method_specs import method_names
from engine.config.metric_specs import metric_names
from engine.config.schema import DATA_FORMATS, SECTIONS, TOP_KEYS, Config, CoreConfig
from engine.config.section import Section

Flat = dict[str, Any]
"""Dotted key -> value: {"train.batch": 16}."""


@cache
def known_keys() -> Sequence[str]:
    return [*TOP_KEYS, *(f"{section}.{key}" for section, kind in SECTIONS.items() for key in kind.__struct_fields__)]


def flatten(config: Config) -> Flat:
    """Every value of a configuration by dotted key."""
    table = msgspec.to_builtins(config)
    in_sections = {f"{section}.{key}": value for section in SECTIONS for key, value in table[section].items()}
    return {key: table[key] for key in TOP_KEYS} | in_sections


def nested(values: Flat) -> dict[str, Any]:
    """The inverse of `flatten`: {"train.batch": 8} -> {"train": {"batch": 8}}."""
    table: dict[str, Any] = {}
    for key, value in values.items():
        section, dot, name = key.partition(".")
        if dot:
            table.setdefault(section, {})[name] = value
        else:
            table[key] = value
    return table


def with_settings(config: Config, settings: Mapping[str, Any]) -> Config:
    """The configuration with other values for some dotted keys. The values are not checked."""
    for key, value in settings.items():
        section, _, name = key.partition(".")
        changed = msgspec.structs.replace(getattr(config, section), **{name: value}) if name else value
        config = msgspec.structs.replace(config, **{section: changed})
    return config


def parse_overrides(pairs: Iterable[str], where: str = "--set") -> Flat:
    """`train.batch=8` -> {"train.batch": 8}; a value is TOML, else a bare string. `where`: the option's name.

    Raises UserError for a pair that is not KEY=VALUE, and for a key with two values.
    """
    result: Flat = {}
    for pair in pairs:
        key, equals, raw = pair.partition("=")
        key = key.strip()
        if not equals or not key:
            problem, hint = f"{pair!r} is not KEY=VALUE", "for example train.batch=8"
            raise UserError(problem, where, hint, code="cli.invalid_setting")
        try:
            value = tomli.loads(f"value = {raw}")["value"]
        except (ValueError, KeyError, RecursionError):  # TOMLDecodeError, and integers with too many digits for Python
            value = raw.strip()
        role = key.removeprefix("data.map.")
        if role != key and isinstance(value, str):
            key, value = "data.map", {role: value}
        if key == "data.map" and isinstance(value, dict):
            mapped = result.setdefault(key, {})
            for name in value:
                set_once(mapped, name, value[name], f"data.map.{name}", where)
        else:
            set_once(result, key, value, key, where)
    return result


def set_once(table: Flat, name: str, value: Any, key: str, where: str) -> None:
    """Set a value. Raises UserError where it has another one already: the last must not win silently."""
    if (known := table.setdefault(name, value)) is not value and known != value:  # NaN differs from itself
        problem = f"different values for {key} ({table[name]!r} and {value!r})"
        raise UserError(problem, where, "keep one of them", code="preset.conflicting_values")


NAMED_TYPES = {
    "Positive": "int, ≥ 1",
    "NotNegative": "int, ≥ 0",
    "DeviceName": "str",
    "Share": "float, ≥ 0 and < 1",
    "Rate": "float, > 0 and ≤ 1",
    "FormatName": ", ".join(DATA_FORMATS),
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


@cache
def setting_specs() -> dict[str, SettingSpec]:
    """Every setting by its dotted key, in the order of the schema; methods and metrics of packages are included."""
    names = {"method": ", ".join(method_names()), "evaluation.metric": ", ".join(metric_names())}
    own = [spec for spec in fields_of(CoreConfig) if spec.key not in SECTIONS]
    sections = [spec for section, struct in SECTIONS.items() for spec in fields_of(struct, f"{section}.")]
    return {spec.key: replace(spec, accepts=names.get(spec.key, spec.accepts)) for spec in (*own, *sections)}


def fields_of(struct: type[msgspec.Struct], prefix: str = "") -> Iterator[SettingSpec]:
    for name, annotation, meaning in documented_fields(struct):
        yield SettingSpec(f"{prefix}{name}", _accepts(annotation), getattr(struct(), name), meaning)


def documented_fields(kind: type) -> Iterator[tuple[str, ast.expr, str]]:
    """Name, annotation and docstring, '' without one, of each field of a class and its bases, from their source."""
    for base in kind.__bases__:
        if issubclass(base, Section) and base is not Section:
            yield from documented_fields(base)
    source = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    assert isinstance(source, ast.ClassDef)
    for node, following in zip(source.body, [*source.body[1:], None], strict=True):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id != "traits":
            docstring = following.value if isinstance(following, ast.Expr) else None
            meaning = str(docstring.value) if isinstance(docstring, ast.Constant) else ""
            yield node.target.id, node.annotation, " ".join(meaning.split())


def _accepts(annotation: ast.expr) -> str:
    """A type annotation for readers of TOML: `int, ≥ 1 and ≤ 9`, `auto, bf16, fp32`."""
    match annotation:
        case ast.Constant(value=None):
            return ""
        case ast.BinOp(left=left, right=right):
            return " or ".join(filter(None, map(_accepts, (left, right))))
        case ast.Subscript(value=ast.Name(id="Literal"), slice=chosen):
            return ast.unparse(chosen).strip("()").replace("'", "")
        case ast.Subscript(value=ast.Name(id="Annotated"), slice=ast.Tuple(elts=[kind, *metadata])):
            signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
            bounds = [bound for call in metadata if isinstance(call, ast.Call) for bound in call.keywords]
            limits = [f"{signs[bound.arg]} {ast.unparse(bound.value)}" for bound in bounds if bound.arg in signs]
            return ", ".join(filter(None, (_accepts(kind), " and ".join(limits))))
        case ast.Subscript(value=ast.Name(id="dict")):
            return "table"
        case ast.Subscript(value=ast.Name(id="list")):
            return "list"
        case _:
            return NAMED_TYPES.get(name := ast.unparse(annotation), name)


def parse_setting(key: str, text: str) -> Any:
    """Parse a text into a value, as with `--set KEY=TEXT`. It is not checked here: `resolve` does."""
    return parse_overrides([f"{key}={text}"])[key]


def setting_text(value: Any) -> str:
    """A value as a text that `parse_setting` reads back; '' for None. Strings and lists are quoted as in TOML, except
    strings that `parse_setting` reads back without quotes.
    """
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        pairs = ", ".join(f"{name} = {json.dumps(item, ensure_ascii=False)}" for name, item in value.items())
        return f"{{ {pairs} }}" if value else "{}"
    if isinstance(value, list):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, str):
        is_bare = value == value.strip() and parse_setting("title", value) == value
        return value if is_bare else json.dumps(value, ensure_ascii=False)
    return str(value)
