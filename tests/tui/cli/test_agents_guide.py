"""Every command of AGENTS.md, in its order, as an agent runs it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from command import SMALL
from forked import ftbench
from places import ROOT

PRESET = f"""
method = "lora"
[model]
id = "{SMALL}"
[data]
max_rows = 200
validation = 0.02
[train]
steps = 20
evaluate_every = 10
batch = 4
probe = false
[evaluation]
rows = 6
max_new_tokens = 8
forgetting_text = "none"
[cost]
max_other_load = 1
"""
EXPECTED_STATUS = {"gate": {0, 1}, "doctor": {0, 1}, "export": {0, 1}}
"""A gate may fail, and so may the checks of this machine and of an artifact of 20 steps; all else succeeds."""


@pytest.mark.slow
def test_every_command_of_the_guide_for_agents_prints_one_json_value(tmp_path: Path) -> None:
    guide = (ROOT / "AGENTS.md").read_text("utf-8")
    assert len(guide.splitlines()) <= 20
    commands = re.findall(r"^(ftbench .*?)(?: +#.*)?$|`(ftbench [^`]+)`", guide, re.MULTILINE)
    rows = [{"prompt": f"Write {number} as a word.", "completion": f"number {number}"} for number in range(200)]
    values = {"FILE": tmp_path / "rows.jsonl", "PRESET": tmp_path / "mine.toml", "DIR": tmp_path / "artifact"}
    values["FILE"].write_text("\n".join(map(json.dumps, rows)))
    values["PRESET"].write_text(PRESET)
    names = {key: str(path) for key, path in values.items()}
    printed: dict[str, Any] = {}
    for line, inline in commands:
        words = [names.get(word, word) for word in (line or inline).split()[1:]]
        assert not [word for word in words if word.isupper() and word not in names.values()], line
        done = ftbench(*words)
        assert done.returncode in EXPECTED_STATUS.get(words[0], {0}), (words, done.stdout, done.stderr)
        printed[words[0]] = answer = json.loads(done.stdout)
        if words[0] in ("run", "ladder"):
            names[words[0].upper()] = answer[words[0]]
        if words[0] == "ladder":  # what the guide says of `attach` holds for ladders
            assert json.loads(ftbench("attach", names["LADDER"], "--json").stdout)["status"] == "finished"
    assert printed["attach"]["status"] == "finished" and printed["export"]["fidelity"]["outcome"]
    assert {entry["kind"] for entry in printed["runs"]} == {"run", "ladder"} and "passed" in printed["gate"]
    assert len(printed) > 10
