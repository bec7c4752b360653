"""Torch-free packages and the first paint import no heavy libraries, tested in a new process."""

from __future__ import annotations

import subprocess
import sys

import pytest
from imported import HEAVY, loaded_by

TEXTUAL = ("tui", "textual", "rich", "typer")


@pytest.mark.parametrize(
    "code",
    [
        "import tui.cli.main, tui.live.following, tui.history.tables, tui.cli.run, tui.cli.runs, tui.cli.demo, "
        "tui.cli.doctor, tui.cli.data, tui.cli.presets, tui.cli.pull",
        "import engine.config.preset_library, engine.runs.launch, engine.runs.rpc_client, engine.runs.run.event_log",
        "import engine.__main__",
    ],
)
def test_nothing_heavy_is_imported(code: str) -> None:
    assert not loaded_by(code) & set(HEAVY)


def test_subcommands_that_draw_no_screen_import_no_textual() -> None:
    code = (
        "import tui.cli.main, tui.cli.run, tui.cli.runs, tui.cli.data, tui.cli.plan, tui.cli.ladder, tui.cli.export, "
        "tui.cli.gate, tui.cli.doctor"
    )
    assert "textual" not in loaded_by(code)


def test_the_first_paint_imports_only_what_it_draws() -> None:
    """Textual and a few modules of ftbench; modules for runs, presets and datasets are imported later."""
    code = "import sys, tui.start, tui.cli.bench, tui.app; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    ours = [name for name in done.stdout.split() if name.startswith(("tui.", "engine."))]
    assert "tui.screens.bench" in ours  # the list below uses current module names
    later = ("tui.live.watcher", "tui.data.", "tui.preview", "tui.history", "engine.runs.run.events", "typer")
    assert not [name for name in done.stdout.split() if name.startswith((*later, "engine.config.preset"))]


def test_the_worker_imports_no_user_interface_and_no_data_frames() -> None:
    loaded = loaded_by(
        "from engine.methods.library_imports import import_libraries; import_libraries(); import engine.worker.main"
    )
    assert {"torch", "transformers", "peft", "bitsandbytes"} <= loaded
    assert not loaded & {*TEXTUAL, "datasets", "pandas"}
