"""Checks of a preset's values, and of what they need: benchmarks, and devices that divide the weights."""

from __future__ import annotations

import difflib
import importlib.util
import math
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from engine.config.errors import UserError
from engine.config.method_specs import method_names, method_spec, readers, reads
from engine.config.metric_specs import metric_names
from engine.config.preset_values import Flat, Preset, known_keys, nested
from engine.config.schema import DATA_FORMATS, DEVICE_FORMS, SECTIONS, Config, Evaluation
from engine.config.text import visible

Layers = list[tuple[str, Preset]]
"""Origin and values of each layer of a configuration; later ones take precedence."""
SHOW_KEYS = "`ftbench presets show demo-lora` prints every key"


def check_keys(preset: Preset) -> None:
    """Raise UserError for a key that is not in the schema, with the nearest one that is, or all of its section."""
    known = [*known_keys(), *SECTIONS]
    for key in preset.values:
        if key not in known:
            section, _, name = key.rpartition(".")
            same_section = [other for other in known if other.startswith(f"{section}.")]
            nearest = _nearest(name, same_section, known)
            meant = f" (did you mean {nearest}?)" if nearest else ""
            names = ", ".join(map(_name, same_section))
            hint = SHOW_KEYS if nearest or not names else f"keys of {section}: {names}"
            raise UserError(f"unknown key {key}{meant}", preset.where(key), hint, code="preset.unknown_key")


def _name(key: str) -> str:
    return key.rpartition(".")[2]


def _nearest(name: str, same_section: list[str], known: list[str]) -> str | None:
    """The key with this name in another section, else one with a similar name.

    Names are compared without their sections, which would make all keys of a section similar.
    """
    by_name = {_name(key): key for key in reversed([*same_section, *known])}  # of equal names the first
    similar = [_name(key) for key in same_section or known]
    close = [name] if name in by_name else difflib.get_close_matches(name, similar, n=1)
    return by_name[close[0]] if close else None


def check_read(preset: Preset) -> None:
    """Raise UserError for a key that the preset's own method does not read."""
    method = preset.values.get("method", Config().method)
    for key in preset.values:
        if method in method_names() and not reads(method, key):
            problem = f"{key} is read by {' and '.join(readers(key))} only, and the method is {method}"
            raise UserError(problem, preset.where(key), "remove it or change the method", code="preset.unread_key")


def unknown_method(name: str, where: str) -> UserError:
    problem = f"unknown method {name!r}{suggestion(name, method_names())}"
    return UserError(problem, where, f"use one of {', '.join(method_names())}", code="method.unknown")


def converted(values: Flat, layers: Layers) -> Config:
    """The values as a configuration. Raises UserError for a value of the wrong type or out of range."""
    try:
        return msgspec.convert(nested(values), Config)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `$.")
        key = re.sub(r"\[.*", "", path.rstrip("`"))
        value = f"invalid value {key} = {values.get(key)!r}" if key else "invalid value"
        if "matching regex" in message:  # a reader does not need the pattern
            message = "not in a known form"
        problem = f"{value} ({message[:1].lower()}{message[1:]})"
        raise UserError(problem, _where(key, layers), _choices(key), code="preset.invalid_value") from error


def check_values(values: Flat, layers: Layers, config: Config) -> None:
    """Raise UserError for empty values and for values that contradict each other."""
    for key, problem, hint, code in (*_value_faults(values), *_contradictions(values, config)):
        raise UserError(problem, _where(key, layers), hint, code=code)


Fault = tuple[str, str, str, str]
"""The key of a value that cannot be used, and problem, hint and code of its error."""


def _value_faults(values: Flat) -> Iterator[Fault]:
    for key, value in values.items():
        if isinstance(value, float) and not math.isfinite(value):
            yield key, f"invalid value {key} = {value}", "use a finite number", "preset.invalid_value"
    for key, value in values.items():  # an empty path would mean the working directory
        blank = isinstance(value, str) and (not value.strip() if key != "data.separator" else not value)
        if blank and key not in ("title", "about"):
            yield key, f"empty value for {key}", "give a value or leave the key out", "preset.empty_value"


def _contradictions(values: Flat, config: Config) -> Iterator[Fault]:
    data, train, metric = config.data, config.train, config.evaluation.metric
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
    key = "train.select" if train.select == "best" else "train.patience" if train.patience else ""
    if key and data.validation == 0:
        problem = f"{key} needs a validation loss, and there are no validation rows"
        yield key, problem, "--set data.validation=0.05", "preset.no_validation_rows"
    unread = min((key for key in values if key.startswith("executor.") and key != "executor.name"), default="")
    if unread and config.executor.name == "local":
        problem = f"{unread} applies only to the executor slurm, and the executor is local"
        yield unread, problem, "remove it, or `--set executor.name=slurm`", "preset.unread_executor"
    key = "adapter.init"  # PiSSA replaces the weights of the base by what its initial adapter leaves of them
    if config.adapter.init == "pissa" and reads(config.method, key):
        if method_spec(config.method).quantizes_base:
            hint = "use LoRA, or `--set adapter.init=default`"
            yield key, "PiSSA needs a base that is not quantized", hint, "preset.pissa_quantized"
        if config.model.from_run:
            hint = "`--set adapter.init=default` continues a run"
            yield key, "PiSSA starts from the base model", hint, "preset.pissa_from_run"
    yield from _benchmark_faults(config.evaluation)


def _benchmark_faults(evaluation: Evaluation) -> Iterator[Fault]:
    """Each benchmark once, and settings of benchmarks only where benchmarks are scored."""
    key, limit = "evaluation.benchmarks", "evaluation.benchmark_limit"
    if "" in map(str.strip, evaluation.benchmarks):
        hint = "give the name of a task or the path of a task file"
        yield key, f"empty value in {key}", hint, "preset.empty_value"
    for name in evaluation.benchmarks:
        if evaluation.benchmarks.count(name) > 1:
            yield key, f"duplicate benchmark {name!r}", "remove one of them", "preset.duplicate_benchmark"
    if evaluation.benchmarks and evaluation.when == "never":
        problem = f'{key} is not read with evaluation.when = "never"'
        yield key, problem, "remove it, or --set evaluation.when=both", "preset.unread_benchmark"
    if evaluation.benchmark_limit is not None and not evaluation.benchmarks:
        yield limit, f"{limit} applies only with {key}", f"remove it, or set {key}", "preset.unread_benchmark"


def _where(key: str, layers: Layers) -> str:
    """Where the value of a key comes from: the last layer that sets it, else the preset."""
    return next((layer for _, layer in reversed(layers) if key in layer.values), layers[1][1]).where(key)


def _choices(key: str) -> str:
    """What to do about an invalid value: its choices, where they are a fixed list."""
    if key == "hardware.device":
        return f"use {DEVICE_FORMS}"
    section, _, name = key.partition(".")
    hint = SECTIONS[section].__annotations__.get(name, "") if section in SECTIONS else ""
    choices = re.findall(r"['\"]([^'\"]+)['\"]", str(hint))
    if key == "method":
        choices = list(method_names())
    if key == "data.format":
        choices = list(DATA_FORMATS)
    return "use one of " + ", ".join(choices) if choices else SHOW_KEYS


def suggestion(wrong: str, known: Iterable[str]) -> str:
    """` (did you mean qlora?)`, or '' where nothing is similar."""
    close = difflib.get_close_matches(wrong, list(known), n=1)
    return f" (did you mean {close[0]}?)" if close else ""


KEY = "train.parallelism"
FSDP = "fsdp"


def check_parallelism(config: Config) -> None:
    """Raise UserError for settings that contradict a configured FSDP."""
    if config.train.devices > 1 and config.train.parallelism == FSDP:
        refuse_whole_weights(config)


def refuse_whole_weights(config: Config) -> None:
    """Raise UserError for settings that need whole weights."""
    spec = method_spec(config.method)
    reasons = {
        "adapter.init": not spec.trains_weights and config.adapter.init == "pissa",
        "adapter.dora": not spec.trains_weights and config.adapter.dora,
        "train.compile": config.train.compile,
    }
    for key, applies in reasons.items():
        if applies:
            problem = f"{key} needs whole weights, and {KEY} = fsdp divides them among the devices"
            raise UserError(problem, key, f'set {KEY} = "ddp", or leave {key} out', code="train.not_sharded")


PACKAGE, EXTRA = "lm_eval", "benchmarks"
"""The import name of lm-evaluation-harness, and the optional dependency that installs it."""
TASK_FILES = (".yaml", ".yml")
SETTING = "evaluation.benchmarks"


def is_task_file(benchmark: str) -> bool:
    """Whether a value of `evaluation.benchmarks` is a task file instead of the name of a task."""
    return benchmark.endswith(TASK_FILES)


def check_benchmarks(evaluation: Evaluation) -> None:
    """Raise UserError if lm-evaluation-harness is not installed or a task file does not exist.

    Names of tasks and the content of files are checked by the worker, before it loads the model.
    """
    if evaluation.benchmarks and importlib.util.find_spec(PACKAGE) is None:
        hint = f"`pip install 'ftbench[{EXTRA}]'`, or remove {SETTING}"
        raise UserError("lm-evaluation-harness is not installed", SETTING, hint, code="benchmark.not_installed")
    for benchmark in evaluation.benchmarks:
        if is_task_file(benchmark) and not Path(benchmark).is_file():
            hint = f"check the path in {SETTING}"
            raise UserError("task file not found", visible(benchmark), hint, code="benchmark.file_not_found")
