"""Import lm-evaluation-harness: quietly, without telemetry and remote code, and with templates in a sandbox."""

from __future__ import annotations

import functools
import logging
import os
from functools import cache
from importlib.metadata import version
from types import ModuleType
from typing import Any, NoReturn

from jinja2 import StrictUndefined
from jinja2.sandbox import SandboxedEnvironment

from engine.config.errors import RunFailed
from engine.config.text import visible


@cache
def import_harness() -> ModuleType:
    """The package `lm_eval`. The caller made sure that it is installed."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # before the imports, which read it
    import datasets
    import evaluate
    import lm_eval.api.task
    import lm_eval.utils
    import tqdm

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    evaluate.load = _refuse_metric
    lm_eval.api.task.tqdm = functools.partial(tqdm.tqdm, disable=True)
    lm_eval.utils.env = _sandbox(lm_eval.utils.env.filters["regex_replace"])
    return lm_eval


def harness_version() -> str:
    return version("lm_eval")


class RemoteCode(RunFailed):
    """A task needs code that would be downloaded."""


def _refuse_metric(name: str, *arguments: object, **options: object) -> NoReturn:
    """In the place of `evaluate.load`, which downloads a metric as Python code and runs it."""
    raise RemoteCode(f"the metric {visible(str(name), 80)} of the library evaluate is remote code", "benchmark.code")


def _sandbox(regex_replace: object) -> SandboxedEnvironment:
    """The environment of the library's templates, in which a template cannot reach Python's internals.

    The library itself renders templates of task files without a sandbox: they could run any code.
    """
    sandbox = SandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)
    sandbox.filters["regex_replace"] = regex_replace
    return sandbox


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
