"""What `auto` chooses for micro-batch size, activation checkpointing and optimizer."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
from test_plan_fit import ROWS, asked, gpu_budget, memory

from engine.config.device_defaults import (
    EVERY_LAYER,
    OFF,
    OFFLOADED,
    RECOMPUTING,
    ActivationCheckpointing,
    describe_checkpointing,
    resolve_checkpointing,
)
from engine.memory.formula.automatic import (
    chosen_savings,
    enough_rows,
    memory_levels,
    resolve_automatic,
    sized_to_fit,
    smallest,
)
from engine.memory.formula.estimate import StepShape
from engine.memory.formula.fit import FitQuery, largest_micro_batch

ORDER = (*RECOMPUTING, OFFLOADED)


def chosen(query: FitQuery) -> tuple[ActivationCheckpointing, int]:
    return choices_in(resolve_automatic(query))


def choices_in(resolved: FitQuery) -> tuple[ActivationCheckpointing, int]:
    train = resolved.config.train
    assert train.gradient_checkpointing != "auto" and train.micro_batch != "auto"
    return resolve_checkpointing(train.gradient_checkpointing, resolved.budget.device), train.micro_batch


def test_memory_falls_from_choice_to_choice() -> None:
    case = asked("lora", gpu_budget(79.2), train__micro_batch=4)
    peaks = [case.with_settings({"train.gradient_checkpointing": choice.setting}).peak() for choice in ORDER]
    assert peaks == sorted(peaks, reverse=True) and len(set(peaks)) == len(peaks)


@pytest.mark.parametrize("method", ["qlora", "lora", "full"])
def test_less_memory_recomputes_more_layers_and_offloading_comes_last(method: Any) -> None:
    fixed = {"optimizer__step_in_backward": False, "optimizer__rounding": "remainder"}
    resolved = [resolve_automatic(asked(method, gpu_budget(gib / 2), **fixed)) for gib in range(8, 300, 3)]
    fitting = [ORDER.index(choices_in(query)[0]) for query in resolved if query.fits()]
    assert all(choices_in(query) for query in resolved)
    assert fitting == sorted(fitting, reverse=True)
    assert {OFF, EVERY_LAYER} < {ORDER[place] for place in fitting} and fitting[-1] == 0


def test_layers_recompute_only_where_fewer_rows_would_use_the_gpu_badly() -> None:
    for gib, rows in itertools.product(range(16, 96, 4), (ROWS, StepShape(count=16, length=100, answer=30))):
        case = asked("lora", gpu_budget(gib), rows=rows)
        checkpointing, micro_batch = chosen(case)
        if checkpointing not in RECOMPUTING[1:] or not resolve_automatic(case).fits():
            continue
        less = RECOMPUTING[RECOMPUTING.index(checkpointing) - 1]
        faster = case.with_settings({"train.gradient_checkpointing": less.setting})
        assert largest_micro_batch(faster, with_headroom=True).value < max(enough_rows(case), micro_batch)


def test_what_is_configured_stays() -> None:
    settings = {"train__gradient_checkpointing": False, "train__micro_batch": 7, "evaluation__batch": 16}
    fixed = asked("lora", gpu_budget(20), **settings)
    assert resolve_automatic(fixed) == fixed
    assert chosen(asked("lora", gpu_budget(79.2), train__micro_batch=3))[1] == 3
    for setting, gib in itertools.product((True, 2, "offload"), (40, 4)):
        train = resolve_automatic(asked("lora", gpu_budget(gib), train__gradient_checkpointing=setting)).config.train
        assert train.gradient_checkpointing == setting and train.micro_batch != "auto"


def test_a_cpu_recomputes_only_if_it_is_told_to_and_has_nothing_to_offload_to() -> None:
    assert chosen(asked("lora", memory(4)))[0] == OFF
    assert resolve_checkpointing("offload", "cpu") == EVERY_LAYER
    recomputed, offloaded = (
        asked("lora", memory(64), train__gradient_checkpointing=setting).peak() for setting in (True, "offload")
    )
    assert recomputed == offloaded


def test_nothing_that_fits_is_the_smallest() -> None:
    assert chosen(asked("lora", gpu_budget(8))) == (OFFLOADED, 1)
    assert chosen(asked("full", gpu_budget(8))) == (OFFLOADED, 16)  # a step in the backward pass


def test_a_correction_by_the_dry_run_changes_the_choice() -> None:
    case = asked("lora", gpu_budget(79.2), train__micro_batch=4)
    assert chosen(case)[0] == OFF
    corrected = replace(case, scale=replace(case.scale, training=4.0))
    assert ORDER.index(chosen(corrected)[0]) > 0


def test_settings_are_read_and_described() -> None:
    for choice in ORDER:
        assert resolve_checkpointing(choice.setting, "cuda") == choice
    assert [describe_checkpointing(choice.setting) for choice in ORDER] == [
        "off", "1 in 4 layers", "1 in 2 layers", "all layers", "all layers, offloaded",
    ]  # fmt: skip
    assert [ActivationCheckpointing(4).layers(count) for count in (3, 4, 5, 32)] == [1, 1, 2, 8] and OFF.layers(32) == 0


def test_optimizer_state_is_paged_only_where_the_run_does_not_fit_with_headroom() -> None:
    paged, method = [], "qlora"
    for gib in (4, 8, 16, 24, 48, 80, 160):
        query = resolve_automatic(asked(method, gpu_budget(gib), optimizer__name="auto"))
        assert query.config.optimizer.name == ("adamw_8bit" if query.fits() else "paged_adamw_8bit")
        assert query.formula_estimate().paged == (not query.fits())
        paged.append(query.formula_estimate().paged)
    assert paged == sorted(paged, reverse=True) and len(set(paged)) == 2
    for method, gib in itertools.product(("qlora", "full"), (1, 64)):  # on a CPU 8-bit state would cost much time
        assert resolve_automatic(asked(method, memory(gib), optimizer__name="auto")).config.optimizer.name == "adamw"
    for method, name in itertools.product(("qlora", "full"), ("adamw", "adamw_8bit", "paged_adamw_8bit")):
        assert resolve_automatic(asked(method, gpu_budget(80), optimizer__name=name)).config.optimizer.name == name


def test_as_many_answers_are_generated_at_a_time_as_fit() -> None:
    rows = []
    for gib in (8, 12, 24, 80):
        query = resolve_automatic(asked("qlora", gpu_budget(gib), evaluation__max_new_tokens=512))
        rows.append(query.config.evaluation.batch)
        estimate = query.formula_estimate()
        assert estimate.evaluation.total + query.budget.process_overhead <= query.budget.free
        if rows[-1] < 256:
            more = query.with_settings({"evaluation.batch": rows[-1] + 1}).formula_estimate()
            assert more.evaluation.total + query.budget.process_overhead > query.budget.free
    assert rows == sorted(rows) and rows[0] < 256 == rows[-1]
    assert resolve_automatic(asked("qlora", memory(64))).config.evaluation.batch == 32
    assert resolve_automatic(asked("qlora", gpu_budget(8), evaluation__batch=16)).config.evaluation.batch == 16


LEVELS = [
    "", "stochastic rounding", "checkpointing of 1 in 4 layers", "checkpointing of 1 in 2 layers",
    "checkpointing of all layers", "checkpointing of all layers, offloaded",
    "step in the backward pass", "checkpointing of all layers, offloaded",
    "paged optimizer state", "checkpointing of all layers, offloaded",
    "optimizer state in host memory", "checkpointing of all layers, offloaded",
]  # fmt: skip
WHOLE = {"optimizer__name": "auto", "train__batch": 4}
FOUR_ROWS = StepShape(count=4, length=2048, answer=2047)


def test_full_fine_tuning_takes_the_first_level_that_fits() -> None:
    """Whatever the size of the GPU; so every level is the choice on some GPU, if the one before is too large for it."""
    used = set()
    for gib in range(16, 120):
        query = asked("full", gpu_budget(gib), rows=FOUR_ROWS, **WHOLE)
        levels = memory_levels(query)
        assert [level.change for level in levels] == LEVELS
        sized = [sized_to_fit(query.with_settings(level.settings), 1, with_headroom=True) for level in levels]
        resolved = resolve_automatic(query)
        fitting = next((number for number, fits in enumerate(sized) if fits), None)
        if fitting is None:
            assert not resolved.fits()
            continue
        assert resolved.fits() and levels[fitting].is_in(resolved.config)
        used.add(fitting)
    peaks = [smallest(query.with_settings(level.settings)).peak() for level in levels]
    assert used >= {number for number in range(1, len(levels)) if peaks[number] < min(peaks[:number]) - 2**30}
    assert len(used) >= 7


def test_what_is_configured_is_in_no_level() -> None:
    def changes(**settings: Any) -> str:
        query = asked("full", gpu_budget(24), rows=FOUR_ROWS, **(WHOLE | settings))
        return "; ".join(level.change for level in memory_levels(query))

    assert "stochastic" not in changes(optimizer__rounding="remainder")
    for kept in ({"optimizer__step_in_backward": False}, {"train__micro_batch": 2}, {"train__devices": 2}):
        assert "backward" not in changes(**kept) and "paged" not in changes(**kept)
    assert "optimizer state" not in changes(optimizer__name="adamw_8bit")
    assert "checkpointing" not in changes(train__gradient_checkpointing=True)
    assert changes(train__devices=2, train__parallelism="fsdp").endswith("all layers, offloaded")
    assert "stochastic" not in changes(train__precision="mixed")
    for query in (asked("full", memory(8), **WHOLE), asked("qlora", gpu_budget(8))):
        assert not any("optimizer" in key for key in chosen_savings(query.config, resolve_automatic(query).config))


def test_offloaded_state_is_in_no_peak_and_its_copy_is() -> None:
    on_gpu = asked("full", gpu_budget(80), rows=FOUR_ROWS, optimizer__name="adamw_8bit", train__micro_batch=1)
    offloaded = on_gpu.with_settings({"optimizer.name": "offloaded_adamw_8bit"})
    before, after = on_gpu.formula_estimate(), offloaded.formula_estimate()
    assert after.on_host == before.static - after.static > 4 * before.trainable  # both moments and remainders
    assert before.training.total - after.training.total > 0.9 * after.on_host
    assert "optimizer" in after.training.parts or after.training.parts["gradients"]
