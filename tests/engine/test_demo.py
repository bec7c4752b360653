"""`ftbench demo`: three runs and a table; shortened by presets of the user's own that hide the shipped ones."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from command import ftbench

from engine.contract.schema import METHODS

SHORT = """
method = "{method}"
[train]
steps = 3
batch = 4
[evaluation]
metric = "json"
rows = 4
max_new_tokens = 8
"""


@pytest.fixture
def short_presets() -> None:
    folder = Path(os.environ["XDG_CONFIG_HOME"]) / "ftbench" / "presets"
    folder.mkdir(parents=True)
    for method in METHODS:
        (folder / f"demo-{method}.toml").write_text(SHORT.format(method=method))


def test_the_demo_runs_the_three_methods_and_prints_what_each_achieved(short_presets: None, tmp_path: Path) -> None:
    done = ftbench("demo")
    assert done.returncode == 0, done.stdout + done.stderr
    table = done.stdout[done.stdout.index("tiny on tickets") :].splitlines()
    assert [line.split()[0] for line in table[2:5]] == list(METHODS)
    assert "not differences" in done.stdout
    assert len(list((tmp_path / "runs").iterdir())) == 3
