"""Benchmarks that a run is scored on next to its test rows, without lm-evaluation-harness, which scores them."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from engine.config.errors import UserError
from engine.config.schema import Evaluation
from engine.config.text import visible

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
        do = f"`pip install 'ftbench[{EXTRA}]'`, or remove {SETTING}"
        raise UserError("lm-evaluation-harness is not installed", SETTING, do, code="benchmark.not_installed")
    for benchmark in evaluation.benchmarks:
        if is_task_file(benchmark) and not Path(benchmark).is_file():
            do = f"check the path in {SETTING}"
            raise UserError("task file not found", visible(benchmark), do, code="benchmark.file_not_found")
