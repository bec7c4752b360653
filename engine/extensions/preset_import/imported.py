"""Presets from the configuration files of other tools: axolotl, LLaMA-Factory, TRL and PEFT.

Every key of the file is accounted for: taken as it is, changed, left out, or of no effect on training. Defaults of the
other tool that differ from ours are set too, so that a preset trains what the file would. Nothing in the file is
executed or followed: paths, trust flags and YAML tags are listed. YAML aliases, which can stand for gigabytes, are
refused; errors quote nothing of a file that is no such configuration.
Which settings are which: `other_tools`.
"""

from __future__ import annotations

import json
import re
import reprlib
import shlex
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec
import yaml

from engine.config.errors import UserError
from engine.config.files import read_small
from engine.config.preset import EXCLUSIVE, Preset, resolve
from engine.config.redaction import SECRET_NAME
from engine.config.settings import Flat
from engine.config.text import REDACTED
from engine.extensions.preset_import.other_tools import (
    AXOLOTL,
    LLAMA_FACTORY,
    NO_COUNTERPART,
    PEFT,
    TRL,
    WITHOUT_EFFECT,
    Changed,
    NoCounterpart,
    OtherTool,
    number,
    whole,
)

ADAPTER_SECTIONS = ("adapter.", "quantization.")
"""Prefixes of settings that full fine-tuning does not read."""
MAX_KEY, MAX_DIGITS = 80, 100
"""Characters of a key that are shown, and of a number that are read."""
Outcome = Literal["taken", "default", "changed", "left out"]


class ImportedKey(msgspec.Struct, frozen=True):
    """What became of a key of the file, or of a default of the other tool that the file leaves unset."""

    outcome: Outcome
    key: str
    value: str
    """Shortened; a value that may be a secret is redacted."""
    setting: str = ""
    """The key of the preset; empty where it is left out."""
    note: str = ""
    """What changed, or why it is left out."""


@dataclass
class ImportedPreset:
    """The settings that a file was converted to, and the outcome for each of its keys."""

    tool: str
    values: Flat = field(default_factory=dict)
    keys: list[ImportedKey] = field(default_factory=list)
    without_effect: list[str] = field(default_factory=list)
    """Keys about outputs, logs and speed of loading, and keys that are empty."""

    def add(self, outcome: Outcome, key: str, value: Any, setting: str = "", note: str = "") -> None:
        """Record what became of a key."""
        self.keys.append(ImportedKey(outcome, _cut(key, MAX_KEY), _shown(key, value), setting, note))

    def ignore(self, key: str) -> None:
        """Record that a key has no effect."""
        self.without_effect.append(_cut(key, MAX_KEY))


@dataclass(frozen=True)
class Tag:
    """A YAML tag that stands for code or an unknown type; never constructed."""

    name: str

    def __repr__(self) -> str:
        return f"YAML tag {self.name}"


def import_preset(path: Path, overrides: Flat | None = None) -> ImportedPreset:
    """Convert a file of another tool. Every key of the file is in the answer.

    Raises UserError for a file that cannot be read or belongs to no known tool, for training other than supervised
    fine-tuning, and where neither the file nor `overrides` name a model.
    """
    given = read_file(path)
    if "peft_type" in given:
        tool = PEFT
    elif "base_model" in given:
        tool = AXOLOTL
    elif "train_dataset" in given or {"stage", "finetuning_type", "cutoff_len", "dataset"} & given.keys():
        tool = LLAMA_FACTORY
    elif "model_name_or_path" in given:
        tool = TRL
    else:
        problem = "not a training configuration of axolotl, LLaMA-Factory, TRL or PEFT"
        raise UserError(problem, str(path), KNOWN_FILES, code="import.unknown_tool")
    given = _unnested(given)
    result = ImportedPreset(tool.name)
    method = _take_method(given, tool, result, path)
    _take_batch(given, tool, result)
    _take_length(given, result)
    _take_datasets(given, result)
    # LLaMA-Factory's alpha is twice the rank unless it is set.
    if tool is LLAMA_FACTORY and method != "full" and given.get("lora_alpha") is None:
        rank = given.get("lora_rank")
        given["lora_alpha"] = 2 * (rank if type(rank) is int else tool.defaults["lora_rank"])
    if tool is AXOLOTL and given.pop("lora_target_linear", None) and not given.get("lora_target_modules"):
        given["lora_target_modules"] = "all-linear"
    for key, value in given.items():
        _take(key, value, tool, result)
    for key, value in tool.defaults.items():
        setting, convert = tool.settings[key]
        is_unread = method == "full" and setting.startswith(ADAPTER_SECTIONS)
        has_steps = setting == "train.epochs" and "train.steps" in result.values
        if setting not in result.values and key not in given and not is_unread and not has_steps:
            result.values[setting] = convert(value)
            result.add("default", key, value, setting, f"{tool.name}'s default")
    for key, value in (overrides or {}).items():
        result.values.pop(EXCLUSIVE.get(key, ""), None)
        result.values[key] = value
    if "model.id" not in result.values:
        problem, hint = "the file names no model that can be used by its name", "give one: --set model.id=NAME"
        raise UserError(problem, str(path), hint, code="import.no_model")
    resolve(Preset(path.name, result.values))
    return result


def read_file(path: Path) -> dict[str, Any]:
    """The keys of a YAML or JSON file, or the options of a command line in a text file (`trl sft --max_length 2048`).

    Raises UserError for a file that cannot be read or parsed.
    """
    try:
        text = read_small(path).decode()
        first = re.sub(r"\A(\s*#.*\n)+", "", text).lstrip().partition("\n")[0]  # without comments
        if path.suffix == ".json":
            table = json.loads(text, object_pairs_hook=_without_repetition)
        elif text.startswith("#!") or re.match(r"[^:{]*--\w", first):
            table = _options(text)
        else:
            table = _load(text)
    except OSError as error:
        problem = f"cannot read the file ({error.strerror})"
        raise UserError(problem, str(path), "check the path", code="import.unreadable") from error
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        raise UserError(
            _why_invalid(error), str(path), "fix the file, or give another one", "import.invalid"
        ) from error
    if not isinstance(table, dict) or not all(isinstance(key, str) for key in table):
        problem = "not a table of settings"
        raise UserError(problem, str(path), KNOWN_FILES, code="import.unknown_tool")
    return table


KNOWN_FILES = "give a file of axolotl, LLaMA-Factory or TRL, or PEFT's adapter_config.json"


class InvalidFile(ValueError):
    """The text says why, in our words."""


def _why_invalid(error: Exception) -> str:
    """Without what the parsers quote of the file."""
    if isinstance(error, InvalidFile):
        return str(error)
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if isinstance(error, UnicodeDecodeError):
        return "not a text file (UTF-8)"
    mark = getattr(error, "problem_mark", None)
    line = mark.line + 1 if mark else getattr(error, "lineno", None)
    return "not valid YAML or JSON" + (f" (line {line})" if line else "")


def _without_repetition(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    table: dict[str, Any] = {}
    for key, value in pairs:
        if key in table:
            raise InvalidFile("a key is repeated")
        table[key] = value
    return table


def _load(text: str) -> Any:
    """The value of a YAML text. Raises InvalidFile for an alias, before anything is constructed."""
    for event in yaml.parse(text, _Loader):
        if isinstance(event, yaml.AliasEvent):
            line = event.start_mark.line + 1
            raise InvalidFile(f"YAML aliases are not followed (line {line})")
    return yaml.load(text, _Loader)


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # PyYAML has no types
    """Plain values only: other tags become a Tag; a repeated key and an endless number are errors."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        names: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value != "<<":
                if key.value in names:
                    raise InvalidFile(f"a key is repeated (line {key.start_mark.line + 1})")
                names.add(key.value)
        mapping: dict[Hashable, Any] = super().construct_mapping(node, deep)
        return mapping

    def construct_number(self, node: yaml.ScalarNode) -> float:
        if len(node.value) > MAX_DIGITS:  # base 60 takes the square of the length
            raise InvalidFile(f"a number of {len(node.value):,} characters (line {node.start_mark.line + 1})")
        value: float = yaml.SafeLoader.yaml_constructors[node.tag](self, node)
        return value


for kind in ("int", "float"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{kind}", _Loader.construct_number)
_Loader.add_multi_constructor("", lambda loader, suffix, node: Tag(node.tag))


def _options(text: str) -> dict[str, Any]:
    """`--key value` and `--flag` of a command line; values are read as YAML scalars."""
    words = [word for word in shlex.split(text.replace("\\\n", " "), comments=True) if word]
    table: dict[str, Any] = {}
    several: dict[str, list[Any]] = {}
    name = ""
    for word in words:
        if word.startswith("--"):
            name, equals, value = word.removeprefix("--").replace("-", "_").partition("=")
            if name in table:
                raise InvalidFile("an option is given twice")
            table[name] = _load(value) if equals else True
            name = "" if equals else name
        elif name:
            value = _load(word)
            several.setdefault(name, []).append(value)
    return table | {name: values[0] if len(values) == 1 else values for name, values in several.items()}


def _unnested(given: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of LLaMA-Factory's version 1 under the names of version 0."""
    flat = dict(given)
    adapter = flat.pop("peft_config", None)
    if isinstance(adapter, dict):
        names = {"name": "finetuning_type", "r": "lora_rank", "target_modules": "lora_target"}
        flat |= {names.get(str(key), str(key)): value for key, value in adapter.items()}
    quantization = flat.pop("quant_config", None)
    if isinstance(quantization, dict):
        flat |= {{"name": "quantization_method"}.get(str(key), str(key)): value for key, value in quantization.items()}
    if "model" in flat and "finetuning_type" not in flat:
        flat["finetuning_type"] = "full"
    if "model" in flat and (rows := flat.pop("micro_batch_size", None)) is not None:
        flat["per_device_train_batch_size"] = rows
    return flat


SFT = (None, "", "sft", "pt", "SFT")


def _take_method(given: dict[str, Any], tool: OtherTool, result: ImportedPreset, path: Path) -> str:
    """Set the method; what decides it is removed from `given`."""
    for key in ("rl", "stage", "reward_model", "process_reward_model", "num_labels", "use_asft_loss", "use_dft_loss"):
        value = given.get(key)
        if value not in SFT and value is not False:
            problem = f"{key} = {_shown(key, value)} is not supervised fine-tuning"
            raise UserError(problem, str(path), "give a file that trains on answers", code="import.not_sft")
        if value == "pt":
            result.add("changed", key, "pt", "data.format", "plain text: --set data.format=text")
        elif key in given:
            result.ignore(key)
        given.pop(key, None)
    if {"infer_backend", "export_dir"} & given.keys():
        problem = "a configuration of inference or export, not of training"
        raise UserError(problem, str(path), KNOWN_FILES, code="import.not_sft")
    names = ("adapter", "finetuning_type", "use_peft", "peft_type")
    kind = next((given[key] for key in names if given.get(key) not in (None, "")), None)
    loaded = 4 if _on(given, "load_in_4bit") else 8 if _on(given, "load_in_8bit") else 16
    bits = _word(given.get("quantization_bit") or loaded)
    deciding = (*names, "quantization_bit", "quantization_method", "load_in_4bit", "load_in_8bit")
    used = [key for key in deciding if key in given]
    shown = ", ".join(f"{key} = {_shown(key, given[key])}" for key in used) or "no adapter"
    lora = "qlora" if bits == "4" else "lora"
    known = {"true": lora, "lora": lora, "qlora": "qlora", "full": "full"}
    if tool in (AXOLOTL, TRL) and kind in (None, False, "false"):
        method = "full"
    elif kind is None:
        method = lora  # LLaMA-Factory's default
    elif (name := _word(kind)) in known:
        method = known[name]
    else:
        problem, hint = f"{_shown('', kind)} is none of qlora, lora and full", "give a file of one of these methods"
        raise UserError(problem, str(path), hint, code="import.method")
    for key in used:
        del given[key]
    odd = bits not in ("4", "16") and method != "qlora"
    note = f"{bits}-bit bases are 4-bit or 16-bit here" if odd else ""
    result.values["method"] = method
    result.add("changed" if odd else "taken", shown, "", f"method = {method}", note)
    return method


def _word(value: Any) -> str:
    """A text, number or flag in lower case; of other values their type, which is none of the known words."""
    return str(value).lower() if isinstance(value, str | int) else type(value).__name__


def _on(given: Mapping[str, Any], key: str) -> bool:
    return _word(given.get(key)) == "true"


PACKING = ("sample_packing", "packing", "neat_packing", "eval_sample_packing", "padding_free")


def _take_batch(given: dict[str, Any], tool: OtherTool, result: ImportedPreset) -> None:
    """The effective batch size of one device; the micro-batch size follows memory."""
    if tool is PEFT:
        return
    rows, accumulated = tool.batch
    named = ", ".join(key for key in (rows, accumulated, "global_batch_size", "batch_size") if key in given)
    named = named or f"{rows}, {accumulated}"
    default = 1 if tool is AXOLOTL or "model_class" in given else 8
    total, effective = given.pop("global_batch_size", None), given.pop("batch_size", None)
    values = given.pop(rows, None) or default, given.pop(accumulated, None) or 1
    try:
        batch = whole(total or effective or 0) or whole(values[0]) * whole(values[1])
    except NoCounterpart as error:
        result.without_effect += [key for key in PACKING if key in given and given[key] is None]
        packed = [key for key in PACKING if given.pop(key, None) is not None]
        result.add("left out", ", ".join([named, *packed]), values, "", str(error))
        return
    note = f"{values[0]} × {values[1]} on one device; train.micro_batch = auto divides it by memory"
    packed = [key for key in ("sample_packing", "packing", "neat_packing") if _on(given, key)]
    for key in PACKING:
        if key in given and key not in packed:
            result.ignore(key)  # rows are packed or padded with the same loss
        given.pop(key, None)
    if packed:
        note += f"; {packed[0]} counts sequences filled with several rows, here a step has this number of rows"
    result.values["train.batch"] = batch
    named = ", ".join([named, *packed])
    result.add("changed", named, list(values), f"train.batch = {batch}", note)


def _take_length(given: dict[str, Any], result: ImportedPreset) -> None:
    """The number of steps, which replaces epochs, and the warmup as a share of the steps."""
    for key, take in (("max_steps", _take_steps), ("warmup_steps", _take_warmup)):
        if key not in given:
            continue
        value = given.pop(key)
        if value in (None, "", 0, -1, False):
            result.ignore(key)
            continue
        try:
            take(value, given, result)
        except NoCounterpart as error:
            result.add("left out", key, value, "", str(error))


def _take_steps(value: Any, given: dict[str, Any], result: ImportedPreset) -> None:
    if whole(value) < 1:
        raise NoCounterpart("not a number of steps")
    result.values["train.steps"] = whole(value)
    result.add("taken", "max_steps", value, "train.steps")
    for key in ("num_epochs", "num_train_epochs"):
        if (epochs := given.pop(key, None)) is not None:
            result.add("left out", key, epochs, "", "max_steps counts")


def _take_warmup(value: Any, given: dict[str, Any], result: ImportedPreset) -> None:
    if number(value) < 1:
        result.values["train.warmup_ratio"] = number(value)
        result.add("taken", "warmup_steps", value, "train.warmup_ratio")
    elif steps := result.values.get("train.steps"):
        ratio = result.values["train.warmup_ratio"] = round(whole(value) / steps, 4)
        note = f"{whole(value)} of {steps} steps"
        result.add("changed", "warmup_steps", value, f"train.warmup_ratio = {ratio}", note)
    else:
        raise NoCounterpart("the number of steps depends on the data: set train.warmup_ratio")


def _take_datasets(given: dict[str, Any], result: ImportedPreset) -> None:
    """One dataset of the Hub; several, and paths, are left to --data."""
    datasets = given.pop("datasets", None)
    if datasets is None:
        return
    entries = datasets if isinstance(datasets, list) else [datasets]
    if len(entries) != 1 or not isinstance(entries[0], dict):
        note = f"{len(entries)} datasets: join them in one file, and give --data"
        result.add("left out", "datasets", datasets, "", note)
        return
    for key, value in entries[0].items():
        name = f"datasets[0].{key}"
        if key == "path" or (key == "name" and value):
            _take(name, value, AXOLOTL, result)
        elif value is not None:
            has_format = key in ("type", "chat_template")
            note = "the format is detected: `ftbench data check`" if has_format else "see data.map"
            result.add("left out", name, value, "", note)


def _take(key: str, value: Any, tool: OtherTool, result: ImportedPreset) -> None:
    """Convert one key, and record what became of it."""
    if value is None or value == "" or (WITHOUT_EFFECT.fullmatch(key) and not isinstance(value, Tag)):
        result.ignore(key)
        return
    setting, convert = tool.settings.get(key, ("", str))
    if not setting and key in NO_COUNTERPART and value is False:
        result.ignore(key)
        return
    if not setting:
        result.add("left out", key, value, "", NO_COUNTERPART.get(key, "unknown to ftbench"))
        return
    if result.values.get("method") == "full" and setting.startswith(ADAPTER_SECTIONS):
        result.add("left out", key, value, "", "full fine-tuning has no adapter")
        return
    try:
        if isinstance(value, Tag):
            raise NoCounterpart("never constructed")
        converted = convert(value)
        setting_value = converted.value if isinstance(converted, Changed) else converted
        if setting in result.values and result.values[setting] != setting_value:
            raise NoCounterpart(f"{setting} is already set by another key")
        result.values[setting] = setting_value
        if isinstance(converted, Changed):
            result.add("changed", key, value, f"{setting} = {setting_value}", converted.note)
        else:
            result.add("taken", key, value, setting)
    except NoCounterpart as error:
        result.add("left out", key, value, "", str(error))


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


_short = reprlib.Repr()
_short.maxlevel, _short.maxlist, _short.maxdict = 2, 4, 4


def _shown(key: str, value: Any) -> str:
    """A value as a short text; nothing of what may be a secret."""
    if SECRET_NAME.search(key) and isinstance(value, str) and key not in NO_COUNTERPART:
        return REDACTED
    if isinstance(value, str):
        return _cut(value, 60)
    if isinstance(value, bool):
        return str(value).lower()
    return _cut(_short.repr(value), 60)
