"""Combine defaults, a preset file and the command line into one checked configuration with the origin of each value."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import tomli

from engine.config.errors import Notice, UserError
from engine.config.files import read_small
from engine.config.hooks import hooks
from engine.config.method_specs import method_names, method_spec, readers, reads, steps_in_backward
from engine.config.metric_specs import metric_names
from engine.config.schema import DATA_FORMATS, DEVICE_FORMS, SECTIONS, Config
from engine.config.settings import Flat, known_keys, nested, set_once
from engine.config.text import suggestion

COMMAND_LINE = "command line"
"""Origin of values that override a preset's."""
EXCLUSIVE = {"train.epochs": "train.steps", "train.steps": "train.epochs"}
"""Key -> the key that it replaces in an earlier layer."""
SHOW_KEYS = "`ftbench presets show demo-lora` prints every key"


@dataclass(frozen=True)
class Preset:
    """A preset as it was read: its name, its values, and its text, in which errors point at lines."""

    name: str
    values: Flat
    text: str = ""

    def where(self, key: str) -> str:
        """`name line 7 (train.batch)`; without the line where the text does not set the key."""
        if not key:
            return self.name
        line = _line_of(self.text, key)
        return f"{self.name} line {line} ({key})" if line else f"{self.name} ({key})"


Layers = list[tuple[str, Preset]]
"""Origin and values of the layers of a configuration: the method's defaults, the preset, the overrides. Later layers
take precedence."""


@dataclass(frozen=True)
class EffectiveConfig:
    """A configuration with the origin of every value, and notices on what was left out."""

    config: Config
    origins: dict[str, str]
    notices: list[Notice] = field(default_factory=list)


def read_preset(path: Path) -> Preset:
    """Read and check one TOML file.

    Raises UserError for invalid TOML, unknown keys, invalid values, and keys that the preset's method does not read.
    """
    name = path.stem
    try:
        text = read_small(path).decode("utf-8")
        table = tomli.loads(text)
    except UnicodeDecodeError as error:
        problem = f"invalid UTF-8 at byte {error.start}"
        raise UserError(problem, name, "save the preset as UTF-8", code="preset.not_utf8") from error
    except (ValueError, RecursionError) as error:  # TOMLDecodeError, and integers with too many digits for Python
        example = "see `ftbench presets show demo-lora` for a complete preset"
        raise UserError(f"invalid TOML ({error})", name, example, code="preset.invalid_toml") from error
    except OSError as error:
        problem = f"cannot read the preset ({error.strerror})"
        raise UserError(problem, str(path), "check the path", code="preset.unreadable") from error

    values: Flat = {}
    for key, value in table.items():
        if isinstance(value, dict):
            values |= {f"{key}.{inner}": inner_value for inner, inner_value in value.items()} or {key: {}}
        elif key in SECTIONS:
            location, hint = f"{name} line {_line_of(text, key)} ({key})", f"write [{key}] above its keys"
            raise UserError(f"{key} must be a table", location, hint, code="preset.not_a_table")
        else:
            values[key] = value
    preset = Preset(name, values, text)
    check_keys(preset)
    method = values.get("method", Config().method)
    for key in values:
        if method in method_names() and not reads(method, key):
            problem = f"{key} is read by {' and '.join(readers(key))} only, and the method is {method}"
            raise UserError(problem, preset.where(key), "remove it or change the method", code="preset.unread_key")
    resolve(preset)
    return preset


def _line_of(text: str, key: str) -> int:
    """The line of a preset's text that sets a dotted key, from 1; 0 where none does."""
    section, _, name = key.partition(".")
    wanted_table, wanted_name = (section, name) if name else ("", section)
    table = ""
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if match := re.match(r"\[\s*([^\]]+?)\s*\]", stripped):
            table = match.group(1)
            if not name and table == key:
                return number
        left = stripped.partition("=")[0].strip().strip("\"'")
        if (table == wanted_table and left == wanted_name) or (not table and left == key):
            return number
    return 0


def check_keys(preset: Preset) -> None:
    """Raise UserError for a key that is not in the schema, with the nearest known key, else all keys of its section.

    The nearest key has the same name in another section, else a similar name. Sections are not compared: because of
    them, all keys of one section would be similar.
    """
    known = [*known_keys(), *SECTIONS]
    for key in preset.values:
        if key in known:
            continue
        section, _, name = key.rpartition(".")
        same_section = [other for other in known if other.startswith(f"{section}.")]
        by_name = {_name(other): other for other in reversed([*same_section, *known])}  # the first of equal names
        similar = [_name(other) for other in same_section or known]
        close = [name] if name in by_name else difflib.get_close_matches(name, similar, n=1)
        meant = f" (did you mean {by_name[close[0]]}?)" if close else ""
        hint = SHOW_KEYS if close or not same_section else f"keys of {section}: {', '.join(map(_name, same_section))}"
        raise UserError(f"unknown key {key}{meant}", preset.where(key), hint, code="preset.unknown_key")


def _name(key: str) -> str:
    return key.rpartition(".")[2]


def resolve(
    preset: Preset, method: str | None = None, overrides: Flat | None = None, given_by: str = COMMAND_LINE
) -> EffectiveConfig:
    """Combine defaults, the method's defaults, the preset and the overrides; later ones take precedence.

    `given_by`: what sets the overrides, the origin of their values. A key that the chosen method does not read is an
    error among the overrides; it is left out with a notice where the preset sets it for another method. A preset's
    single learning rate belongs to its own method: another method uses its default, with a notice.
    """
    given = dict(overrides or {})
    check_keys(Preset(given_by, given))
    own_method = preset.values.get("method", Config().method)
    if method:
        set_once(given, "method", method, "method", given_by)
    chosen = method or given.get("method") or own_method
    if chosen not in method_names():
        layer = Preset(given_by, given) if "method" in given else preset
        problem = f"unknown method {str(chosen)!r}{suggestion(str(chosen), method_names())}"
        hint = f"use one of {', '.join(method_names())}"
        raise UserError(problem, layer.where("method"), hint, code="method.unknown")
    if method is None and chosen == own_method:
        given.pop("method", None)  # its origin is the preset, or the default
    else:
        given["method"] = chosen

    layers: Layers = [
        (f"default for {chosen}", Preset("defaults", dict(method_spec(chosen).defaults))),
        (f"preset {preset.name}", preset),
        (given_by, Preset(given_by, given)),
    ]
    values, origins, notices = _merged(layers, chosen, own_method)
    config = _converted(values, layers)
    for key, problem, hint, code in _faults(values, config):
        raise UserError(problem, _where(key, layers), hint, code=code)
    return EffectiveConfig(config, {**dict.fromkeys(known_keys(), "default"), **origins}, notices)


def _merged(layers: Layers, method: str, own_method: str) -> tuple[Flat, dict[str, str], list[Notice]]:
    """Values and origins of the keys that the layers set and the method reads, and notices on keys of the preset that
    are left out. `own_method`: the preset's method. Raises UserError if the overrides set a key that the method does
    not read.
    """
    preset = layers[1][1]
    values: Flat = {}
    origins: dict[str, str] = {}
    notices: list[Notice] = []
    for origin, layer in layers:
        for key, value in layer.values.items():
            # A table of learning rates has one for each method; a preset's single rate is for its own method.
            if key == "train.learning_rate" and isinstance(value, dict):
                if method not in value:
                    continue
                value = value[method]
            elif key == "train.learning_rate" and layer is preset and method != own_method:
                text = f"{key} = {value} was set for {own_method}: {method}'s default is used"
                notices.append(Notice("preset.other_method_rate", text))
                continue

            # The preset may set keys that only other methods read.
            if not reads(method, key):
                if layer is not preset:
                    hint = "remove it or choose another method"
                    raise UserError(f"{key} is not read by {method}", origin, hint, code="preset.unread_key")
                notices.append(Notice("preset.unread_key", f"{key} is not read by {method}: left out"))
                continue

            # The later layer decides how long training is, by steps or by epochs.
            if (other := EXCLUSIVE.get(key)) and origins.get(other) not in (None, origin):
                del values[other], origins[other]
            values[key], origins[key] = value, origin
    return values, origins, notices


def _where(key: str, layers: Layers) -> str:
    """Where the value of a key comes from: the last layer that sets it, else the preset."""
    return next((layer for _, layer in reversed(layers) if key in layer.values), layers[1][1]).where(key)


def _converted(values: Flat, layers: Layers) -> Config:
    """The values as a configuration. Raises UserError for a value of the wrong type or out of range, with the choices
    of a setting where they are a fixed list.
    """
    try:
        return msgspec.convert(nested(values), Config)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `$.")
        key = re.sub(r"\[.*", "", path.rstrip("`"))
        value = f"invalid value {key} = {values.get(key)!r}" if key else "invalid value"
        if "matching regex" in message:  # a reader does not need the pattern
            message = "not in a known form"
        section, _, name = key.partition(".")
        classes = SECTIONS[section].__mro__ if section in SECTIONS else ()
        annotation = next(
            (vars(kind)["__annotations__"][name] for kind in classes if name in vars(kind).get("__annotations__", ())),
            "",
        )
        choices = re.findall(r"['\"]([^'\"]+)['\"]", re.sub(r"Traits\(.*?\)", "", str(annotation)))
        if key == "method":
            choices = list(method_names())
        elif key == "data.format":
            choices = list(DATA_FORMATS)
        hint = "use one of " + ", ".join(choices) if choices else SHOW_KEYS
        if key == "hardware.device":
            hint = f"use {DEVICE_FORMS}"
        problem = f"{value} ({message[:1].lower()}{message[1:]})"
        raise UserError(problem, _where(key, layers), hint, code="preset.invalid_value") from error


def _faults(values: Flat, config: Config) -> Iterator[tuple[str, str, str, str]]:
    """The key of each value that is empty or contradicts another one, and problem, hint and code of its error."""
    for key, value in values.items():
        if isinstance(value, float) and not math.isfinite(value):
            yield key, f"invalid value {key} = {value}", "use a finite number", "preset.invalid_value"
    for key, value in values.items():  # an empty path would mean the working directory
        blank = isinstance(value, str) and (not value.strip() if key != "data.separator" else not value)
        if blank and key not in ("title", "about"):
            yield key, f"empty value for {key}", "give a value or leave the key out", "preset.empty_value"

    data, train, evaluation = config.data, config.train, config.evaluation
    metric = evaluation.metric
    if "train.steps" in values and "train.epochs" in values:  # both in one layer: a later one replaces an earlier one's
        yield "train.steps", "both train.steps and train.epochs are set", "keep one", "preset.steps_and_epochs"
    if data.separator is not None and data.format not in ("auto", "text"):
        problem = f"data.separator is read for the format text only, and the format is {data.format}"
        yield "data.separator", problem, "remove it or --set data.format=text", "preset.unread_separator"
    if metric not in metric_names():
        problem = f"unknown metric {metric!r}{suggestion(metric, metric_names())}"
        yield "evaluation.metric", problem, f"use one of {', '.join(metric_names())}", "metric.unknown"
    if isinstance(train.micro_batch, int) and train.micro_batch > train.batch:
        problem = f"train.micro_batch = {train.micro_batch} is larger than train.batch = {train.batch}"
        hint = "set it to a part of the effective batch, or to auto"
        yield "train.micro_batch", problem, hint, "preset.micro_batch_too_large"
    if steps_in_backward(config):
        if isinstance(train.micro_batch, int) and train.micro_batch < train.batch:
            problem = (
                f"train.micro_batch = {train.micro_batch}: with optimizer.step_in_backward a step is one micro-batch"
            )
            hint = f"set train.micro_batch to auto, and train.batch to {train.micro_batch} for less memory"
            yield "train.micro_batch", problem, hint, "preset.step_in_backward"
        if train.devices > 1:
            problem = f"optimizer.step_in_backward needs one device, and train.devices = {train.devices}"
            yield "train.devices", problem, "leave one of them out", "preset.step_in_backward"
    key = "train.select" if train.select == "best" else "train.patience" if train.patience else ""
    if key and data.validation == 0:
        problem = f"{key} needs a validation loss, and there are no validation rows"
        yield key, problem, "--set data.validation=0.05", "preset.no_validation_rows"
    executors = ("local", *hooks("ftbench.executors"))
    if config.executor.name not in executors:
        problem = f"unknown executor {config.executor.name!r}{suggestion(config.executor.name, executors)}"
        yield "executor.name", problem, f"use one of {', '.join(executors)}", "executor.unknown"
    unread = min((key for key in values if key.startswith("executor.") and key != "executor.name"), default="")
    if unread and config.executor.name == "local":
        problem = f"{unread} applies only to jobs of a batch system, and the executor is local"
        yield unread, problem, "remove it, or set executor.name", "preset.unread_executor"
    key = "adapter.init"  # PiSSA replaces the weights of the base by what its initial adapter leaves of them
    if config.adapter.init == "pissa" and reads(config.method, key):
        if method_spec(config.method).quantizes_base:
            hint = "use LoRA, or `--set adapter.init=default`"
            yield key, "PiSSA needs a base that is not quantized", hint, "preset.pissa_quantized"
        if config.model.from_run:
            hint = "`--set adapter.init=default` continues a run"
            yield key, "PiSSA starts from the base model", hint, "preset.pissa_from_run"
    for section in SECTIONS:
        yield from getattr(config, section).problems()
