"""Load benchmarks with their items, and refuse those that cannot be scored by item, before a model is loaded."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
import re
import resource
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.machinery import ModuleSpec
from importlib.metadata import version
from importlib.util import module_from_spec
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import psutil
from jinja2 import StrictUndefined
from jinja2.exceptions import SecurityError
from jinja2.sandbox import SandboxedEnvironment

from engine.config.errors import RunFailed, UserError
from engine.config.schema import Config
from engine.config.text import suggestion, visible
from engine.data.parallel import TIMED_OUT, in_child
from engine.data.readers.arrow_files import hub_error, hub_or_cache
from engine.extensions.benchmarks.settings import KEY, check, is_task_file, settings_of
from engine.extensions.benchmarks.task_file import BUILDERS, read_task_file
from engine.runs.run.result import file_stem

REHEARSED_ITEMS = 32
"""On which made-up answers are scored, so that errors of a task are found before a model is loaded."""
LOAD_SECONDS, ITEM_SECONDS = 60.0, 0.1
"""Maximum CPU time for loading a task file and its data, and for each item; an item takes about 0.001 s."""
TASK_BYTES = 4 << 30
"""Memory that a task file, its data and its rendered items may take."""
SEED = 1234
"""Of few-shot examples and sampling; the library's default."""
NO_DATA = {
    "data.hub_unreachable": "the dataset is not in the cache and the Hub is unreachable",
    "data.hub_not_found": "the Hub has no such dataset, or it is private",
}
"""Code of `engine.data.readers.arrow_files` -> why a benchmark has no data."""


class RemoteCode(RunFailed):
    """A task needs code that would be downloaded."""


@cache
def import_harness() -> ModuleType:
    """The package `lm_eval`, quiet and without telemetry and remote code. The caller made sure that it is installed."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # before the imports, which read it
    import datasets
    import lm_eval.api.task
    import lm_eval.utils
    import tqdm

    def refuse_metric(name: str, *arguments: object, **options: object) -> NoReturn:
        """In the place of `evaluate.load`, which downloads a metric as Python code and runs it."""
        text = f"the metric {visible(str(name), 80)} of the library evaluate is remote code"
        raise RemoteCode(text, "benchmark.code")

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    # `lm_eval` imports `evaluate` only to call `load`. An empty module saves the second that the import takes.
    empty = module_from_spec(ModuleSpec("evaluate", None))
    vars(sys.modules.setdefault("evaluate", empty))["load"] = refuse_metric  # also if `evaluate` was imported before
    lm_eval.api.task.tqdm = functools.partial(tqdm.tqdm, disable=True)
    # The library itself renders templates of task files without a sandbox: they could reach Python's internals and run
    # any code.
    sandbox = SandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)
    sandbox.filters["regex_replace"] = lm_eval.utils.env.filters["regex_replace"]
    lm_eval.utils.env = sandbox
    return lm_eval


def fixed_answers() -> Any:
    """A model of the library that answers every request in the same way: errors of a task are found before a model is
    loaded.
    """
    from lm_eval.api.model import LM  # an extra

    class FixedAnswers(LM):
        def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
            return [(-1.0, False)] * len(requests)

        def loglikelihood_rolling(self, requests: list[Any]) -> list[float]:
            return [-1.0] * len(requests)

        def generate_until(self, requests: list[Any]) -> list[str]:
            return [""] * len(requests)

    return FixedAnswers()


@dataclass(frozen=True)
class Benchmark:
    """A task of lm-evaluation-harness with its items and the metric that is used."""

    name: str
    task: Any
    """The library's task, which holds the items."""
    metric: str
    """The first metric of the task whose score is a mean over items."""
    filter: str
    """The first filter of the task: how an answer is extracted from the output."""
    higher_is_better: bool
    items: int
    limit: int | None
    from_file: bool
    """Whether it is a task file, which anyone may have written, and not a task that the library ships."""
    fingerprint: str
    """SHA-256 of the library's version, the task file and the items."""

    def item_scores(self, lm: Any, limit: int | None) -> list[float]:
        """The score of each item, in order, from the answers of a model behind the library's interface.

        Uses the library's `evaluate` with the settings of its `simple_evaluate`, which would also run pip and git to
        describe the environment. Raises TypeError or ValueError if the metric of an item is not a number.
        """
        from lm_eval.evaluator import evaluate  # an extra, as all of lm_eval

        self.task.set_fewshot_seed(SEED)
        evaluated = evaluate(lm, {"tasks": {self.name: self.task}}, limit=limit, bootstrap_iters=0, log_samples=True)
        samples = [sample for sample in evaluated["samples"][self.name] if sample["filter"] == self.filter]
        return [float(sample[self.metric]) for sample in sorted(samples, key=lambda sample: sample["doc_id"])]


def load_benchmarks(config: Config) -> list[Benchmark]:
    """The benchmarks of the configuration.

    Raises UserError if the library is missing, a task is unknown or not supported, a task file is invalid, or a data
    set can be neither downloaded nor found in the cache.
    """
    check(config)
    settings = settings_of(config)
    benchmarks: list[Benchmark] = []
    for name in settings.benchmarks:
        table = read_task_file(Path(name)) if is_task_file(name) else None
        if table is not None:
            _check_limits(name, table, settings.benchmark_limit)
        benchmark = _benchmark(name, table, settings.benchmark_limit)
        if any(file_stem(benchmark.name) == file_stem(other.name) for other in benchmarks):
            problem, hint = f"duplicate benchmark {benchmark.name!r}", "remove one of them, or rename the task"
            raise UserError(problem, KEY, hint, code="benchmark.duplicate")
        benchmarks.append(benchmark)
    return benchmarks


def _check_limits(name: str, config: dict[str, Any], limit: int | None) -> None:
    """Load a task file and render all its items in a child process with limits of CPU time and memory.

    Its templates, regular expressions and YAML anchors come from anyone, and Python cannot interrupt them. Raises
    UserError as `_benchmark` does, and where a limit is exceeded.
    """

    def load_all() -> None:
        size, (_, hard) = psutil.Process().memory_info().data, resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (size + TASK_BYTES, hard))
        try:
            signal.setitimer(signal.ITIMER_PROF, LOAD_SECONDS)
            benchmark = _benchmark(name, config, limit)
            signal.setitimer(signal.ITIMER_PROF, LOAD_SECONDS + ITEM_SECONDS * benchmark.items)
            _rehearse(benchmark, benchmark.items, _where(name))
            signal.setitimer(signal.ITIMER_PROF, 0)
        except UserError:
            raise
        except Exception as error:  # the library raises anything
            raise _invalid(error, _where(name)) from error

    import_harness()  # inherited by the child
    try:
        in_child(load_all)
    except UserError as error:
        if error.code != TIMED_OUT:
            raise
        problem, hint = "a template or expression of the task takes too long", "fix the task file, or use another task"
        raise UserError(problem, _where(name), hint, code="benchmark.timeout") from error


def _rehearse(benchmark: Benchmark, items: int, where: str) -> None:
    """Score made-up answers. Raises UserError if the task is invalid."""

    try:
        benchmark.item_scores(fixed_answers(), items)
    except Exception as error:  # functions of tasks raise anything
        raise _invalid(error, where) from error


def _benchmark(name: str, config: dict[str, Any] | None, limit: int | None) -> Benchmark:
    task = _shipped_task(name) if config is None else _local_task(name, config)
    location = _where(name)
    if getattr(task, "MULTIMODAL", False):
        raise UserError("the task needs images or audio", location, "use another task", code="benchmark.unsupported")
    metric = _metric(task, location)
    if task.get_config("num_fewshot") is None:
        task.set_config(key="num_fewshot", value=0)
    try:
        items = [json.dumps(doc, sort_keys=True, default=str) for _, doc in task.doc_iterator(limit=limit)]
    except Exception as error:  # functions of tasks raise anything
        raise _invalid(error, location) from error
    if not items:
        raise UserError("the task has no items", location, "use another task", code="benchmark.no_items")
    # Data files count by their content, wherever they are.
    settings = {key: value for key, value in (config or {}).items() if key != "dataset_kwargs"}
    facts = [version("lm_eval"), task.task_name, settings]
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode())
    for item in items:
        digest.update(hashlib.sha256(item.encode()).digest())
    benchmark = Benchmark(
        name=task.task_name,
        task=task,
        metric=metric,
        filter=task._filters[0].name,
        higher_is_better=bool(task.higher_is_better().get(metric, True)),
        items=len(items),
        limit=limit,
        from_file=config is not None,
        fingerprint=digest.hexdigest(),
    )
    _rehearse(benchmark, min(len(items), REHEARSED_ITEMS), location)
    return benchmark


def _local_task(name: str, config: dict[str, Any]) -> Any:
    """The task of a task file that was read as data."""
    import_harness()
    import lm_eval.api.metrics  # noqa: F401 - registers the metrics
    from lm_eval.api.registry import metric_registry
    from lm_eval.api.task import ConfigurableTask

    for metric in config.get("metric_list") or []:
        if (wanted := metric["metric"]) not in metric_registry:
            problem = f"unknown metric {visible(wanted, 80)!r}"
            hint = "use a metric of lm-evaluation-harness, such as acc"
            raise UserError(problem, _where(name), hint, code="benchmark.unknown_metric")
    source = config["dataset_path"]
    options = {key: value for key, value in config.items() if key != "tag"}
    return _loaded(lambda: ConfigurableTask(config=options), None if source in BUILDERS else source, _where(name))


@cache
def task_manager() -> Any:
    """The library's index of its tasks. Creating it reads the YAML files of all tasks, which takes 4 CPU seconds."""
    import_harness()
    from lm_eval.tasks import TaskManager  # an extra

    return TaskManager()


def _shipped_task(name: str) -> Any:
    """A task that the library ships, by its name."""
    manager = task_manager()
    entry = manager.task_index.get(name)
    if entry is None:
        problem = f"unknown benchmark {visible(name, 80)!r}{suggestion(name, manager.all_subtasks, cutoff=0.7)}"
        hint = "`lm-eval ls tasks` lists the tasks; a task file ends with .yaml"
        raise UserError(problem, KEY, hint, code="benchmark.unknown")
    if entry.kind.name in ("GROUP", "TAG"):
        members = list(islice(_members(entry, manager.task_index, {name}), 3))
        hint = f"name its tasks, such as {', '.join(members)}" if members else "name its tasks"
        raise UserError(f"{name} is a group of tasks", KEY, hint, code="benchmark.group")
    config = entry.cfg or {}
    if config.get("unsafe_code"):
        problem = "the task runs code that the model writes"
        raise UserError(problem, _where(name), "use another task", code="benchmark.code")
    return _loaded(lambda: manager.load([name])["tasks"][name], config.get("dataset_path"), _where(name))


def _members(entry: Any, index: Mapping[str, Any], seen: set[str]) -> Iterator[str]:
    """Names of the single tasks in a group or with a tag."""
    listed = (entry.cfg or {}).get("task") or sorted(entry.tags)
    for name in listed if isinstance(listed, list) else []:
        if isinstance(name, str) and name in index and name not in seen:
            seen.add(name)
            is_task = index[name].kind.name not in ("GROUP", "TAG")
            yield from [name] if is_task else _members(index[name], index, seen)


def _loaded(load: Callable[[], Any], hub_id: str | None, where: str) -> Any:
    """The task with its data. Raises UserError if the dataset cannot be loaded or the task is invalid."""
    try:
        with hub_or_cache(hub_id):
            return load()
    except Exception as error:  # the Hub, file formats and functions of tasks raise dozens of different exceptions
        code = hub_error(error, hub_id).code if hub_id else ""
        if code in NO_DATA:
            hint = "run once with network access, or use a task file with local data"
            raise UserError(f"{NO_DATA[code]}: {hub_id}", where, hint, code="benchmark.no_data") from error
        raise _invalid(error, where) from error


def _metric(task: Any, where: str) -> str:
    """The first metric that is a mean over items."""
    from lm_eval.api.metrics import mean  # an extra

    aggregations: Mapping[str, Any] = task.aggregation()
    for metric, aggregate in aggregations.items():
        if aggregate is mean and (
            getattr(task, "_metric_fn_list", {}).get(metric) or task.get_config("process_results")
        ):
            return str(metric)
    names = ", ".join(map(str, aggregations)) or "none"
    problem = f"the task has no metric that is a mean over items (metrics: {visible(names, 100)})"
    raise UserError(problem, where, "use a task with acc, acc_norm or exact_match", code="benchmark.no_item_scores")


def _invalid(error: Exception, where: str) -> UserError:
    if isinstance(error, RemoteCode | SecurityError):
        return UserError(visible(str(error), 200), where, "use another task", code="benchmark.code")
    text = visible(re.sub(r"\s+", " ", str(error)), 200)
    problem = f"invalid task ({type(error).__name__}: {text})"
    return UserError(problem, where, "fix the task file, or use another task", code="benchmark.invalid_task")


def _where(name: str) -> str:
    return visible(name) if is_task_file(name) else f"{KEY}: {name}"
