"""What the launch screen starts: the protocol of a launch, its options, and a run as a launch."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from engine.config.errors import UserError
from engine.config.method_specs import reads
from engine.config.preset import EffectiveConfig, flatten
from engine.config.quantities import rate
from engine.config.schema import Config
from engine.config.setting_specs import parse_setting, setting_specs, setting_text
from engine.runs import run_dir
from engine.runs.continued_run import SAME_SETTINGS, continued_run_name
from engine.runs.run_dir import RunDir
from tui.command_line import run_command
from tui.preview.launch_context import DataCheck, LaunchContext
from tui.preview.launch_preview import LaunchPreview, run_preview
from tui.selection import Selection

ON_LAUNCH = (
    ("epochs", "train.epochs"),
    ("steps", "train.steps"),
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


class Launch(Protocol):
    """A run or a ladder before it starts; immutable."""

    @property
    def config(self) -> Config:
        """The configuration whose data is checked."""

    @property
    def command(self) -> str:
        """The equivalent command line."""

    def options(self) -> list[LaunchOption]:
        """The values that can be edited, in the order of their number keys."""

    def with_option(self, name: str, text: str) -> Launch:
        """The launch with another value, the default for ''. Raises UserError for an invalid one."""

    def preview(self, report: DataCheck) -> LaunchPreview:
        """What it will do."""


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
    def command(self) -> str:
        return run_command(self.selection, self.runs)

    def options(self) -> list[LaunchOption]:
        names = [name for name, key in ON_LAUNCH if reads(self.config.method, key)]
        start = continued_run_name(self.config)
        return [
            *setting_options(self.selection, self.config, names),
            LaunchOption(FROM_RUN, start, "a finished run, part of its name, or last", "none", bool(start)),
        ]

    def with_option(self, name: str, text: str) -> RunLaunch:
        if name == FROM_RUN:
            path = str(run_dir.find(self.runs, text).path) if text.strip() else None
            return self._with_selection(self.selection.with_setting("model.from_run", path))
        return self._with_selection(with_text(self.selection, dict(ON_LAUNCH)[name], text))

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


def setting_options(selection: Selection, config: Config, names: Collection[str]) -> list[LaunchOption]:
    """The options for some settings of ON_LAUNCH."""
    values, specs = flatten(config), setting_specs()
    shown = {"train.learning_rate": rate(config.train.learning_rate)}
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
