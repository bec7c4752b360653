"""Run the real command in a real process, for tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from places import TESTS

FTBENCH = str(Path(sys.executable).with_name("ftbench"))
Execute = Callable[..., "subprocess.CompletedProcess[str]"]
"""`ftbench`, of this module or of `forked`."""
SMALL = TESTS / "fixtures" / "small"
"""A model with a twelfth of the embedded model's weights, made by `make_small_model.py`."""
ON_SMALL = ["--set", f'model.id="{SMALL}"']
"""For runs whose answers do not matter: they take a third of the CPU time of those on the embedded model."""
WHOLE = [
    *("--set", "train.steps=4"),
    *("--set", "train.evaluate_every=4"),
    *("--set", "train.batch=4"),
    *("--set", "data.validation=0.005"),
    *("--set", "evaluation.rows=6"),
    *("--set", "evaluation.max_new_tokens=8"),
    *("--set", "cost.max_other_load=1"),  # other tests run at the same time
]
"""Settings for a short run that does all that a run does, on all rows. 8 validation rows, and one
validation loss before the last: with the 200 of the dataset and four of them, they take half of the run.
"""
MICRO = [
    *WHOLE,
    *("--set", "data.max_rows=200"),
    *("--set", "train.probe=false"),
    *("--set", 'evaluation.forgetting_text="none"'),
]
"""Settings for a short run on the embedded model and dataset: 200 rows, no dry run, no probe and no general text, which
take a third of the CPU time of `WHOLE`. With `ON_SMALL` a tenth.
"""


def with_steps(settings: list[str], steps: int) -> list[str]:
    """These settings for a run of `steps` steps, with validation losses after half of them and after all."""
    changed = {"train.steps=4": f"train.steps={steps}", "train.evaluate_every=4": f"train.evaluate_every={steps // 2}"}
    return [changed.get(word, word) for word in settings]


def as_installed(folder: Path) -> None:
    """For benchmarks: cache bytecode in this folder from now on, so that the second start finds it.

    An installed program has cached bytecode; with PYTHONDONTWRITEBYTECODE set, a checkout is compiled at every start.
    """
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["PYTHONPYCACHEPREFIX"] = str(folder)


def ftbench(*arguments: str, timeout: float = 1200, **how: Any) -> subprocess.CompletedProcess[str]:
    """Run `ftbench ARGUMENTS` without a terminal and wait."""
    return subprocess.run(
        [FTBENCH, *arguments], capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL, **how
    )


def only_run(tmp_path: Path) -> Path:
    """The one run directory of this test."""
    (run,) = (tmp_path / "runs").iterdir()
    return run


def events_of(run: Path) -> list[dict[str, Any]]:
    """Every event of a run, in order, without an incomplete last line."""
    complete, _, _ = (run / "events.jsonl").read_text().rpartition("\n")
    return [json.loads(line) for line in complete.splitlines()]
