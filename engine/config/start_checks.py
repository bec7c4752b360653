"""Checks when a run starts: settings that cannot be used with sharded weights, and missing benchmarks."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from engine.config.errors import UserError
from engine.config.method_specs import method_spec
from engine.config.schema import Config, Evaluation
from engine.config.text import visible


def refuse_whole_weights(config: Config) -> None:
    """Raise UserError for settings that need whole weights. Called for runs whose weights FSDP shards."""
    has_adapters = not method_spec(config.method).trains_weights
    for key, applies in (
        ("adapter.init", has_adapters and config.adapter.init == "pissa"),
        ("adapter.dora", has_adapters and config.adapter.dora),
        ("train.compile", config.train.compile),
    ):
        if applies:
            problem = f"{key} needs whole weights, and train.parallelism = fsdp divides them among the devices"
            hint = f'set train.parallelism = "ddp", or leave {key} out'
            raise UserError(problem, key, hint, code="train.not_sharded")


TASK_FILES = (".yaml", ".yml")


def is_task_file(benchmark: str) -> bool:
    """Whether a value of `evaluation.benchmarks` is a task file instead of the name of a task."""
    return benchmark.endswith(TASK_FILES)


def check_benchmarks(evaluation: Evaluation) -> None:
    """Raise UserError if lm-evaluation-harness is not installed or a task file does not exist.

    Names of tasks and the content of files are checked by the worker, before it loads the model.
    """
    key = "evaluation.benchmarks"
    if evaluation.benchmarks and importlib.util.find_spec("lm_eval") is None:
        hint = f"`pip install 'ftbench[benchmarks]'`, or remove {key}"
        raise UserError("lm-evaluation-harness is not installed", key, hint, code="benchmark.not_installed")
    for benchmark in evaluation.benchmarks:
        if is_task_file(benchmark) and not Path(benchmark).is_file():
            where, hint = visible(benchmark), f"check the path in {key}"
            raise UserError("task file not found", where, hint, code="benchmark.file_not_found")
