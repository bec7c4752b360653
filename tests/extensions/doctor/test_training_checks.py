"""The checks of `ftbench doctor --train`: on this machine they pass, and each of them fails where it should."""

from __future__ import annotations

import ctypes
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import torch
from command import SMALL
from forked import fork_processes
from transformers import LlamaConfig
from typer.testing import CliRunner

from engine.config.gpu_prices import list_gpus
from engine.config.method_specs import method_names
from engine.config.settings import with_settings
from engine.evaluation.generate import Generator
from engine.extensions.doctor import agreement, memory, training_session
from engine.extensions.doctor.agreement import (
    check_decoding,
    check_packed_loss,
    check_shared_prefix,
    divergences,
    gradients_agree,
    judge_decoding,
    losses_agree,
    plain_attention,
)
from engine.extensions.doctor.memory import (
    NEEDS_GPU,
    PagingResult,
    Peaks,
    check_out_of_memory,
    check_peak_memory,
    is_managed,
    judge_out_of_memory,
    judge_paging,
)
from engine.extensions.doctor.report import Speed, check_method, check_throughput, check_training, listed_peak
from engine.extensions.doctor.training_report import CHECKS, MODELS, OUT_OF_MEMORY, PAGING, TRAINING, TrainingReport
from engine.extensions.doctor.training_session import ON_CPU, TrainingSession, embedded_subject
from engine.methods import lora
from engine.methods.machine import Machine, this_machine
from engine.training import gradients as gradients_module
from engine.training import varlen_attention
from engine.training.batches import MicroBatch, Packing
from engine.training.guards import OutOfMemory
from engine.training.loss import summed_loss
from engine.training.segments import Segments
from tui.cli.main import app
from tui.extensions.doctor import training_check

GIB = 1 << 30
A100 = Machine("cuda", "NVIDIA A100-SXM4-80GB", bf16=True, flash_attention=False)


@pytest.fixture(scope="module", autouse=True)
def few_rows() -> Iterator[None]:
    """For the checks in this process: `ftbench doctor` trains on and compares more, and its random model is deeper."""
    two_layers = replace(ON_CPU, sizes={**ON_CPU.sizes, "num_hidden_layers": 2})
    sizes = {"EMBEDDED_ROWS": 8, "EMBEDDED_BATCH": 4, "EMBEDDED_STEPS": 3, "RANDOM_STEPS": {"cpu": 3, "cuda": 3}}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**sizes, "ON_CPU": two_layers}.items():
            patch.setattr(training_session, name, value)
        patch.setattr(agreement, "ROWS", 4)
        patch.setattr(agreement, "ANSWERS", 2)
        yield


@pytest.fixture(scope="module")
def session(few_rows: None, tmp_path_factory: pytest.TempPathFactory) -> TrainingSession:
    """LoRA, trained on the small model."""
    subject = embedded_subject("lora")
    subject = replace(subject, config=with_settings(subject.config, {"model.id": str(SMALL)}))
    trained_session = TrainingSession(subject, this_machine(), tmp_path_factory.mktemp("session"))
    trained_session.train()
    return trained_session


def reports_of_command(method: str, monkeypatch: pytest.MonkeyPatch) -> list[TrainingReport]:
    """What `ftbench doctor --train` finds of one method, in a process of its own and on all rows."""
    fork_processes(monkeypatch)
    monkeypatch.setattr(training_check, "method_names", lambda: [method])
    done = CliRunner().invoke(app, ["doctor", "--train", "--json"])
    assert done.exit_code == 0, done.output
    return msgspec.convert(json.loads(done.stdout)["reports"], list[TrainingReport])


@pytest.mark.parametrize("method", method_names())
def test_every_check_passes_or_needs_a_gpu(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if method == "full":
        reports = reports_of_command(method, monkeypatch)
    else:
        reports = [check_method(method, choice, this_machine(), tmp_path, lambda text: None) for choice in MODELS]
    for report, choice in zip(reports, MODELS, strict=True):
        assert report.method == method and [check.name for check in report.checks] == list(CHECKS[choice])
        assert report.failed == []
        assert report.tokens_per_second and report.peak and report.peak_dry_run and report.parameters
        if not torch.cuda.is_available():
            assert report.peak == pytest.approx(report.peak_dry_run, rel=0.1)
            skipped = {check.name: check.text for check in report.checks if check.state == "skipped"}
            gpu_only = dict.fromkeys((PAGING, OUT_OF_MEMORY), NEEDS_GPU)
            assert skipped == (gpu_only if choice == "embedded" else {})
            assert report.mfu is None and "MFU left out" in report.checks[1].text
            assert report.model == (MODELS["embedded"] if choice == "embedded" else ON_CPU.title)


@pytest.mark.parametrize("tokens", [None, 1], ids=["all rows before it", "one token of the row before it"])
def test_attention_to_other_rows_fails_the_packed_loss(
    session: TrainingSession, monkeypatch: pytest.MonkeyPatch, tokens: int | None
) -> None:
    assert check_packed_loss(session).state == "ok"

    def attend(query: Any, key: Any, value: Any, segments: Segments, scale: float, window: int) -> torch.Tensor:
        mask = segments.mask(query.device)[0, 0].clone()
        for before, row in pairwise(segments.segments):
            mask[row.start : row.end, before.end - tokens if tokens else 0 : before.end] = True
        return torch.nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, scale=scale, enable_gqa=True
        )

    monkeypatch.setattr(varlen_attention, "SegmentAttention", SimpleNamespace(apply=attend))
    assert check_packed_loss(session).state == "failed"


def test_rows_are_computed_with_the_packing_that_is_compared(
    session: TrainingSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[torch.Size] = []

    def loss(model: Any, batch: MicroBatch, *rest: Any) -> torch.Tensor:
        batches.append(batch.model_inputs["input_ids"].shape)
        return summed_loss(model, batch, *rest)

    monkeypatch.setattr(gradients_module, "summed_loss", loss)
    for packing in (session.packing, Packing("padded", 4096)):
        session.step(list(session.subject.rows[:4]), packing, 4)
    session.model.zero_grad(set_to_none=True)
    assert [shape[0] for shape in batches] == [1, 4]


def test_a_row_that_misses_its_shared_prefix_fails(session: TrainingSession, monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_shared_prefix(session).state == "ok"
    monkeypatch.setattr(Segments, "shared_keys", lambda segments, window: [])
    assert check_shared_prefix(session).state == "failed"


def test_long_rows_of_large_models_keep_their_attention_kernel() -> None:
    llama = LlamaConfig(num_hidden_layers=32, num_attention_heads=32)
    for longest, kept in ((400, False), (2048, True)):
        with plain_attention(SimpleNamespace(config=llama), longest):
            assert torch.backends.cuda.flash_sdp_enabled() == kept


def test_padded_runs_have_no_packed_loss_to_compare(session: TrainingSession, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "packing", replace(session.packing, mode="padded"))
    assert check_packed_loss(session).state == "skipped"


def test_losses_may_differ_by_what_two_layouts_differ_by() -> None:
    bf16, fp32 = torch.bfloat16, torch.float32
    assert losses_agree([2.0, 3.02], [2.0, 3.0], [2.0, 3.01], bf16).holds
    assert not losses_agree([2.0, 3.1], [2.0, 3.0], [2.0, 3.01], bf16).holds
    assert not losses_agree([2.0, 3.001], [2.0, 3.0], [2.0, 3.0], fp32).holds
    assert not losses_agree([2.0, math.nan], [2.0, 3.0], [2.0, 3.0], fp32).holds
    assert not losses_agree([2.0, 3.0], [2.0, math.nan], [2.0, 3.0], fp32).holds


def test_gradients_may_differ_by_what_two_layouts_differ_by() -> None:
    gradient = torch.linspace(-1, 1, 1000)
    assert gradients_agree(gradient * 1.001, gradient, gradient * 0.999, torch.bfloat16).holds
    assert not gradients_agree(gradient * 1.1, gradient, gradient, torch.bfloat16).holds
    assert gradients_agree(gradient * 1.2, gradient, gradient * 0.9, torch.bfloat16).holds
    assert not gradients_agree(gradient * 1.25, gradient, gradient * 0.9, torch.bfloat16).holds
    assert not gradients_agree(gradient * math.nan, gradient, gradient, torch.float32).holds
    assert not gradients_agree(gradient * 0, gradient * 0, gradient * 0, torch.float32).holds


def test_other_tokens_fail_the_decoding(session: TrainingSession, monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_decoding(session).state == "ok"

    def worst(self: Generator, model: Any, rows: list[Any]) -> list[list[int]]:
        """Answers that begin with the least likely token."""
        answers = []
        for row in rows:
            logits = model(input_ids=torch.tensor([row.prompt])).logits[0, -1]
            answers.append([int(logits.argmin())])
        return answers

    monkeypatch.setattr(Generator, "answer_tokens_alone", worst)
    check = check_decoding(session)
    assert check.state == "failed" and "2 differ" in check.text


def test_only_ties_within_rounding_may_be_decoded_differently() -> None:
    same, ties, different = (judge_decoding(64, 8, gaps) for gaps in ([], [0.0, 3.9], [0.0, 4.1]))
    assert (same.state, ties.state, different.state) == ("ok", "ok", "failed")
    assert all(check.text.startswith("8 answers, 64 tokens: ") for check in (same, ties, different))
    assert "tie" not in same.text and "2 ties" in ties.text and "1 differ" in different.text and "4.1" in different.text
    assert judge_decoding(64, 8, [math.nan]).state == "failed"


def test_the_first_difference_of_an_answer_is_found_and_may_be_its_end() -> None:
    row = SimpleNamespace(prompt=[9])
    differences = divergences([row] * 3, [[1, 2], [1], [1, 5]], [[1, 2], [1, 3], [1, 4]], frozenset({7}))  # type: ignore[list-item]
    assert [(divergence.context, divergence.ours, divergence.theirs) for divergence in differences] == [
        ([9, 1], [7], [3]), ([9, 1], [5], [4])
    ]  # fmt: skip


def test_a_loss_that_does_not_fall_or_is_not_finite_fails_the_training() -> None:
    assert check_training([3.0, 2.0], 3.0, 2.0, learns=True).state == "ok"
    assert check_training([3.0, 3.1], 3.0, 3.1, learns=False).state == "ok"
    assert "does not fall" in check_training([3.0, 3.1], 3.0, 3.1, learns=True).text
    for losses, after in (([3.0, math.nan], 2.0), ([3.0, 2.0], math.inf)):
        assert check_training(losses, 3.0, after, learns=False).state == "failed"


def speed(flops: float, peak: float | None, tokens: float = 900.0) -> Speed:
    return Speed(tokens, 1.5, flops, peak, "" if peak else "a CPU has no listed peak", "A100 80GB" if peak else "")


def test_more_flops_than_the_gpu_has_fail_the_throughput() -> None:
    check = check_throughput(speed(156e12, 312e12))
    assert check.state == "ok"
    assert check.text == "900 tokens/s, 1.50 s/step, 156 TFLOP/s, MFU 50.0% of 312 TFLOP/s (A100 80GB)"
    assert check_throughput(speed(400e12, 312e12)).state == "failed"
    unlisted = speed(1e9, None)
    assert check_throughput(unlisted).text.endswith(f"; MFU left out: {unlisted.why_no_peak}")
    assert check_throughput(speed(1e9, None, tokens=0.0)).state == "failed"


@pytest.mark.parametrize(
    ("name", "dtype", "peak", "why"),
    [
        ("NVIDIA A100-SXM4-80GB", torch.bfloat16, 312e12, ""),
        ("NVIDIA H100 80GB HBM3", torch.bfloat16, 989.4e12, ""),
        ("NVIDIA A100-SXM4-80GB MIG 3g.40gb", torch.bfloat16, None, "MIG"),
        ("NVIDIA A100-SXM4-80GB", torch.float32, None, "bf16"),
        ("Some GPU", torch.bfloat16, None, "Some GPU has"),
    ],
)
def test_the_peak_of_a_gpu_is_that_of_the_list(name: str, dtype: torch.dtype, peak: float | None, why: str) -> None:
    listed, reason, _ = listed_peak(replace(A100, name=name), dtype, list_gpus())
    assert listed == peak and why in reason


def test_every_shipped_gpu_has_a_peak() -> None:
    assert [gpu.name for gpu in list_gpus() if gpu.bf16_tflops is None] == []


def test_a_plan_that_is_far_from_the_measured_peak_fails() -> None:
    peaks = Peaks(measured=10 * GIB, probe=10 * GIB, dry_run=10 * GIB, formula=30 * GIB)
    assert check_peak_memory(peaks, "cuda").state == "ok"  # the dry run counts
    assert check_peak_memory(replace(peaks, dry_run=8 * GIB), "cuda").state == "failed"
    assert check_peak_memory(replace(peaks, dry_run=14 * GIB), "cuda").state == "failed"
    assert check_peak_memory(replace(peaks, dry_run=None), "cuda").state == "failed"  # the formula counts
    assert check_peak_memory(replace(peaks, dry_run=None, formula=None), "cuda").state == "failed"
    changed = check_peak_memory(replace(peaks, changed="micro-batch 4"), "cuda")
    assert changed.state == "failed" and "chose micro-batch 4" in changed.text


@contextmanager
def at_most(gradients: Any, rows: int) -> Iterator[None]:
    """Stands in for a GPU on which more rows do not fit."""
    original = gradients.forward_backward

    def forward_backward(group: list[Any], total_weight: float) -> torch.Tensor:
        if len(group) > rows:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(group, total_weight)

    gradients.forward_backward = forward_backward
    try:
        yield
    finally:
        del gradients.forward_backward


def test_an_out_of_memory_error_has_to_halve_the_micro_batch(
    session: TrainingSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "machine", replace(session.machine, device="cuda"))
    monkeypatch.setattr(memory, "MAX_TOKENS", 800)
    monkeypatch.setattr(memory, "working_memory", lambda step: step() or 0)
    monkeypatch.setattr(memory, "limited_memory", lambda limit: at_most(session.gradients, 5))
    check = check_out_of_memory(session)
    assert check.state == "ok" and "micro-batch " in check.text and " → " in check.text
    monkeypatch.setattr(memory, "limited_memory", lambda limit: at_most(session.gradients, 1000))
    never = check_out_of_memory(session)
    assert never.state == "failed" and f"{round(100 * memory.LIMIT)}% of" in never.text and " → " not in never.text
    monkeypatch.setattr(memory, "limited_memory", lambda limit: at_most(session.gradients, 0))
    with pytest.raises(OutOfMemory):
        check_out_of_memory(session)


def test_another_loss_after_halving_fails() -> None:
    assert judge_out_of_memory(8, [4], [2.0, 2.0001], 1e-3).state == "ok"
    assert judge_out_of_memory(8, [4], [2.0, 2.5], 1e-3).state == "failed"
    assert judge_out_of_memory(8, [4], [2.0, math.nan], 1e-3).state == "failed"
    assert judge_out_of_memory(8, [], [2.0, 2.0], 1e-3).state == "failed"


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"bytes": 0}, "is not paged"),
        ({"managed": False}, "is not in CUDA managed memory"),
        ({"equal": False}, "has another result"),
    ],
)
def test_state_that_is_not_paged_or_changes_on_a_full_gpu_fails(change: dict[str, Any], text: str) -> None:
    paged = PagingResult(bytes=128 << 20, managed=True, filled=70 * GIB, equal=True)
    assert judge_paging(paged).state == "ok"
    check = judge_paging(replace(paged, **change))
    assert check.state == "failed" and text in check.text


@pytest.mark.parametrize("refuses", [False, True], ids=["out of memory", "NVML assertion"])
def test_all_but_a_part_of_the_gpu_is_filled(refuses: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in for a GPU of 256 MiB, whose allocator's error depends on NVML."""
    room, block, taken = 256 << 20, 2 << 20, [0]

    class Block:
        def __init__(self, size: int) -> None:
            if taken[0] + size > room:
                raise RuntimeError("NVML_SUCCESS == r INTERNAL ASSERT FAILED") if refuses else torch.OutOfMemoryError()
            taken[0] += size
            self.numel = lambda: size

    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (room, room))
    monkeypatch.setattr(torch, "empty", lambda size, **how: Block(size))
    taken[0] = 5 * block
    with memory.full_gpu(block) as filled:
        assert 0 < filled <= room - 6 * block


def test_the_driver_says_whether_memory_is_managed(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in for the driver, which writes one byte."""
    tensor, status, managed = torch.zeros(4), 0, b"\1"

    def attribute(target: Any, which: int, pointer: Any) -> int:
        assert (which, pointer.value) == (8, tensor.data_ptr())
        ctypes.memmove(target, managed, 1)
        return status

    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace(cuPointerGetAttribute=attribute))
    assert is_managed(tensor)
    managed = b"\0"
    assert not is_managed(tensor)
    status = 1
    with pytest.raises(RuntimeError, match="CUDA error 1"):
        is_managed(tensor)


def test_a_method_that_does_not_train_is_a_failed_check(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no kernel image is\navailable")

    monkeypatch.setattr(lora, "load", fail)
    report = check_method("lora", "embedded", this_machine(), tmp_path, lambda text: None)
    first, *others = report.checks
    assert (first.name, first.state) == (TRAINING, "failed")
    assert first.text == "RuntimeError: no kernel image is available"
    assert all(check.state == "skipped" and check.text == "training failed" for check in others)


def test_a_check_that_raises_is_failed_and_the_others_run(
    session: TrainingSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine.extensions.doctor import report

    def fail(*_: object) -> None:
        raise ValueError("no such kernel")

    monkeypatch.setattr(report, "check_packed_loss", fail)
    checks = report.Checks(session)
    assert checks.run("packed loss").text == "ValueError: no such kernel"
    assert checks.run("shared prefix").state == "ok"
