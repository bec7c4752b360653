"""What extensions add to the core: one way for those that ship with ftbench, and for those of other packages.

- `ftbench.methods`, `ftbench.metrics`: a MethodSpec, a MetricSpec, under its name.
- `ftbench.panes`: a widget with the protocol `Pane` (`tui/widgets/pane.py`).
- `ftbench.commands`: a function under the name of the command, `track` or `presets import`; its parameters are the
  options, its result is the exit status.
- `ftbench.options`: further options of a command: a function under the command and a name, `export push`, whose
  parameters are the options. What it returns, unless None, is given to the command (`tui/cli/main.py`).
- `ftbench.comparisons`: a ComparisonDir (`engine/runs/ladder/ladder_dir.py`) under its KIND, `sweep`: the directory of
  what is made of several ladders; `ftbench.comparison_views`: how the command line shows it, with the functions of
  `ComparisonView` (`tui/cli/comparisons.py`).
- `ftbench.requests`: a function that answers a request, `doctor.train`, in a process that may import torch
  (`engine/worker/requests.py`).
- `ftbench.executors`: a batch system with the functions of `BatchSystem` (`engine/executors/jobs.py`), `slurm`.
- `ftbench.exporters`: an ExportFormat (`engine/runs/run/export_formats.py`), under the name of its kind, `gguf`.
- `ftbench.rungs`: a RungKind (`engine/runs/ladder/rung_kinds.py`): rungs that are not trained.
- `ftbench.runs`: an object with the functions of `RunHooks` (`engine/runs/run_hooks.py`).
- `ftbench.screens`: a `ScreenKeys` (`tui/command.py`): keys on the core's screens, and a screen of its own; those of
  other packages are added after the first frame, and have no keys on the bench itself.
- `ftbench.reports`: an object with the functions of `ReportHooks` (`engine/runs/ladder/report_hooks.py`).
- `ftbench.schemas`: the type of a JSON file or of what `--json` prints, for `ftbench schema`.
- `ftbench.tasks`: an object with the functions of `TaskHooks` (`engine/runs/task_hooks.py`): items beside the test rows
  on which models are scored too.
- `ftbench.settings`: a Section, the table of this name in presets; where the core has this table, a function that
  returns it with further settings. Of shipped extensions only: the bench reads the
  schema before its first frame, and the metadata of other packages takes 40 ms.

`engine/extensions/__init__.py` lists the first kind; an entry point of the same group and name in the metadata of
another package is the second.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from operator import attrgetter
from typing import Any, NamedTuple

from engine.config.errors import UserError, error_text
from engine.extensions import SHIPPED

FIX = "fix or uninstall the package"


class Hook(NamedTuple):
    """What one extension adds at one place."""

    group: str
    """`ftbench.commands`."""
    name: str
    place: str
    """`module:attribute`, or a module, which is imported when the hook is loaded."""
    about: str = ""
    """One sentence, for the list of commands, or the title of a schema; '' where only the object itself can tell."""

    def load(self) -> Any:
        """Its object. Raises UserError where it cannot be imported."""
        module, _, attribute = self.place.partition(":")
        try:
            loaded = import_module(module)
            return attrgetter(attribute)(loaded) if attribute else loaded
        except Exception as error:
            problem = f"cannot import {self.name!r} of {self.group}: {error_text(error)}"
            raise UserError(problem, self.place, FIX, "extension.import_failed") from error


def shipped_hooks(group: str) -> dict[str, Hook]:
    """By name: those of the extensions that ship with ftbench."""
    return {name: Hook(group, name, *entry) for name, entry in SHIPPED.get(group, {}).items()}


def hooks(group: str) -> dict[str, Hook]:
    """By name: those of the extensions that ship with ftbench, then those of other packages.

    Raises UserError where two have one name.
    """
    from importlib.metadata import entry_points  # 70 ms, then 3 ms for the metadata of all packages

    known = shipped_hooks(group)
    for entry in entry_points(group=group):
        if entry.name in known:
            problem = f"two packages add {entry.name!r} to {group}"
            raise UserError(problem, entry.value, FIX, "extension.name_taken")
        known[entry.name] = Hook(group, entry.name, entry.value)
    return known


def load_all(group: str, what: str, is_valid: Callable[[Any], bool]) -> Iterator[tuple[Hook, Any]]:
    """Each hook with its object. Raises UserError for one that is not `what` or cannot be imported."""
    for hook in hooks(group).values():
        loaded = hook.load()
        if not is_valid(loaded):
            raise UserError(f"{hook.name!r} of {group} is not {what}", hook.place, FIX, "extension.invalid")
        yield hook, loaded
