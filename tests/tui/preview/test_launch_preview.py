"""The launch preview: figures are right, certain failures block, possible ones warn with a fix."""

from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
from message_parts import figures

from engine.config.model_files import find_model
from engine.config.preset_library import resolve_preset
from engine.config.quantities import size
from engine.memory.formula.memory_budget import MemoryBudget
from engine.runs.ladder.ladder_plan import make_plan
from engine.runs.queue.device_queue import QueuePlace
from engine.runs.run.usage import ModelAccount, WeightGroup
from tui.live.machine import ProcessSample
from tui.preview.launch_context import DataCheck, LaunchContext, WeightsCheck
from tui.preview.launch_preview import LaunchPreview, ladder_preview, run_preview
from tui.preview.method_estimate import disk_space, method_estimate
from tui.selection import Selection

GIB = 1 << 30
ANSWER: dict[str, Any] = {
    "rows": {"train": 1600, "validation": 200, "test": 300},
    "cut": {"train": 3},
    "format": "messages",
    "lengths": {"train": {"tokens": {"max": 120}}},
    "columns": [{"name": "messages", "rows": 2100, "role": "messages"}],
    "data_usage": {
        "read": 2110,
        "train": 1600,
        "validation": 200,
        "test": 300,
        "left_out": {"data.empty": {"rows": 10}},
    },
    "overlap": {"test/train": {"of": 300, "prompt": 0, "answer": 27, "both": 0}},
    "fingerprint": "f" * 64,
    "warnings": [{"code": "data.rows_cut", "text": "3 of 1,600 train rows cut at max_length"}],
    "refused": None,
}
Usage = namedtuple("Usage", "total used free")


def gpu_budget(total: int, used: int = 0) -> MemoryBudget:
    return MemoryBudget(name="GPU 0", device="cuda", source="gpu", total=total, used=used)


def preview(
    runs: Path, report: DataCheck | None = None, budget: MemoryBudget | None = None, **how: Any
) -> LaunchPreview:
    context = LaunchContext(
        runs, budget or gpu_budget(80 * GIB), how.pop("foreign", ()), how.pop("turns", ()), how.pop("devices", 1)
    )
    names = {"method": "method", "model": "model.id", "data": "data.id"}
    settings = {key: how[name] for name, key in names.items() if name in how}
    selection = Selection(how.get("preset", "demo-lora"), {**settings, **how.get("settings", {})})
    return run_preview(selection.name, selection.effective(), context, report or DataCheck(ANSWER))


def fact(launch: LaunchPreview, name: str) -> str:
    names = [entry.name for entry in launch.facts]
    first = names.index(name)
    last = next((n for n in range(first + 1, len(names)) if names[n]), len(names))
    return " ".join(entry.text for entry in launch.facts[first:last])


def said(launch: LaunchPreview) -> str:
    return " ".join(f"{problem.text} {problem.hint}" for problem in launch.problems)


def codes(launch: LaunchPreview) -> list[str]:
    return [problem.code for problem in launch.problems]


def test_shared_prefixes_are_a_fact_once_they_are_known(tmp_path: Path) -> None:
    assert "packing" not in [entry.name for entry in preview(tmp_path).facts]
    sharing = "prefix of 26 tokens shared by 1,600 rows: 59% of the tokens are computed"
    assert fact(preview(tmp_path, DataCheck(ANSWER, sharing=sharing)), "packing") == sharing
    assert "packing" not in [entry.name for entry in preview(tmp_path, DataCheck(ANSWER, sharing="")).facts]
    assert "padded" in fact(preview(tmp_path, model="gpt-oss-20b"), "packing")


def test_the_evaluation_counts_items_and_not_rows(tmp_path: Path) -> None:
    answer = {**ANSWER, "data_usage": {**ANSWER["data_usage"], "test_items": 250}}
    launch = preview(tmp_path, DataCheck(answer))
    scored = fact(launch, "eval")
    assert scored.startswith("before and after ") and scored.endswith(" auto") and figures(scored) == ["250"]
    launch = preview(tmp_path, DataCheck(answer), settings={"evaluation.rows": 100, "evaluation.when": "after"})
    scored = fact(launch, "eval")
    assert scored.startswith("after ") and scored.endswith(" auto") and figures(scored) == ["100"]


def test_steps_follow_from_rows_and_batch_size(tmp_path: Path) -> None:
    steps = fact(preview(tmp_path, settings={"train.batch": 12, "train.micro_batch": 5}), "steps")
    assert figures(steps) == ["268", "2", "12", "5"] and "(2 epochs)" in steps and "(micro-batch 5)" in steps
    steps = fact(preview(tmp_path, settings={"train.steps": 50}), "steps")
    assert steps.startswith("50 (0.5 epochs)") and figures(steps)[:3] == ["50", "0.5", "16"]
    assert fact(preview(tmp_path, DataCheck()), "steps").startswith("? (2 epochs)")


def test_the_longest_row_is_used_once_it_is_known(tmp_path: Path) -> None:
    before, after = preview(tmp_path, DataCheck()), preview(tmp_path)
    assert "512 tokens" in fact(before, "memory") and "max_length" in fact(before, "memory")
    assert "120 tokens" in fact(after, "memory") and "max_length" not in fact(after, "memory")
    assert "preparing" in fact(before, "data") and "messages" in fact(after, "data")


def test_the_data_report_is_shown_with_warning_codes(tmp_path: Path) -> None:
    launch = preview(tmp_path)
    assert figures(fact(launch, "rows")) == ["2,110", "1,600", "200", "300", "10"]
    assert fact(launch, "columns") == "messages"
    assert "answers 27 (9%)" in fact(launch, "overlap") and "[data.rows_cut]" in said(launch)


def test_every_component_of_memory_is_labeled(tmp_path: Path) -> None:
    memory = fact(preview(tmp_path), "memory")
    for part in ("weights", "adapters", "optimizer", "peak in ", "pool", "formula, ±", "of 80.0 GiB", "fits"):
        assert part in memory, part


def test_a_memory_problem_has_a_fix_and_does_not_block(tmp_path: Path) -> None:
    launch = preview(tmp_path, preset="qwen2.5-7b-full", budget=gpu_budget(16 * GIB), data="tickets")
    (problem,) = [problem for problem in launch.problems if problem.code == "memory.does_not_fit"]
    assert "LoRA or QLoRA" in problem.hint and not problem.blocking
    used = 23 * GIB + 900 * (1 << 20)
    held = preview(tmp_path, budget=gpu_budget(24 * GIB, used))
    (problem,) = [problem for problem in held.problems if problem.code == "memory.does_not_fit"]
    assert size(used) in problem.text and size(24 * GIB) in problem.text


NO_SAVINGS = {"step_in_backward": False, "rounding": "remainder", "name": "adamw_8bit"}


def test_a_suggested_setting_makes_it_fit(tmp_path: Path) -> None:
    how: dict[str, Any] = {"preset": "smollm2-full", "data": "tickets", "report": DataCheck()}
    fixed: dict[str, Any] = {"train.micro_batch": 16, "train.gradient_checkpointing": False}
    fixed |= {f"optimizer.{key}": value for key, value in NO_SAVINGS.items()}
    config = Selection("smollm2-full", {"data.id": "tickets", **fixed}).effective().config
    whole = method_estimate(config, find_model(config.model), gpu_budget(80 * GIB)).estimate
    assert whole is not None
    budget = gpu_budget(int(0.98 * whole.peak))
    (problem,) = [
        problem
        for problem in preview(tmp_path, budget=budget, settings=fixed, **how).problems
        if problem.code == "memory.does_not_fit"
    ]
    key, _, value = problem.hint.partition(" (")[0].partition(" = ")
    settings = {key: int(value) if value.isdigit() else value == "true"}
    assert "memory.does_not_fit" not in codes(preview(tmp_path, budget=budget, settings=fixed | settings, **how))


@pytest.mark.parametrize(
    ("how", "report", "code"),
    [
        ({"model": "/no/such/folder"}, DataCheck(), "model.unusable"),
        ({"model": "owner/absent"}, DataCheck(), "model.unusable"),
        ({"model": "missing.gguf"}, DataCheck(), "model.unusable"),
        ({}, DataCheck(None, "train.jsonl line 3: not JSON; correct it", False), "data.check_failed"),
        ({}, DataCheck({**ANSWER, "refused": "no row is left to train on"}), "data.refused"),
    ],
)
def test_a_certain_failure_blocks(how: dict[str, Any], report: DataCheck, code: str, tmp_path: Path) -> None:
    launch = preview(tmp_path, report, **how)
    assert launch.blocked
    assert code in [problem.code for problem in launch.problems if problem.blocking]


def test_a_run_to_start_from_is_a_fact_and_blocks_where_it_was_deleted(tmp_path: Path) -> None:
    name = "20261126-120000-demo-lora-lora-3f2a"
    chosen = resolve_preset("demo-lora", None, {"model.from_run": str(tmp_path / name)})
    context = LaunchContext(tmp_path, gpu_budget(80 * GIB), (), ())
    launch = run_preview("demo-lora", chosen, context, DataCheck(ANSWER))
    assert fact(launch, "start").startswith("the adapter ") and fact(launch, "start").endswith(f" {name}")
    assert launch.blocked and "run.start_missing" in codes(launch)


def test_a_model_download_is_announced_and_does_not_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE")
    launch = preview(tmp_path, preset="qwen2.5-7b-lora", data="tickets")
    assert not launch.blocked and "model.download" in codes(launch)
    assert "Qwen/Qwen2.5-7B-Instruct" in fact(launch, "model")


def test_a_full_disk_blocks_and_the_need_includes_checkpoints_and_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Selection("demo-full", settings={"train.keep_checkpoints": 1}).effective().config
    estimate = method_estimate(config, find_model(config.model), gpu_budget(80 * GIB)).estimate
    assert estimate is not None
    needed = 2 * estimate.static + estimate.training.parts["weights"]  # nothing else is static in full tuning
    assert disk_space([config], tmp_path, gpu_budget(80 * GIB))[0] == needed
    best = Selection("demo-full", settings={"train.keep_checkpoints": 1, "train.select": "best"}).effective().config
    assert disk_space([config, best], tmp_path, gpu_budget(80 * GIB))[0] == 2 * needed + estimate.static
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(1 << 30, 1 << 30, 1 << 20))
    blocked = preview(tmp_path, preset="demo-full")
    assert blocked.blocked and "disk.too_small" in codes(blocked)


def test_other_processes_and_queued_runs_are_named(tmp_path: Path) -> None:
    places = [QueuePlace("0", 0, 1, Path("/runs/first")), QueuePlace("0", 1, 2, Path("/runs/second"))]
    launch = preview(tmp_path, foreign=(ProcessSample(4711, "python \x1b[31m", 3 * GIB),), turns=places)
    assert launch.queue.startswith("waits for first ") and figures(launch.queue) == ["1"]
    assert "process 4711" in said(launch) and "3.00 GiB" in said(launch)
    alone = preview(tmp_path).queue
    assert alone.startswith("at once") and "the device" in alone and figures(alone) == []
    shared = preview(tmp_path, foreign=(ProcessSample(4711, "python", 3 * GIB),))
    assert shared.queue.startswith(alone) and figures(shared.queue) == ["1"]
    one_of_two = preview(tmp_path, turns=places[:1], devices=2)
    assert one_of_two.queue.startswith("at once") and "a device" in one_of_two.queue


def test_settings_that_a_method_ignores_are_named(tmp_path: Path) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text('method = "lora"\n[train]\nlearning_rate = 3e-3\n')
    launch = preview(tmp_path, preset=str(mine), method="full")
    assert "preset.other_method_rate" in codes(launch)
    plan = make_plan(str(mine), [], {})
    ladder = ladder_preview(plan, LaunchContext(tmp_path, gpu_budget(80 * GIB)), DataCheck(ANSWER))
    assert codes(ladder).count("preset.other_method_rate") == 2
    assert "full 2e-5 (default" in fact(ladder, "rates")


def test_a_ladder_preview_has_its_runs_and_each_rungs_memory(tmp_path: Path) -> None:
    plan = make_plan("demo", [], {}, seeds=3)
    launch = ladder_preview(plan, LaunchContext(tmp_path, gpu_budget(80 * GIB)), DataCheck(ANSWER))
    assert launch.title == "ladder of demo"
    rungs = fact(launch, "rungs")
    assert rungs.partition(";")[0].split(", ") == ["base", "qlora", "lora", "full"]
    assert figures(rungs) == ["3", "12"] and "probe" in rungs
    rates = [("qlora", "5e-3"), ("lora", "5e-3"), ("full", "5e-4")]
    assert fact(launch, "rates") == ", ".join(f"{rung} {rate} (preset demo)" for rung, rate in rates)
    assert not [code for code in codes(launch) if code.startswith("preset.")]
    for rung in ("qlora", "lora", "full"):
        assert "of 80.0 GiB" in fact(launch, rung)
    small = ladder_preview(plan, LaunchContext(tmp_path, gpu_budget(600 << 20)), DataCheck(ANSWER))
    assert len([code for code in codes(small) if code.startswith("memory.")]) == 3


def test_a_ladder_preview_has_the_weights_of_each_rung(tmp_path: Path) -> None:
    plan = make_plan("demo", [], {})
    group = WeightGroup(part="layers", state="adapted", quantized=False, tensors=7, parameters=700)
    left_out = WeightGroup(part="experts", state="frozen", quantized=False, tensors=2, parameters=300)
    accounts = [ModelAccount(groups=[group, *more], adapters=9, tied=False) for more in ([], [left_out])]
    weights = (*map(WeightsCheck, accounts), WeightsCheck(refused="no layer matches nope: adapter.target_modules"))
    report = DataCheck(ANSWER, sharing="", weights=weights)
    launch = ladder_preview(plan, LaunchContext(tmp_path, gpu_budget(80 * GIB)), report)
    lines = [entry.text for entry in launch.facts if entry.text.startswith(("qlora: ", "lora: "))]
    assert [(line.partition(":")[0], figures(line)) for line in lines] == [
        ("qlora", ["700", "700"]),
        ("lora", ["1,000", "700", "300"]),
    ]
    assert "700 adapted" in lines[0] and "300 frozen" in lines[1]
    assert launch.blocked and {"model.refused", "model.left_out"} <= set(codes(launch))
