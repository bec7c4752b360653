"""The selection on the bench: settings changed on top of a preset, and the command line that it amounts to."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

import pytest
from command import FTBENCH

from engine.config.errors import UserError
from engine.config.preset_library import resolve_preset
from engine.config.settings import flatten
from engine.runs.ladder.ladder_plan import make_plan
from engine.runs.run.run_dir import RunDir
from tui.cli.options import overrides
from tui.preview.launch_context import LaunchContext
from tui.preview.launches import LadderLaunch, RunLaunch, run_command
from tui.selection import Selection, changes


def test_a_changed_setting_waits_until_a_method_reads_it() -> None:
    selection = Selection("demo-lora").with_setting("adapter.rank", 8)
    assert selection.effective().config.adapter.rank == 8
    full = selection.with_setting("method", "full")
    assert full.effective().config.method == "full"
    assert full.with_setting("method", "qlora").effective().config.adapter.rank == 8


def test_changes_are_words_and_not_python() -> None:
    before = Selection("demo-lora").with_setting("hardware.device", 0)
    after = before.with_setting("hardware.device", "cpu").with_setting("data.map", {"prompt": "message"})
    told = changes(before.effective(), after.effective())
    assert "device GPU 0 → CPU" in told and "data.map unset → prompt=message" in told


def test_steps_replace_changed_epochs_and_restoring_brings_the_preset_back() -> None:
    selection = Selection("demo-lora").with_setting("train.epochs", 5.0).with_setting("train.steps", 7)
    assert selection.settings == {"train.steps": 7}
    restored = selection.with_setting("train.steps", None)
    assert "train.steps" not in restored.settings and restored.effective().config.train.epochs == 2


def test_another_model_drops_the_revision_and_the_run_to_start_from() -> None:
    selection = Selection(
        "demo-lora", settings={"model.revision": "abc", "model.from_run": "/runs/one", "train.batch": 4}
    )
    assert selection.with_setting("model.id", "smollm2-135m").settings == {
        "train.batch": 4,
        "model.id": "smollm2-135m",
    }


def test_another_method_names_its_learning_rate_and_what_sets_it() -> None:
    before, after = Selection("demo-lora"), Selection("demo-lora", {"method": "qlora"})
    changed = changes(before.effective(), after.effective(), same_preset=True)
    method, rate, *_ = changed
    assert method == "method lora → qlora"
    assert rate.startswith("learning rate ") and rate.endswith(" 5e-3 (preset demo-lora)")


@pytest.mark.parametrize(
    "selection",
    [
        Selection("demo-lora"),
        Selection("demo-lora", {"method": "qlora", "data.id": "/data/it's here.jsonl"}),
        Selection(
            "demo-full",
            {
                "method": "lora",
                "train.learning_rate": 1e-3,
                "adapter.target_modules": ["q_proj"],
                "data.map": {"prompt": "a b"},
                "data.separator": "3",
                "train.probe": False,
            },
        ),
    ],
)
def test_the_command_line_starts_the_same_run(selection: Selection, tmp_path: Path) -> None:
    words = shlex.split(run_command(selection, tmp_path))
    assert words[:3] == ["ftbench", "run", selection.preset] and words[-2:] == ["--runs", str(tmp_path)]
    pairs = list(zip(words[3::2], words[4::2], strict=True))
    given = {option: value for option, value in pairs if option != "--set"}
    values = overrides(
        [value for option, value in pairs if option == "--set"], model=given.get("--model"), data=given.get("--data")
    )
    effective = resolve_preset(selection.preset, given.get("--method"), values)
    assert flatten(effective.config) == flatten(selection.effective().config)


def test_what_the_bench_sets_names_the_selection() -> None:
    selection = Selection("demo-lora", {"method": "qlora", "adapter.rank": 8})
    origins = selection.effective().origins
    assert (origins["method"], origins["adapter.rank"], origins["train.epochs"]) == (
        "selection",
        "selection",
        "preset demo-lora",
    )
    with pytest.raises(UserError) as caught:
        selection.with_setting("adapter.rank", -1).effective()
    assert caught.value.location.startswith("selection")


def test_the_command_line_of_a_ladder_makes_the_same_plan(tmp_path: Path) -> None:
    launch = LadderLaunch.of(Selection("demo-lora"), tmp_path, lambda: LaunchContext(tmp_path))
    assert launch.command == f"ftbench ladder demo-lora --runs {tmp_path}"
    for name, text in (
        ("rungs", "lora wide=lora,adapter.rank=64"),
        ("seeds", "3"),
        ("artifacts", "merged,lora:q8_0"),
        ("margin", "2.5"),
        ("timing probe", "no"),
        ("fresh", "yes"),
        ("epochs", "1"),
    ):
        launch = launch.with_option(name, text)
    assert launch.command == (
        "ftbench ladder demo-lora --rung lora --rung wide=lora,adapter.rank=64 --seeds 3 --margin 2.5 "
        f"--ship merged,lora:q8_0 --no-probe --fresh --set train.epochs=1 --runs {tmp_path}"
    )
    plan = make_plan(
        "demo-lora",
        ["lora", "wide=lora,adapter.rank=64"],
        {"train.epochs": 1},
        3,
        probe=False,
        fresh=True,
        ship=["merged", "lora:q8_0"],
        margin=0.025,
    )
    assert (launch.plan.rungs, launch.plan.seeds, launch.plan.ship) == (plan.rungs, plan.seeds, plan.ship)
    assert (launch.plan.probe, launch.plan.fresh, launch.plan.margin) == (False, True, plan.margin)


@pytest.mark.parametrize(
    ("name", "text", "code"),
    [
        ("seeds", "many", "ladder.invalid_option"),
        ("seeds", "21", "ladder.seeds"),
        ("margin", "x", "ladder.invalid_option"),
        ("timing probe", "maybe", "ladder.invalid_option"),
        ("artifacts", "zip", "ladder.unknown_artifact"),
        ("rungs", "'", "ladder.rung_name"),
        ("epochs", "-1", "preset.invalid_value"),
    ],
)
def test_an_invalid_option_of_a_ladder_is_refused(name: str, text: str, code: str, tmp_path: Path) -> None:
    launch = LadderLaunch.of(Selection("demo-lora"), tmp_path, lambda: LaunchContext(tmp_path))
    with pytest.raises(UserError) as caught:
        launch.with_option(name, text)
    assert caught.value.code == code


def test_an_option_of_a_run_is_checked_and_an_empty_text_restores_it(tmp_path: Path) -> None:
    launch = RunLaunch.of(Selection("demo-lora"), tmp_path, lambda: LaunchContext(tmp_path))
    changed = launch.with_option("learning rate", "1e-3").with_option("rank", "8")
    assert (changed.config.train.learning_rate, changed.config.adapter.rank) == (1e-3, 8)
    assert [option.name for option in changed.options() if option.changed] == ["learning rate", "rank"]
    assert next(option.default for option in changed.options() if option.name == "learning rate") == "0.005"
    assert changed.with_option("learning rate", " ").with_option("rank", "").selection == launch.selection
    with pytest.raises(UserError, match="learning_rate"):
        launch.with_option("learning rate", "2")
    with pytest.raises(UserError, match="no run"):
        launch.with_option("from run", "nothing-like-it")


def test_a_run_records_the_command_line_that_started_it(tmp_path: Path) -> None:
    command = [FTBENCH, "run", "demo-lora", "--data", "/no/such.jsonl", "--detach", "--runs", str(tmp_path)]
    subprocess.run(command, capture_output=True, env=os.environ, timeout=120, check=False)
    from engine.runs.run import run_dir

    (run,) = RunDir.iterate(tmp_path)
    assert run_dir.read_frozen(run).command == shlex.join(["ftbench", *command[1:]])
