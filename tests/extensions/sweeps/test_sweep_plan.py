"""`--vary` and `--budget`: which are valid, and the ladders that they make."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from engine.config.errors import UserError
from engine.extensions.sweeps.sweep import Axis, axis_value_text, cell_text, make_cells, parse_axes, parse_budget
from engine.extensions.sweeps.sweep_dir import SweepDir, create_sweep
from engine.runs.ladder.ladder_dir import LadderDir
from engine.runs.ladder.ladder_plan import make_plan

MAKE = partial(make_plan, "demo", ["lora", "full"])


@pytest.mark.parametrize(
    ("word", "key", "values"),
    [
        ("adapter.rank=4,16,64", "adapter.rank", [4, 16, 64]),
        ("data.max_rows = 100, 200", "data.max_rows", [100, 200]),
        ("quantization.type=nf4,fp4", "quantization.type", ["nf4", "fp4"]),
        ("model.id=tiny,./a b", "model.id", ["tiny", "./a b"]),
        ("adapter.rslora=true,false", "adapter.rslora", [True, False]),
        ('adapter.target_modules=["q_proj","v_proj"],["q_proj"]', "adapter.target_modules",
         [["q_proj", "v_proj"], ["q_proj"]]),
        ("adapter.alpha=0.5,1", "adapter.alpha", [0.5, 1]),
    ],
)  # fmt: skip
def test_any_setting_can_be_varied(word: str, key: str, values: list[object]) -> None:
    (axis,) = parse_axes([word], {})
    assert (axis.key, axis.values) == (key, values)


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["adapter.rank"], "sweep.axes", "'adapter.rank'"),
        (["adapter.rank=4"], "sweep.values", "adapter.rank"),
        (["adapter.rank=4,4"], "sweep.values", "adapter.rank"),
        ([f"adapter.rank={'9' * 5000}"], "sweep.values", "adapter.rank"),
        (["nothing.here=1,2"], "sweep.key", "unknown setting: nothing.here"),
        (["train.seed=1,2"], "sweep.key", "varied: train.seed"),
        (["method=lora,full"], "sweep.key", "varied: method"),
        (["train.batch=4,8"], "sweep.key_set", "train.batch"),
        (["adapter.rank=1,2", "adapter.rank=4,8"], "sweep.axes", "adapter.rank is varied"),
        (["adapter.rank=1,2", "adapter.alpha=4,8", "data.max_rows=1,2"], "sweep.axes", "(3)"),
    ],
)
def test_invalid_axes_are_refused(words: list[str], code: str, text: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_axes(words, {"train.batch": 4})
    assert caught.value.code == code and text in caught.value.problem


def test_two_axes_make_every_combination_with_the_first_outermost() -> None:
    cells = make_cells(parse_axes(["adapter.rank=4,8", "data.max_rows=100,200"], {}), {"train.steps": 5}, MAKE)
    assert [cell_text(values) for values, _ in cells] == [
        "adapter.rank=4, data.max_rows=100",
        "adapter.rank=4, data.max_rows=200",
        "adapter.rank=8, data.max_rows=100",
        "adapter.rank=8, data.max_rows=200",
    ]
    lora, full = cells[2][1].rungs
    assert (lora.config.adapter.rank, lora.config.data.max_rows, lora.config.train.steps) == (8, 100, 5)
    assert full.config.data.max_rows == 100  # the rank is not read by full fine-tuning


def test_a_setting_that_no_rung_reads_is_refused() -> None:
    axes = parse_axes(["adapter.rank=4,8"], {})
    with pytest.raises(UserError) as caught:
        make_cells(axes, {}, partial(make_plan, "demo", ["full"]))
    assert (caught.value.code, caught.value.location) == ("ladder.unread_key", "adapter.rank")


def test_an_invalid_value_is_refused() -> None:
    with pytest.raises(UserError, match=r"adapter\.rank"):
        make_cells(parse_axes(["adapter.rank=0,8"], {}), {}, MAKE)


@pytest.mark.parametrize(
    ("text", "seconds"), [("8h", 28800.0), ("90m", 5400.0), ("1h 30m", 5400.0), ("1.5h", 5400.0), ("2d", 172800.0)]
)
def test_budgets(text: str, seconds: float) -> None:
    assert parse_budget(text) == seconds and parse_budget(None) is None


@pytest.mark.parametrize("text", ["", "8", "h", "-1h", "8 hours", "1h x"])
def test_an_invalid_budget_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="invalid duration"):
        parse_budget(text)


def test_a_sweep_keeps_its_plan_and_removes_its_ladders(tmp_path: Path) -> None:
    axes = [Axis(key="adapter.rank", values=[4, 8])]
    folder = create_sweep(tmp_path, axes, make_cells(axes, {}, MAKE), 3600.0, "ftbench …")
    plan = folder.plan()
    assert (plan.axes, plan.budget, plan.command) == (axes, 3600.0, "ftbench …")
    assert [folder.ladder(cell.ladder).plan().rungs[0].config.adapter.rank for cell in plan.cells] == [4, 8]
    assert SweepDir.find(tmp_path, "sweep") == folder and folder.state() is None
    folder.remove()
    assert not list(LadderDir.iterate(tmp_path)) and not folder.path.exists()


def test_a_damaged_sweep_is_named(tmp_path: Path) -> None:
    folder = SweepDir(tmp_path)
    for file, read in ((folder.plan_file, folder.plan), (folder.state_file, folder.state)):
        file.write_text("{ [")
        with pytest.raises(UserError, match="damaged: "):
            read()


def test_values_are_written_as_on_the_command_line() -> None:
    assert [axis_value_text(value) for value in (4, 0.5, True, "nf4", ["q_proj", "v_proj"])] == [
        "4", "0.5", "true", "nf4", "[q_proj, v_proj]"
    ]  # fmt: skip
