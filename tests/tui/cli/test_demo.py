"""`ftbench demo`: the ladder on the embedded model; shortened by a user preset that replaces the shipped one."""

from __future__ import annotations

import json
import os
from pathlib import Path

from command import SMALL
from forked import ftbench

SHORT = f"""
[model]
id = "{SMALL}"
[data]
max_rows = 12
validation = 0.02
test = 0.02
[train]
batch = 4
probe = false
[evaluation]
metric = "json"
max_new_tokens = 8
forgetting_text = "none"
"""


def test_the_quick_demo_runs_the_ladder_and_ends_with_verdict_and_report(tmp_path: Path) -> None:
    folder = Path(os.environ["XDG_CONFIG_HOME"]) / "ftbench" / "presets"
    folder.mkdir(parents=True)
    (folder / "demo.toml").write_text(SHORT)
    done = ftbench("demo", "--quick")
    assert done.returncode == 0, done.stdout + done.stderr
    page = Path(done.stdout.splitlines()[-1].removeprefix("report: "))
    assert page.exists()
    state = json.loads((page.parent / "ladder.json").read_text())
    assert state["command"] == "ftbench demo --quick"
    table = done.stdout.rindex("rung  ")
    scores = [done.stdout.index(row["score"].split()[0], table) for row in state["summary"]["rows"]]
    headline, caveat = (done.stdout.rindex(part) for part in (state["summary"]["headline"][:30], "One seed"))
    assert [row["title"] for row in state["summary"]["rows"]] == ["base", "QLoRA", "LoRA", "full"]
    assert table < min(scores) <= max(scores) < headline < caveat
