"""What the launch screen starts: a run or a ladder as a launch, with the options that it shows and edits."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from pathlib import Path

from engine.config.errors import UserError
from engine.config.method_specs import method_names, reads
from engine.config.metric_specs import DEFAULT_MARGIN, POINT
from engine.config.preset import EffectiveConfig
from engine.config.preset_values import flatten
from engine.config.quantities import rate
from engine.config.schema import Config
from engine.config.setting_specs import parse_setting, setting_specs, setting_text
from engine.runs.ladder.ladder_plan import MAX_LEARNING_RATES, MAX_SEEDS, make_plan
from engine.runs.ladder.ladder_state import TIMING_PROBE
from engine.runs.ladder.rungs import LadderPlan
from engine.runs.resuming import SAME_SETTINGS, continued_run_name
from engine.runs.run import run_dir
from engine.runs.run.exports import artifact_words
from engine.runs.run.run_dir import RunDir
from tui.command_line import ladder_command, run_command
from tui.preview.launch_context import DataCheck, LaunchContext
from tui.preview.launch_preview import LaunchPreview, ladder_preview, run_preview
from tui.preview.method_table import Training
from tui.selection import Selection

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
    """One run of the selection."""

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
    def configs(self) -> list[Config]:
        """The configurations of all runs; the data of the first one is checked."""
        return [self.config]

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
            path = str(run_dir.find(self.runs, text).path) if text.strip() else None
            return self._with_selection(self.selection.with_setting("model.from_run", path))
        return self._with_selection(with_text(self.selection, dict(ON_LAUNCH)[name], text))

    def with_preset(self, name: str) -> RunLaunch:
        """The launch of this preset, with the same data. Raises UserError for an invalid one."""
        return self._with_selection(self.selection.with_preset(name))

    def trainings(self) -> list[Training]:
        """What it trains, for an estimate of its time."""
        return [Training(self.selection.name, self.config)]

    def preview(self, report: DataCheck) -> LaunchPreview:
        return run_preview(self.selection.name, self.effective, self.context(), report)

    def _with_selection(self, selection: Selection) -> RunLaunch:
        return replace(self, selection=selection, effective=selection.effective())


def selection_from_run(selection: Selection, run: RunDir) -> Selection:
    """The selection with everything that a run needs to start from this finished run; the dataset is kept.

    Raises UserError if the run cannot be read or its preset was deleted.
    """
    frozen = run_dir.read_frozen(run)
    own = frozen.config
    base = Selection(frozen.preset, own.method, own.model.id, selection.data)
    now, then = flatten(base.effective().config), flatten(own)
    same = [key for key in SAME_SETTINGS if key != "model.id" and reads(own.method, key) and now[key] != then[key]]
    return replace(base, settings={**{key: then[key] for key in same}, "model.from_run": str(run.path)})


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
            restored_text(selection, key),
            selection.changed(key),
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


@dataclass(frozen=True)
class LadderOptions:
    """The options of `ftbench ladder` as they are typed; '' is the default."""

    rungs: str = ""
    seeds: str = ""
    rates: str = ""
    ship: str = ""
    margin: str = ""
    probe: str = ""
    fresh: str = ""

    def words(self) -> list[str]:
        """As words of the command line."""
        words = [word for rung in shlex.split(self.rungs) for word in ("--rung", rung)]
        given = (("--seeds", self.seeds), ("--learning-rates", self.rates), ("--margin", self.margin))
        words += [word for option, value in given if value for word in (option, value)]
        words += ["--ship", self.ship] if self.ship else []
        words += ["--no-probe"] if self.probe == "no" else []
        return [*words, "--fresh"] if self.fresh == "yes" else words


DEFAULTS = LadderOptions(
    " ".join(method_names()), "1", "1", "none", f"{DEFAULT_MARGIN / POINT:g}", probe="yes", fresh="no"
)
ACCEPTS = LadderOptions(
    "methods, or NAME=METHOD,KEY=VALUE, separated by spaces",
    f"int, ≥ 1 and ≤ {MAX_SEEDS}",
    f"int, ≥ 1 and ≤ {MAX_LEARNING_RATES}: learning rates to try per rung on validation rows",
    f"{', '.join(artifact_words())}, separated by commas; RUNG:q4_k_m for one rung",
    "float, ≥ 0: accepted decrease in quality in points; for a loss, hundredths of nats/token",
    "yes, no: measure a few steps of every rung first",
    "yes, no: do not reuse finished runs",
)
TITLES = {
    "rungs": "rungs",
    "seeds": "seeds",
    "rates": "learning rates",
    "ship": "artifacts",
    "margin": "margin",
    "probe": TIMING_PROBE,
    "fresh": "fresh",
}
"""Option -> its name on the launch screen."""


@dataclass(frozen=True)
class LadderLaunch:
    """A ladder of the selection."""

    selection: Selection
    given: LadderOptions
    plan: LadderPlan
    runs: Path
    context: Callable[[], LaunchContext] = field(compare=False)

    @classmethod
    def of(
        cls,
        selection: Selection,
        runs: Path,
        context: Callable[[], LaunchContext],
        given: LadderOptions | None = None,
    ) -> LadderLaunch:
        """A ladder of this selection. Raises UserError for an invalid one."""
        given = given or LadderOptions()
        return cls(selection, given, _plan(selection, given, runs), runs, context)

    @property
    def config(self) -> Config:
        return self.plan.rungs[0].config

    @property
    def configs(self) -> list[Config]:
        return [rung.config for rung in self.plan.rungs]

    @property
    def command(self) -> str:
        return self.plan.command

    def options(self) -> list[LaunchOption]:
        settings = []
        for key, title in TITLES.items():
            text, default = getattr(self.given, key), getattr(DEFAULTS, key)
            shown = text or ("" if default == "none" else default)
            settings.append(LaunchOption(title, shown, getattr(ACCEPTS, key), default, bool(text)))
        return [*setting_options(self.selection, self.config, ON_LADDER), *settings]

    def with_option(self, name: str, text: str) -> LadderLaunch:
        if name in ON_LADDER:
            selection = with_text(self.selection, dict(ON_LAUNCH)[name], text)
            return LadderLaunch.of(selection, self.runs, self.context, self.given)
        key = next(key for key, title in TITLES.items() if title == name)
        value = "" if text.strip() == getattr(DEFAULTS, key) else text.strip()
        return LadderLaunch.of(self.selection, self.runs, self.context, replace(self.given, **{key: value}))

    def with_preset(self, name: str) -> LadderLaunch:
        return LadderLaunch.of(self.selection.with_preset(name), self.runs, self.context, self.given)

    def trainings(self) -> list[Training]:
        return [Training(rung.name, rung.config, len(self.plan.seeds)) for rung in self.plan.rungs]

    def preview(self, report: DataCheck) -> LaunchPreview:
        return ladder_preview(self.plan, self.context(), report)


Launch = RunLaunch | LadderLaunch
"""A run or a ladder before it starts; immutable."""


def _plan(selection: Selection, given: LadderOptions, runs: Path) -> LadderPlan:
    """The plan of a ladder. Raises UserError for a value that is not a number or not yes or no."""
    try:
        rungs = shlex.split(given.rungs)
    except ValueError as error:
        raise UserError(f"invalid rungs ({error})", "--rung", "close the quotation", code="ladder.rung_name") from error
    return make_plan(
        selection.preset,
        rungs,
        selection.overrides(),
        _number("seeds", given.seeds or DEFAULTS.seeds),
        _number("learning rates", given.rates or DEFAULTS.rates),
        _yes("probe", given.probe or DEFAULTS.probe),
        _yes("fresh", given.fresh or DEFAULTS.fresh),
        ladder_command(selection, given.words(), runs),
        [word for word in given.ship.split(",") if word.strip()],
        _decimal("margin", given.margin or DEFAULTS.margin) * POINT,
    )


def _number(name: str, text: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise UserError(f"invalid {name} {text!r}", hint="use a whole number", code="ladder.invalid_option") from error


def _decimal(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise UserError(f"invalid {name} {text!r}", hint="use a number", code="ladder.invalid_option") from error


def _yes(name: str, text: str) -> bool:
    if text not in YES_NO:
        raise UserError(f"invalid {name} {text!r}", hint="use yes or no", code="ladder.invalid_option")
    return YES_NO[text]
