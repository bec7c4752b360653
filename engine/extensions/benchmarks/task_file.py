"""Read a task file of lm-evaluation-harness without running code from it.

The library runs code that a task file names: functions of Python files next to it (`!function`), metrics that it
downloads, `generate` functions of other models, pickled data. A file may come from anyone, so only settings that are
known to be data are accepted. Relative paths in a task file are relative to its folder.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from engine.config.errors import UserError
from engine.config.files import read_small
from engine.config.text import suggestion, visible

KEYS = frozenset(
    {
        *("task", "task_alias", "tag", "dataset_path", "dataset_name", "dataset_kwargs", "training_split"),
        *("validation_split", "test_split", "fewshot_split", "doc_to_text", "doc_to_target", "doc_to_choice"),
        *("description", "target_delimiter", "fewshot_delimiter", "fewshot_config", "num_fewshot", "metric_list"),
        *("output_type", "generation_kwargs", "repeats", "filter_list", "should_decontaminate"),
        *("doc_to_decontamination_query", "gen_prefix", "metadata"),
    }
)
CODE_KEYS = frozenset(["class", "custom_dataset", "process_docs", "process_results", "use_prompt"])
"""Keys whose value is code, or a file that contains code."""
DATA_KEYS = frozenset(["data_files", "data_dir", "field", "delimiter", "sep", "column_names", "encoding", "revision"])
"""Of `dataset_kwargs`."""
GENERATION_KEYS = frozenset(
    {
        *("until", "do_sample", "temperature", "top_p", "top_k", "min_p", "max_gen_toks", "max_new_tokens"),
        *("repetition_penalty", "num_beams"),
    }
)
"""Of `generation_kwargs`: transformers runs code for some others, such as custom_generate."""
TABLES = ("dataset_kwargs", "generation_kwargs", "fewshot_config", "metadata")
LISTS = ("metric_list", "filter_list")
BUILDERS = ("json", "csv", "parquet", "text", "arrow")
"""Values of `dataset_path` for local files; datasets has others, some of which read pickled objects."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,79}", re.ASCII)
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*", re.ASCII)
MAX_INCLUDES = 16


class CodeTag(yaml.YAMLError):
    """A tag that would run code."""


class _Loader(yaml.SafeLoader):
    """Plain data; raises CodeTag for functions and Python objects."""


def _refuse_tag(loader: yaml.SafeLoader, suffix: str, node: yaml.Node) -> Any:
    raise CodeTag(node.tag.replace("tag:yaml.org,2002:", "!!"))


_Loader.add_multi_constructor("!", _refuse_tag)
_Loader.add_multi_constructor("tag:yaml.org,2002:python/", _refuse_tag)


def read_task_file(path: Path) -> dict[str, Any]:
    """The configuration of the task, with absolute paths.

    Raises UserError if the file cannot be read, is invalid, or contains what could run code.
    """
    config = _read(path, [])
    for key in config:
        if key in CODE_KEYS:
            raise _code(f"the key {key}", path)
        if key in ("group", "task_list") or isinstance(config.get("task"), list):
            raise _invalid("a group of tasks", path, "give the task file of each task", "benchmark.group")
        if key not in KEYS:
            raise _invalid(f"unknown key {_shown(key)}{suggestion(key, KEYS)}", path, "remove it")
    name = config.get("task")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        hint = "use letters, digits, '_', '-' and '.', at most 80 characters"
        raise _invalid(f"invalid task name {_shown(name)}", path, hint)
    for kind, noun, keys in ((dict, "table", TABLES), (list, "list", LISTS)):
        for key in keys:
            if config.get(key) is not None and not isinstance(config[key], kind):
                raise _invalid(f"{key} is not a {noun}", path, "fix the value")

    # Only data files and datasets of the Hub, without code.
    source, options = config.get("dataset_path"), dict(config.get("dataset_kwargs") or {})
    if "trust_remote_code" in options:
        raise _code("trust_remote_code", path)
    if unknown := sorted(options.keys() - DATA_KEYS):
        hint = f"use {', '.join(sorted(DATA_KEYS))}"
        raise _invalid(f"unsupported key {_shown(unknown[0])} of dataset_kwargs", path, hint)
    if source not in BUILDERS and not (isinstance(source, str) and _HUB_ID.fullmatch(source)):
        hint = f"use {', '.join(BUILDERS)} with dataset_kwargs.data_files, or OWNER/NAME of a dataset on the Hub"
        raise _invalid(f"unsupported dataset_path {_shown(source)}", path, hint)
    if source in BUILDERS:
        if "data_files" not in options:
            raise _invalid("dataset_kwargs.data_files is missing", path, "set it to the files of each split")
        base = path.parent / str(options.pop("data_dir", "."))
        options["data_files"] = _absolute(options["data_files"], base, path)
        config["dataset_kwargs"] = options

    if unknown := sorted((config.get("generation_kwargs") or {}).keys() - GENERATION_KEYS, key=str):
        hint = f"use {', '.join(sorted(GENERATION_KEYS))}"
        raise _invalid(f"unsupported key {_shown(unknown[0])} of generation_kwargs", path, hint)
    for metric in config.get("metric_list") or []:
        if not isinstance(metric, dict) or not isinstance(metric.get("metric"), str):
            raise _invalid("an entry of metric_list has no metric", path, "write - metric: acc")
        if metric.get("hf_evaluate"):
            raise _code(f"the metric {_shown(metric['metric'])} of the library evaluate", path)
    return config


def _read(path: Path, including: list[Path]) -> dict[str, Any]:
    """The content of a file; keys of included files are overwritten by its own."""
    path = path.resolve()
    if path in including or len(including) >= MAX_INCLUDES:
        raise _invalid("task files include each other", path, "remove the include")
    try:
        config = yaml.load(read_small(path), Loader=_Loader)
    except OSError as error:
        problem = f"cannot read the task file ({error.strerror})"
        raise UserError(problem, str(path), "check the path", code="benchmark.file_unreadable") from error
    except CodeTag as error:
        raise _code(f"the tag {visible(str(error), 60)}", path) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        text = visible(" ".join(str(error).split()), 200)
        raise _invalid(f"invalid YAML ({text})", path, "fix the file") from error
    if not isinstance(config, dict) or not all(isinstance(key, str) for key in config):
        raise _invalid("not a table of settings", path, "write KEY: VALUE lines, such as task: NAME")
    merged: dict[str, Any] = {}
    for included in _names(config.pop("include", []), "include", path):
        merged |= _read(path.parent / included, [*including, path])
    return merged | config


def _absolute(files: Any, base: Path, path: Path) -> Any:
    """A file name, a list of them, or one of these by split, as absolute names of existing files."""
    if isinstance(files, dict):
        return {split: _absolute(some, base, path) for split, some in files.items()}
    absolute = []
    for name in _names(files, "data_files", path):
        file = (base / name).resolve()
        if "::" in name or "://" in name or not file.is_file():
            problem, hint = f"data file not absolute: {_shown(name)}", "give a file relative to the task file"
            raise UserError(problem, str(path), hint, code="benchmark.data_not_found")
        absolute.append(str(file))
    return absolute


def _names(value: Any, key: str, path: Path) -> Iterator[str]:
    """A name, or each of a list of names."""
    for name in value if isinstance(value, list) else [value]:
        if not isinstance(name, str) or not name:
            raise _invalid(f"{key} is not a file name or a list of them", path, "fix the value")
        yield name


def _shown(value: Any) -> str:
    return visible(repr(value), 80)


def _invalid(problem: str, path: Path, hint: str, code: str = "benchmark.invalid_file") -> UserError:
    return UserError(problem, visible(str(path)), hint, code=code)


def _code(what: str, path: Path) -> UserError:
    text = f"{what} could run code: ftbench runs code only of tasks that lm-evaluation-harness ships"
    return UserError(text, visible(str(path)), "write templates and choices as text", code="benchmark.code")
