"""Torch-free packages and the first paint import no heavy libraries, tested in a new process."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from imported import HEAVY, loaded_by
from screen import Terminal

TEXTUAL = ("tui", "textual", "rich", "typer")


@pytest.mark.parametrize(
    "code",
    [
        "import tui.cli.main, tui.cli.following, tui.history.tables, tui.cli.run, tui.cli.runs, tui.cli.ladder, "
        "tui.extensions.doctor.command, tui.cli.data, tui.cli.presets, tui.cli.pull",
        "import engine.config.preset_library, engine.runs.start, engine.runs.rpc_client, engine.runs.run.event_log",
        "import engine.__main__",
    ],
)
def test_nothing_heavy_is_imported(code: str) -> None:
    assert not loaded_by(code) & set(HEAVY)


def test_subcommands_that_draw_no_screen_import_no_textual() -> None:
    code = (
        "import tui.cli.main, tui.cli.run, tui.cli.runs, tui.cli.data, tui.cli.plan, tui.cli.ladder, tui.cli.export, "
        "tui.cli.gate, tui.extensions.doctor.command"
    )
    assert "textual" not in loaded_by(code)


FIRST_FRAME = """
import sys
from textual.drivers.linux_driver import LinuxDriver

def write(driver, data, write=LinuxDriver.write):
    write(driver, data)
    if "ready:" in data:  # the status line
        open("modules", "w").write(" ".join(sys.modules))
        LinuxDriver.write = write

LinuxDriver.write = write
from tui.start import main
main()
"""


def test_the_first_frame_imports_only_what_it_draws(tmp_path: Path) -> None:
    """Textual and a few modules of ftbench; modules for runs, presets, datasets and the machine are imported later."""
    (tmp_path / "start.py").write_text(FIRST_FRAME)
    options = ("--runs", str(tmp_path / "runs"))
    terminal = Terminal("start.py", *options, cwd=tmp_path, program=sys.executable, env={"PYTHONSAFEPATH": "1"})
    terminal.wait("fits")
    terminal.press("q")
    assert terminal.leave() == 0
    imported = (tmp_path / "modules").read_text().split()
    assert "tui.screens.bench" in imported  # the list below uses current module names
    later: tuple[str, ...] = (
        "tui.live.watcher",
        "tui.live.machine",
        "tui.data.",
        "tui.preview",
        "tui.history",
        "engine.config.preset",
    )
    later += ("engine.runs.run.events", "engine.runs.run.run_dir", "importlib.metadata", "psutil", "pynvml", "typer")
    assert not [name for name in imported if name.startswith(later)]


def test_the_worker_imports_no_user_interface_and_no_data_frames() -> None:
    loaded = loaded_by(
        "from engine.methods.library_imports import import_libraries; import_libraries(); import engine.worker.main"
    )
    assert {"torch", "transformers", "peft", "bitsandbytes"} <= loaded
    assert not loaded & {*TEXTUAL, "datasets", "pandas"}
