"""What a user does most, by keyboard in a real terminal, with the number of keys that it takes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from left_processes import end_processes_below
from listed_runs import made
from nvml_library import COMPILER, build
from screen import Terminal

from engine.runs.ladder.ladder_dir import LadderDir
from engine.runs.run import run_dir
from engine.runs.run.run_dir import RunDir


class Journey:
    """A bench whose keys are counted."""

    def __init__(self, folder: Path, env: dict[str, str] | None = None) -> None:
        self.runs = folder / "runs"
        self.terminal = Terminal("--runs", str(self.runs), cwd=folder, size=(100, 32), env=env)
        self.keys = 0

    def press(self, *keys: str) -> None:
        self.terminal.press(*keys)
        self.keys += len(keys)

    def sees(self, *texts: str) -> None:
        for text in texts:
            self.terminal.wait(text)

    def end(self) -> None:
        self.terminal.process.kill()
        self.terminal.process.wait()
        end_processes_below(self.runs)


@pytest.fixture
def journeys(tmp_path: Path) -> Iterator[list[Journey]]:
    begun: list[Journey] = []
    yield begun
    for journey in begun:
        journey.end()


@pytest.fixture
def journey(tmp_path: Path, journeys: list[Journey]) -> Journey:
    journeys.append(Journey(tmp_path))
    journeys[0].sees("ready:")
    return journeys[0]


def test_a_first_run_takes_two_keys(journey: Journey) -> None:
    journey.press("enter")
    journey.sees("─ launch ─")
    journey.press("enter")
    journey.sees("▶ lora-")
    assert journey.keys == 2 and len(list(RunDir.iterate(journey.runs))) == 1


def test_a_run_on_a_csv_file_with_other_column_names_takes_six_keys(tmp_path: Path, journeys: list[Journey]) -> None:
    rows = [f"{number},Where is order {number}?,{('shipping', 'billing')[number % 2]}\n" for number in range(60)]
    (tmp_path / "mails.csv").write_text("id,message,team\n" + "".join(rows))
    journeys.append(journey := Journey(tmp_path))
    journey.sees("ready:", "mails.csv")
    journey.press("d", "down", "space")
    journey.sees(
        "which columns are trained on?", "data.map.prompt = message", "data.map.completion = team", "Where is order 0?"
    )
    journey.press("enter", "enter")
    journey.sees("─ launch ─", "column id is ignored")
    journey.press("enter")
    journey.sees("▶ lora-")
    (run,) = RunDir.iterate(journey.runs)
    data = run_dir.read_frozen(run).config.data
    assert data.map == {"prompt": "message", "completion": "team"} and journey.keys <= 12


def test_resuming_after_reopening_takes_one_key(tmp_path: Path, journeys: list[Journey]) -> None:
    made(tmp_path / "runs", 1)
    stopped = made(tmp_path / "runs", 2, status="stopped")
    journeys.append(journey := Journey(tmp_path))
    journey.sees("Can be resumed", "lora-" + stopped.name[-4:])
    journey.press("u")
    journey.sees("▶ lora-" + stopped.name[-4:])
    assert journey.keys <= 2


def test_a_ladder_with_changed_steps_and_rows_takes_fourteen_keys(journey: Journey) -> None:
    journey.press("L")
    journey.sees("ladder of demo-lora")
    journey.press("j", "enter", "7", "0", "enter", "j", "enter", "4", "0", "enter", "g")
    journey.sees("steps          70", "train rows     40")
    journey.press("enter")
    journey.terminal.wait(lambda: list(LadderDir.iterate(journey.runs)))
    (ladder,) = LadderDir.iterate(journey.runs)
    config = ladder.plan().rungs[0].config
    assert (config.train.steps, config.data.max_rows) == (70, 40) and journey.keys <= 15


def test_comparing_three_runs_takes_five_keys(tmp_path: Path, journeys: list[Journey]) -> None:
    names = [made(tmp_path / "runs", number).name[-4:] for number in (1, 2, 3)]
    journeys.append(journey := Journey(tmp_path))
    journey.sees("ready:")
    journey.press("r")
    journey.sees("3 runs in")
    journey.press("space", "space", "space", "C")
    journey.sees("comparison of 3 runs", *(f"lora-{name}" for name in names), "score after")
    assert journey.keys <= 6
    heads = next(line for line in journey.terminal.screen.display if all(f"lora-{name}" in line for name in names))
    scores = next(line for line in journey.terminal.screen.display if "score after" in line)
    for number, name in enumerate(names, 1):  # each value below the name of its run
        assert scores.index(f"{number * 10}.0") == heads.index(f"lora-{name}")


@pytest.mark.skipif(COMPILER is None, reason="needs a C compiler")
def test_which_of_eight_gpus_is_free_is_shown_without_a_key(tmp_path: Path, journeys: list[Journey]) -> None:
    gib = 1 << 30
    lines = ["all count 8\n", "all driver 550.54\n"]
    for gpu in range(8):
        busy = gpu != 5
        used = 60 * gib if busy else gib // 4
        lines += [f"{gpu} name NVIDIA A100-SXM4-80GB\n", f"{gpu} total {80 * gib}\n", f"{gpu} used {used}\n"]
        lines += [f"{gpu} uuid GPU-{gpu}\n", *([f"{gpu} process {os.getpid()} {60 * gib}\n"] if busy else [])]
    (tmp_path / "gpus").write_text("".join(lines))
    env = {"LD_LIBRARY_PATH": str(build(tmp_path / "library")), "NVML_STAND_IN": str(tmp_path / "gpus")}
    env |= {"CUDA_VISIBLE_DEVICES": ",".join(map(str, range(8)))}  # tests hide GPUs
    journeys.append(journey := Journey(tmp_path, env))
    journey.sees("8 GPUs", "79.8 free")
    rows = [line for line in journey.terminal.screen.display if "/80" in line]
    assert len(rows) == 8 and [" free" in row for row in rows] == [gpu == 5 for gpu in range(8)]
    assert journey.keys == 0
