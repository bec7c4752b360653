"""What the launch screen starts: a run or a ladder as a launch, with its command line and the options to edit."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple, TypeVar

from engine.config.errors import UserError
from engine.config.method_specs import method_names, method_title, needing_less, reads
from engine.config.metric_specs import DEFAULT_MARGIN, POINT
from engine.config.model_files import find_model
from engine.config.preset import EffectiveConfig
from engine.config.quantities import rate
from engine.config.schema import DESCRIPTIVE_KEYS, SAME_AS_STARTING_RUN, Config
from engine.config.settings import Flat, flatten, parse_setting, setting_specs, setting_text
from engine.memory.formula.memory_budget import MemoryBudget
from engine.runs.home import runs_home
from engine.runs.ladder.ladder_plan import MAX_LEARNING_RATES, MAX_SEEDS, make_plan
from engine.runs.ladder.ladder_state import TIMING_PROBE, LadderPlan
from engine.runs.run import run_dir
from engine.runs.run.exports import artifact_words
from engine.runs.run.run_dir import RunDir, continued_run_name
from tui.preview.launch_context import DataCheck, LaunchContext
from tui.preview.launch_preview import LaunchPreview, ladder_preview, run_preview
from tui.preview.method_estimate import method_estimate
from tui.preview.method_table import Training
from tui.selection import DATA, METHOD, MODEL, Selection

OPTIONS = {"model.id": "--model", "data.id": "--data", "model.from_run": "--from"}
"""Settings that have an option on the command line."""


def run_command(selection: Selection, runs: Path, wait: bool = True) -> str:
    """`ftbench run PRESET …` for a run of this selection; `wait=False` starts while the GPU is busy."""
    method = ["--method", selection.method] if selection.method else []
    words = ["run", selection.preset, *method, *_given(selection.read_overrides(), runs)]
    return shlex.join(["ftbench", *words, *([] if wait else ["--now"])])


def _given(values: Flat, runs: Path) -> list[str]:
    """Options for these settings, and for the runs directory where it is not the runs home."""
    words: list[str] = []
    for key, value in values.items():
        option = OPTIONS.get(key)
        words += [option, str(value)] if option else ["--set", f"{key}={setting_text(value)}"]
    return [*words, *([] if runs.resolve() == runs_home() else ["--runs", str(runs)])]


ON_LAUNCH = (
    ("steps", "train.steps"),
    ("train rows", "data.max_rows"),
    ("test items", "evaluation.rows"),
    ("epochs", "train.epochs"),
    ("learning rate", "train.learning_rate"),
    ("rank", "adapter.rank"),
    ("batch size", "train.batch"),
    ("max length", "train.max_length"),
)
"""The settings that the launch screen edits; the configuration screen edits all."""
FROM_RUN = "from run"
"""The option for the run that a run starts from."""


@dataclass(frozen=True)
class LaunchOption:
    """One editable value of a launch."""

    name: str
    text: str
    """The value as it is edited; '' where it is not set."""
    accepts: str
    default: str
    """The value that an empty text restores."""
    changed: bool = False
    shown: str = ""
    """Shown instead of the text; '' shows the text, or the default where it is empty."""


@dataclass(frozen=True)
class RunLaunch:
    selection: Selection
    effective: EffectiveConfig
    runs: Path
    context: Callable[[], LaunchContext] = field(compare=False)

    @classmethod
    def of(cls, selection: Selection, runs: Path, context: Callable[[], LaunchContext]) -> RunLaunch:
        """A run of this selection. Raises UserError for an invalid one."""
        return cls(selection, selection.effective(), runs, context)

    @property
    def config(self) -> Config:
        return self.effective.config

    @property
    def command(self) -> str:
        """The equivalent command line."""
        return run_command(self.selection, self.runs)

    def options(self) -> list[LaunchOption]:
        """The values that can be edited, in the order of their rows."""
        names = [name for name, key in ON_LAUNCH if reads(self.config.method, key)]
        start = continued_run_name(self.config)
        return [
            *setting_options(self.selection, self.config, names),
            LaunchOption(FROM_RUN, start, "a finished run, part of its name, or last", "none", bool(start)),
        ]

    def with_option(self, name: str, text: str) -> RunLaunch:
        """The launch with another value, the default for ''. Raises UserError for an invalid one."""
        if name == FROM_RUN:
            path = str(RunDir.find(self.runs, text).path) if text.strip() else None
            selection = self.selection.with_setting("model.from_run", path)
        else:
            selection = with_text(self.selection, dict(ON_LAUNCH)[name], text)
        return RunLaunch.of(selection, self.runs, self.context)

    def with_preset(self, name: str) -> RunLaunch:
        """The launch of this preset, with the same data. Raises UserError for an invalid one."""
        return RunLaunch.of(self.selection.with_preset(name), self.runs, self.context)

    def trainings(self) -> list[Training]:
        """What it trains, for an estimate of its time."""
        return [Training(self.selection.name, self.config)]

    def preview(self, report: DataCheck) -> LaunchPreview:
        return run_preview(self.selection.name, self.effective, self.context(), report)


def selection_from_run(selection: Selection, run: RunDir) -> Selection:
    """The selection with everything that a run needs to start from this finished run; the dataset is kept.

    Raises UserError if the run cannot be read or its preset was deleted.
    """
    frozen = run_dir.read_frozen(run)
    own = frozen.config
    base = Selection(frozen.preset, {METHOD: own.method, MODEL: own.model.id}).with_setting(DATA, selection.data)
    now, then = flatten(base.effective().config), flatten(own)
    same = [key for key in SAME_AS_STARTING_RUN if key != MODEL and reads(own.method, key) and now[key] != then[key]]
    return replace(
        base, settings={**base.settings, **{key: then[key] for key in same}, "model.from_run": str(run.path)}
    )


def selection_of_run(run: RunDir) -> Selection:
    """The selection that gives a run's configuration. Raises UserError as `selection_from_run` does."""
    frozen = run_dir.read_frozen(run)
    base = Selection(frozen.preset, {METHOD: frozen.config.method})
    now, then = flatten(base.effective().config), flatten(frozen.config)
    ignored = [*DESCRIPTIVE_KEYS, *(["train.epochs"] if then["train.steps"] else [])]  # which replace the epochs
    for key, value in then.items():
        if value is not None and now[key] != value and key not in ignored:
            base = base.with_setting(key, value)
    return base


class FittingRun(NamedTuple):
    """A run with a smaller micro-batch or another method that fits by the formula."""

    selection: Selection
    change: str
    """`micro-batch 4`, `QLoRA`."""
    peak: int
    """Bytes."""


def fitting_runs(
    run: RunDir, micro_batch: int, budget: MemoryBudget, longest: Callable[[Config], int | None]
) -> list[FittingRun]:
    """What fits in place of a run that ran out of memory with this micro-batch: half of it or less, then methods that
    need less; at most one of each. Raises UserError as `selection_from_run` does.
    """
    selection = selection_of_run(run)
    sizes = (micro_batch >> halvings for halvings in range(1, micro_batch.bit_length()))
    kinds = (
        ((f"micro-batch {size}", selection.with_setting("train.micro_batch", size)) for size in sizes),
        (
            (method_title(name), selection.with_setting(METHOD, name).with_setting("train.micro_batch", None))
            for name in needing_less(str(selection.method))
        ),
    )
    found = list[FittingRun]()
    for kind in kinds:
        for change, candidate in kind:
            config = candidate.effective().config
            predicted = method_estimate(config, find_model(config.model), budget, longest(config))
            if predicted.fit == "fits" and predicted.peak is not None:
                found.append(FittingRun(candidate, change, predicted.peak))
                break
    return found


UNSET = {"train.steps": "set by the epochs", "data.max_rows": "all", "evaluation.rows": "all"}
"""What these settings mean while they have no value."""


def setting_options(selection: Selection, config: Config, names: Collection[str]) -> list[LaunchOption]:
    """The options for some settings of ON_LAUNCH."""
    values, specs = flatten(config), setting_specs()
    shown = {"train.learning_rate": rate(config.train.learning_rate)}
    shown |= {key: text for key, text in UNSET.items() if not values[key]}
    if config.train.steps:
        shown["train.epochs"] = "replaced by steps"
    return [
        LaunchOption(
            name,
            setting_text(values[key]),
            specs[key].accepts,
            restored_text(selection, key) if key in selection.settings else setting_text(values[key]) or "unset",
            key in selection.settings,
            shown.get(key, ""),
        )
        for name, key in ON_LAUNCH
        if name in names
    ]


def with_text(selection: Selection, key: str, text: str) -> Selection:
    """The selection with a setting as it was typed; '' restores the preset's value or the default."""
    return selection.with_setting(key, parse_setting(key, text) if text.strip() else None)


def restored_text(selection: Selection, key: str) -> str:
    """The value that an empty text restores."""
    try:
        return setting_text(flatten(selection.with_setting(key, None).effective().config)[key]) or "unset"
    except UserError:
        return "unset"


ON_LADDER = ("steps", "train rows", "test items", "epochs", "max length")
"""The settings of ON_LAUNCH that can be edited for a ladder: they are the same for all rungs."""
YES_NO = {"yes": True, "no": False}
T = TypeVar("T")


LADDER_OPTIONS = {
    "rungs": (" ".join(method_names()), "methods, or NAME=METHOD,KEY=VALUE, separated by spaces"),
    "seeds": ("1", f"int, ≥ 1 and ≤ {MAX_SEEDS}"),
    "learning rates": (
        "1",
        f"int, ≥ 1 and ≤ {MAX_LEARNING_RATES}: learning rates to try per rung on validation rows",
    ),
    "artifacts": ("none", f"{', '.join(artifact_words())}, separated by commas; RUNG:merged for one rung"),
    "margin": (
        f"{DEFAULT_MARGIN / POINT:g}",
        "float, ≥ 0: accepted decrease in quality in points; for a loss, hundredths of nats/token",
    ),
    TIMING_PROBE: ("yes", "yes, no: measure a few steps of every rung first"),
    "fresh": ("no", "yes, no: do not reuse finished runs"),
}
"""Option of a ladder on the launch screen -> its default, and what it accepts."""


WITH_VALUE = {"seeds": "--seeds", "learning rates": "--learning-rates", "margin": "--margin", "artifacts": "--ship"}
FLAGS = {TIMING_PROBE: "--no-probe", "fresh": "--fresh"}
"""Option of a ladder -> its word on the command line, where it differs from its default."""


def option_words(given: Mapping[str, str]) -> list[str]:
    """The options that were changed, as words of the command line."""
    words = [word for rung in shlex.split(given.get("rungs", "")) for word in ("--rung", rung)]
    words += [word for name, option in WITH_VALUE.items() if name in given for word in (option, given[name])]
    return [*words, *(flag for name, flag in FLAGS.items() if name in given)]


@dataclass(frozen=True)
class LadderLaunch:
    selection: Selection
    given: Mapping[str, str]
    """The options that were changed, as they were typed."""
    plan: LadderPlan
    runs: Path
    context: Callable[[], LaunchContext] = field(compare=False)

    @classmethod
    def of(
        cls,
        selection: Selection,
        runs: Path,
        context: Callable[[], LaunchContext],
        given: Mapping[str, str] | None = None,
    ) -> LadderLaunch:
        """A ladder of this selection. Raises UserError for an invalid one."""
        given = given or {}
        return cls(selection, given, _plan(selection, given, runs), runs, context)

    @property
    def config(self) -> Config:
        return self.plan.rungs[0].config

    @property
    def command(self) -> str:
        return self.plan.command

    def options(self) -> list[LaunchOption]:
        options = setting_options(self.selection, self.config, ON_LADDER)
        for name, (default, accepts) in LADDER_OPTIONS.items():
            text = self.given.get(name, "")
            shown = text or ("" if default == "none" else default)
            options.append(LaunchOption(name, shown, accepts, default, bool(text)))
        return options

    def with_option(self, name: str, text: str) -> LadderLaunch:
        if name in ON_LADDER:
            selection = with_text(self.selection, dict(ON_LAUNCH)[name], text)
            return LadderLaunch.of(selection, self.runs, self.context, self.given)
        given = {**self.given, name: text.strip()}
        if text.strip() in ("", LADDER_OPTIONS[name][0]):
            del given[name]
        return LadderLaunch.of(self.selection, self.runs, self.context, given)

    def with_preset(self, name: str) -> LadderLaunch:
        return LadderLaunch.of(self.selection.with_preset(name), self.runs, self.context, self.given)

    def trainings(self) -> list[Training]:
        return [Training(rung.name, rung.config, len(self.plan.seeds)) for rung in self.plan.rungs]

    def preview(self, report: DataCheck) -> LaunchPreview:
        return ladder_preview(self.plan, self.context(), report)


Launch = RunLaunch | LadderLaunch
"""A run or a ladder before it starts; immutable."""


def _plan(selection: Selection, given: Mapping[str, str], runs: Path) -> LadderPlan:
    """The plan of a ladder. Raises UserError for a value that is not a number or not yes or no."""

    def value(name: str, read: Callable[[str], T], hint: str) -> T:
        text = given.get(name, LADDER_OPTIONS[name][0])
        try:
            return read(text)
        except (ValueError, KeyError) as error:
            raise UserError(f"invalid {name} {text!r}", hint=f"use {hint}", code="ladder.invalid_option") from error

    try:
        rungs = shlex.split(given.get("rungs", ""))
    except ValueError as error:
        raise UserError(f"invalid rungs ({error})", "--rung", "close the quotation", code="ladder.rung_name") from error
    command = ["ftbench", "ladder", selection.preset, *option_words(given), *_given(selection.overrides(), runs)]
    return make_plan(
        selection.preset,
        rungs,
        selection.overrides(),
        value("seeds", int, "a whole number"),
        value("learning rates", int, "a whole number"),
        value(TIMING_PROBE, YES_NO.__getitem__, "yes or no"),
        value("fresh", YES_NO.__getitem__, "yes or no"),
        shlex.join(command),
        [word for word in given.get("artifacts", "").split(",") if word.strip()],
        value("margin", float, "a number") * POINT,
    )
