"""Verdicts, largest sizes that fit and proposed changes: by hand, and as properties over many cases."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from places import TOOLS

from engine.config.errors import UserError
from engine.config.method_specs import method_names
from engine.config.preset import Preset, resolve
from engine.config.schema import Config
from engine.memory.formula.automatic import resolve_automatic
from engine.memory.formula.estimate import (
    CONTEXT,
    GAPS,
    WORKSPACES,
    MeasuredError,
    MemoryEstimate,
    PeakMemory,
    StepShape,
    Tier,
    error_of,
)
from engine.memory.formula.fit import (
    FitQuery,
    FormulaCorrection,
    classify_fit,
    find_remedies,
    largest_evaluation_batch,
    largest_micro_batch,
    longest_rows,
    required_headroom,
    with_settings,
)
from engine.memory.formula.memory_budget import PROCESS, MemoryBudget
from engine.memory.formula.method_plan import PlanQuery, planned_rows, positions_of, quick_plan
from engine.memory.formula.weights_and_state import checkpoint_bytes

GIB = 1 << 30
LLAMA_8B: dict[str, Any] = {
    "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256, "tie_word_embeddings": False,
    "max_position_embeddings": 131072,
}  # fmt: skip
LLAMA_1B = LLAMA_8B | {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16}
MIXTRAL = LLAMA_8B | {"model_type": "mixtral", "vocab_size": 32000, "num_local_experts": 8, "num_experts_per_tok": 2}
ROWS = StepShape(count=16, length=1024, answer=256)


def config(method: Any, **settings: Any) -> Config:
    named = {key.replace("__", "."): value for key, value in settings.items()}
    return resolve(Preset("test", named), method).config


def gpu_budget(gib: float, **more: Any) -> MemoryBudget:
    return MemoryBudget(name="a GPU", device="cuda", source="listed", total=int(gib * GIB), **more)


def memory(gib: float) -> MemoryBudget:
    return MemoryBudget(name="2 CPU cores", device="cpu", source="system", total=int(gib * GIB))


def asked(
    method: Any, budget: MemoryBudget, table: dict[str, Any] = LLAMA_8B, rows: StepShape = ROWS, **settings: Any
) -> FitQuery:
    return FitQuery(config(method, **settings), table, rows, budget)


def cases() -> Iterator[FitQuery]:
    """Methods, models, rows and settings, with budgets of many sizes."""
    sizes = (4.0, 10.0, 15.7, 22.5, 44.5, 79.2, 139.8)
    for method, table, gib in itertools.product(method_names(), (LLAMA_1B, LLAMA_8B, MIXTRAL), sizes):
        for length, checkpointing in itertools.product((100, 300, 4000), (True, False)):
            rows = StepShape(count=12, length=length, answer=length // 3)
            yield asked(
                method, gpu_budget(gib), table, rows, train__gradient_checkpointing=checkpointing, train__batch=12
            )
    for method, gib, length in itertools.product(method_names(), (6, 24, 64), (80, 700)):
        yield asked(method, memory(gib), LLAMA_1B, StepShape(count=12, length=length, answer=40), train__batch=12)


ALL = list(cases())
SOME = ALL[::3]
"""For tests that search, and so estimate each many times."""


def test_the_required_headroom_is_the_worst_error_and_the_context_once_more() -> None:
    under = error_of("dry run", "cuda").under
    budget = gpu_budget(20)
    assert (
        required_headroom(10 * GIB, budget, "dry run")
        == round(10 * GIB / (1 - under)) - 10 * GIB + CONTEXT + WORKSPACES
    )
    wanted = 10 * GIB + required_headroom(10 * GIB, budget, "dry run")

    def at(total: int) -> str:
        return classify_fit(10 * GIB, MemoryBudget(name="", device="cuda", source="gpu", total=total), "dry run")

    assert [at(wanted), at(wanted - 1), at(10 * GIB), at(10 * GIB - 1)] == ["fits", "tight", "tight", "does not fit"]


def test_memory_used_by_others_is_not_available() -> None:
    assert classify_fit(10 * GIB, gpu_budget(20), "dry run") == "fits"
    assert classify_fit(10 * GIB, gpu_budget(20, used=9 * GIB), "dry run") == "tight"
    assert classify_fit(10 * GIB, gpu_budget(20, used=11 * GIB), "dry run") == "does not fit"
    assert gpu_budget(20, used=30 * GIB).free == 0


def test_on_a_cpu_the_process_needs_memory_too() -> None:
    budget = memory(2)
    assert classify_fit(2 * GIB - PROCESS, budget, "dry run") == "tight"
    assert classify_fit(2 * GIB - PROCESS + 1, budget, "dry run") == "does not fit"


def test_an_underestimate_of_a_tenth_needs_headroom_of_a_ninth() -> None:
    assert MeasuredError(None, 0.1, 0.1, "").required_headroom(900) == 100


def test_the_errors_of_the_plan_are_those_of_the_measurements() -> None:
    results = (TOOLS / "RESULTS.md").read_text("utf-8")
    summary = re.search(r"All measured configurations: (\d+) configurations, .*", results)
    assert summary and f" {summary[1]} configurations" in error_of("formula", "cpu").against
    tiers: list[tuple[Tier, int]] = [("dry run", 2), ("formula", 1)]
    for tier, digits in tiers:
        match = re.search(rf"{tier}: median ([\d.]+)%, worst ([\d.]+)%, lowest -([\d.]+)%", summary[0], re.IGNORECASE)
        error = error_of(tier, "cpu")
        shown = [f"{100 * (value or 0):.{digits}f}" for value in (error.median, error.worst, error.under)]
        assert match and shown == [*match.groups()]


def estimate(static: int, training: int, evaluation: int) -> MemoryEstimate:
    """Bytes of tensors, without the pool."""
    peaks = [
        PeakMemory(
            total=size + (pool := CONTEXT + WORKSPACES + round(GAPS * size)), parts={"weights": size, "pool": pool}
        )
        for size in (training, evaluation)
    ]
    return MemoryEstimate(
        tier="formula", method="lora", device="cuda", rows=ROWS, micro_batch=1, packing="padded",
        gradient_checkpointing=True, static=static, training=peaks[0], evaluation=peaks[1], parameters=1, trainable=1,
    )  # fmt: skip


def test_a_corrected_formula_equals_the_dry_run_at_its_point() -> None:
    scale = FormulaCorrection.of(estimate(1000, 3000, 2000), estimate(1100, 4100, 1600))
    assert (scale.static, scale.training, scale.evaluation) == (1.1, 1.5, 0.5)
    assert scale.peak(estimate(1000, 3000, 2000)) == estimate(1100, 4100, 1600).training.total
    assert scale.peak(estimate(1000, 5000, 2000)) == estimate(0, 1100 + 6000, 0).training.total
    assert scale.evaluation_peak(estimate(1000, 1000, 3000)) == estimate(0, 0, 1100 + 1000).evaluation.total
    assert FormulaCorrection.of(estimate(1000, 3000, 2000), None) == FormulaCorrection()


def test_evaluation_must_fit_on_a_cpu_but_not_on_a_gpu() -> None:
    small = {"evaluation__batch": 64, "evaluation__max_new_tokens": 2048}
    rows = StepShape(count=4, length=200, answer=20, prompt=180)
    with_card, without = (asked("lora", budget, LLAMA_1B, rows, **small) for budget in (gpu_budget(9), memory(9)))
    assert with_card.formula_estimate().evaluation.total > with_card.formula_estimate().training.total
    assert with_card.formula_estimate().peak == with_card.formula_estimate().training.total
    assert without.formula_estimate().peak == without.formula_estimate().evaluation.total
    few = largest_evaluation_batch(asked("lora", gpu_budget(5), LLAMA_1B, rows, **small))
    assert few.limited_by == "memory" and 0 < few.value < 64
    tight = next(case for gib in range(90, 10, -1) if not (case := asked("lora", memory(gib / 10), LLAMA_1B, rows,
                                                                         **small)).fits_without_headroom())  # fmt: skip
    first = find_remedies(tight)[0].settings
    assert list(first) == ["evaluation.batch"] and first["evaluation.batch"] < 64


def test_settings_are_applied_to_a_configuration() -> None:
    changed = with_settings(config("lora"), {"train.max_length": 64, "optimizer.name": "adamw_8bit", "method": "full"})
    assert (changed.train.max_length, changed.optimizer.name, changed.method) == (64, "adamw_8bit", "full")


@pytest.mark.parametrize("case", ALL[::7], ids=lambda case: f"{case.config.method} {case.budget.total >> 30}")
def test_more_memory_never_makes_it_not_fit(case: FitQuery) -> None:
    order = ["does not fit", "tight", "fits"]
    peak = case.peak()
    verdicts = [order.index(classify_fit(peak, gpu_budget(gib), "formula")) for gib in range(1, 200, 3)]
    assert verdicts == sorted(verdicts)


def test_the_largest_micro_batch_fits_and_one_more_does_not() -> None:
    seen = set()
    for case in ALL:
        most = largest_micro_batch(case)
        seen.add(most.limited_by)
        assert most.value == 0 or case.with_micro_batch(most.value).fits_without_headroom()
        if most.limited_by == "memory":
            assert most.value < case.rows.count
            assert not case.with_micro_batch(most.value + 1).fits_without_headroom()
        elif most.limited_by == "nothing":
            assert most.value == case.rows.count
    assert seen == {"memory", "nothing", "token_limit"}


def test_the_longest_rows_fit_and_one_token_more_does_not() -> None:
    seen = set()
    for case in SOME:
        most = longest_rows(case.with_micro_batch(4), 32768)
        seen.add(most.limited_by)
        if most.value:
            assert case.with_micro_batch(4).with_length(most.value).fits_without_headroom()
        if most.limited_by == "memory" and most.value != case.rows.length:  # the requested length counts if it fits
            assert not case.with_micro_batch(4).with_length(max(2, most.value + 1)).fits_without_headroom()
        elif most.limited_by == "nothing":
            assert most.value == 32768
    assert seen == {"memory", "nothing"}


def test_every_change_that_is_proposed_makes_it_fit() -> None:
    helped = hopeless = 0
    for case in SOME:
        qlora = (config("qlora", train__batch=12), FormulaCorrection()) if case.config.method != "qlora" else None
        proposals = find_remedies(case, qlora, 131072)
        assert not proposals or not case.fits_without_headroom()
        helped, hopeless = helped + bool(proposals), hopeless + (not proposals and not case.fits_without_headroom())
        for change in proposals:
            settings = dict(change.settings)
            start = case
            if settings.pop("method", None):
                start = FitQuery(qlora[0], case.model_config, case.rows, case.budget).with_micro_batch(
                    case.formula_estimate().micro_batch
                )
            length = settings.pop("train.max_length", None)
            applied = start.with_settings(settings)
            applied = applied.with_length(length) if length else applied
            assert applied.fits_without_headroom()
            assert change.peak == applied.peak()
            assert change.fit != "does not fit"
    assert helped > 20 and hopeless > 5  # or this test would promise nothing


def test_the_smallest_change_comes_first() -> None:
    """An 8B LoRA with a large micro-batch: a smaller one has no cost, shorter rows and another method have."""
    case = asked("lora", gpu_budget(44.5), train__micro_batch=16, train__gradient_checkpointing=False)
    proposals = find_remedies(case, (config("qlora"), FormulaCorrection()), 131072)
    keys = [next(iter(change.settings)) for change in proposals]
    assert keys[:2] == ["train.micro_batch", "train.gradient_checkpointing"]
    assert keys == sorted(keys, key=["train.micro_batch", "train.gradient_checkpointing", "optimizer.name",
                                     "train.max_length", "method"].index)  # fmt: skip


def test_if_no_single_change_suffices_several_are_combined() -> None:
    rows = StepShape(count=16, length=4096, answer=2048)
    case = asked("full", gpu_budget(30), LLAMA_1B, rows, train__micro_batch=4, train__gradient_checkpointing=False,
                 optimizer__name="adamw")  # fmt: skip
    alone = [
        {"train.micro_batch": 1},
        {"train.gradient_checkpointing": True},
        {"optimizer.name": "paged_adamw_8bit"},
    ]
    tight = next(
        gib / 4
        for gib in range(400, 4, -1)
        if not any(
            FitQuery(case.config, case.model_config, rows, gpu_budget(gib / 4)).with_settings(s).fits_without_headroom()
            for s in alone
        )
    )
    (combined,) = find_remedies(FitQuery(case.config, case.model_config, rows, gpu_budget(tight)), None, 64)
    assert len(combined.settings) > 1


def test_an_automatic_micro_batch_leaves_headroom_if_possible() -> None:
    budget = gpu_budget(44.5)
    open_ = asked("lora", budget, train__gradient_checkpointing=False)
    chosen = resolve_automatic(open_)
    assert 1 <= chosen.config.train.micro_batch < largest_micro_batch(open_).value
    assert chosen.fits()
    assert resolve_automatic(asked("lora", budget, train__micro_batch=3)).config.train.micro_batch == 3
    assert resolve_automatic(asked("lora", gpu_budget(8))).config.train.micro_batch == 1


def test_rows_are_limited_by_preset_and_model() -> None:
    assert planned_rows(config("lora", train__max_length=300), 4096).length == 300
    assert planned_rows(config("lora", train__max_length=9000), 4096).length == 4096
    assert planned_rows(config("lora"), None, 77) == StepShape(count=16, length=77, answer=76)
    assert (positions_of(LLAMA_8B), positions_of({"n_positions": 1024}), positions_of({})) == (131072, 1024, None)
    assert positions_of({"text_config": {"max_position_embeddings": 8}}) == 8


def test_a_quick_plan_has_three_methods() -> None:
    configs = [config(method) for method in method_names()]
    plan = quick_plan(PlanQuery(configs=configs, qlora=configs[0], budget=gpu_budget(22.5), length=1024), LLAMA_8B)
    assert [method_plan.method for method_plan in plan.methods] == list(method_names())
    qlora, lora, full = plan.methods
    assert full.fit == "tight" and full.best.on_host  # with updates in the backward pass
    (used,) = (level for level in full.levels if level.chosen)
    assert (used.peak, used.on_host, used.fit) == (full.best.peak, full.best.on_host, full.fit)
    assert qlora.fit != "does not fit" and not qlora.changes
    assert lora.best.tier == "formula" and plan.rows_from == "asked"


LEAST = {"optimizer__name": "auto", "optimizer__rounding": "stochastic", "optimizer__step_in_backward": True}


@pytest.mark.parametrize(
    ("shape", "gib"),
    [(LLAMA_8B, 22), (LLAMA_8B | {"hidden_size": 5120, "intermediate_size": 17408, "num_hidden_layers": 40}, 40)],
)
def test_full_fine_tuning_with_the_step_in_the_backward_pass_fits_on_a_smaller_gpu(
    shape: dict[str, Any], gib: int
) -> None:
    rows = StepShape(count=2, length=2048, answer=2047)
    query = asked("full", gpu_budget(gib), shape, rows, train__batch=2, **LEAST)
    least = resolve_automatic(query)
    estimate = least.formula_estimate()
    assert least.fits_without_headroom()
    assert estimate.micro_batch == 2 and estimate.training.parts.get("gradients", 0) < GIB
    moments = {"paged_adamw_8bit": 2, "offloaded_adamw_8bit": 2 * (1 + 4 / 256)}[least.config.optimizer.name]
    assert estimate.on_host == pytest.approx(moments * estimate.trainable, rel=1e-6)
    assert checkpoint_bytes(estimate, least.config) > 4 * estimate.trainable  # with weights, wherever the state is
    roomy = resolve_automatic(replace(query, budget=gpu_budget(200)))
    assert roomy.config.optimizer.name == "adamw_8bit" and not roomy.formula_estimate().on_host
    assert estimate.on_host == pytest.approx(roomy.formula_estimate().static - estimate.static, rel=1e-6)


@pytest.mark.parametrize(
    ("settings", "where"), [({"train.micro_batch": 2}, "train.micro_batch"), ({"train.devices": 2}, "train.devices")]
)
def test_a_step_in_the_backward_pass_is_one_micro_batch_of_one_device(settings: dict[str, Any], where: str) -> None:
    given = {"optimizer.step_in_backward": True, "train.batch": 4, **settings}
    with pytest.raises(UserError) as refused:
        resolve(Preset("test", given), "full")
    assert refused.value.code == "preset.step_in_backward" and where in refused.value.line
    assert resolve(Preset("test", given), "lora")  # adapters need little memory for gradients
