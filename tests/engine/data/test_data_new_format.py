"""A data format is one module: a file added to the folder is detected, converted, and accepted by --set."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import engine

MODULE = '''
"""Question and answer in one column, on both sides of an arrow."""

from engine.data.columns import column
from engine.data.conversation import Answer, prompt_and_answer
from engine.data.formats import DataFormat, DetectedFormat


def detect(columns):
    name = columns.find("arrow")
    return DetectedFormat("arrow-text", "column arrow", {"prompt": column(name)}) if name else None


def convert(raw, found):
    asked, _, said = raw.values["arrow"].partition(" -> ")
    return prompt_and_answer(asked, Answer(said), raw, found)


FORMAT = DataFormat("arrow-text", 45, detect, convert)
'''
USE = """
import sys
from engine.config.preset import Preset, parse_overrides, resolve
from engine.data.detection import detect, to_example
from engine.data.source import read
for settings in ([], ["data.format=arrow-text"]):
    data = resolve(Preset("none", {}), None, parse_overrides([f"data.id={sys.argv[1]}", *settings])).config.data
    rows = read(data).train
    found = detect(rows, data)
    print(found.name, [turn["content"] for turn in to_example(next(iter(rows)), found).messages])
"""


def test_a_module_in_the_folder_is_a_format(tmp_path: Path) -> None:
    shutil.copytree(Path(engine.__file__).parent, tmp_path / "engine", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "engine/data/formats/arrow_text.py").write_text(MODULE)
    (tmp_path / "a.jsonl").write_text('{"arrow": "one -> two"}\n')
    command = [sys.executable, "-c", USE, str(tmp_path / "a.jsonl")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.stdout.splitlines() == ["arrow-text ['one', 'two']"] * 2
