"""Settings of `[evaluation]`: the benchmarks on which a run is scored too."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Protocol, cast

from msgspec import field, structs

from engine.config.errors import UserError
from engine.config.section import Positive, Problem, Section, Traits
from engine.config.text import visible

if TYPE_CHECKING:
    from engine.config.schema import Config

KEY, LIMIT = "evaluation.benchmarks", "evaluation.benchmark_limit"
TASK_FILES = (".yaml", ".yml")


class BenchmarkSettings(Protocol):
    """The section with these settings, for type checkers."""

    benchmarks: list[str]
    benchmark_limit: int | None
    when: str


def extend(base: type[Section]) -> type[Section]:
    """The section `evaluation` with the settings of benchmarks."""

    class Evaluation(base, frozen=True):  # type: ignore[valid-type, call-arg]
        """How the base and the tuned model are scored on the test rows."""

        benchmarks: Annotated[list[str], Traits("path", "shared", "unprobed")] = field(default_factory=list)
        """Benchmarks on which forgetting is measured too: names of tasks of lm-evaluation-harness (arc_easy) and task
        files (.yaml). Needs the optional dependency ftbench[benchmarks]."""
        benchmark_limit: Annotated[Positive | None, Traits("shared", "unprobed", "optional")] = None
        """Maximum number of items per benchmark, its first ones; unset: all."""

        def problems(self) -> Iterator[Problem]:
            return problems(cast(BenchmarkSettings, self))

        def __reduce__(self) -> tuple[object, tuple[dict[str, object]]]:
            return _section, (structs.asdict(self),)  # pickle does not find a class that a function defines

    return Evaluation


def _section(values: dict[str, object]) -> Section:
    from engine.config.schema import SECTIONS  # which imports this module

    return SECTIONS["evaluation"](**values)


def problems(settings: BenchmarkSettings) -> Iterator[Problem]:
    """Values that cannot be used."""
    if "" in map(str.strip, settings.benchmarks):
        hint = "give the name of a task or the path of a task file"
        yield KEY, f"empty value in {KEY}", hint, "preset.empty_value"
    for name in settings.benchmarks:
        if settings.benchmarks.count(name) > 1:
            yield KEY, f"duplicate benchmark {name!r}", "remove one of them", "preset.duplicate_benchmark"
    if settings.benchmarks and settings.when == "never":
        problem = f'{KEY} is not read with evaluation.when = "never"'
        yield KEY, problem, "remove it, or --set evaluation.when=both", "preset.unread_benchmark"
    if settings.benchmark_limit is not None and not settings.benchmarks:
        yield LIMIT, f"{LIMIT} applies only with {KEY}", f"remove it, or set {KEY}", "preset.unread_benchmark"


def settings_of(config: Config) -> BenchmarkSettings:
    return cast(BenchmarkSettings, config.evaluation)


def is_task_file(benchmark: str) -> bool:
    """Whether it is a task file instead of the name of a task."""
    return benchmark.endswith(TASK_FILES)


def check(config: Config) -> None:
    """Raise UserError if lm-evaluation-harness is not installed or a task file does not exist.

    Names of tasks and the content of files are checked by the worker, before it loads the model.
    """
    benchmarks = settings_of(config).benchmarks
    if benchmarks and importlib.util.find_spec("lm_eval") is None:
        hint = f"`pip install 'ftbench[benchmarks]'`, or remove {KEY}"
        raise UserError("lm-evaluation-harness is not installed", KEY, hint, code="benchmark.not_installed")
    for benchmark in benchmarks:
        if is_task_file(benchmark) and not Path(benchmark).is_file():
            where, hint = visible(benchmark), f"check the path in {KEY}"
            raise UserError("task file not found", where, hint, code="benchmark.file_not_found")
