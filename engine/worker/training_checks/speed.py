"""Loss and throughput of the trained steps: tokens/s and model FLOPs utilization."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from engine.config.activation_checkpointing import OFF
from engine.config.gpu_prices import Gpu, find_gpu, list_gpus
from engine.config.quantities import decimal, percent, significant
from engine.memory.audit.required_flops import required_flops
from engine.methods.machine import Machine
from engine.runs.training_report import THROUGHPUT, TRAINING, CheckState, TrainingCheck
from engine.worker.training_checks.training_session import TrainingSession

TERA = 1e12


def check_training(losses: Sequence[float], before: float, after: float, learns: bool) -> TrainingCheck:
    """`losses`: of the steps; `before` and `after`: of all rows, in nats/token.

    `learns`: whether the rows can be learned in so few steps; random tokens cannot.
    """
    text = f"{len(losses)} steps, loss {decimal(before, 3)} → {decimal(after, 3)} nats/token"
    if not all(map(math.isfinite, (*losses, before, after))):
        return TrainingCheck(name=TRAINING, state="failed", text=f"{text}: not finite")
    if learns and not after < before:
        return TrainingCheck(name=TRAINING, state="failed", text=f"{text}: it does not fall")
    return TrainingCheck(name=TRAINING, state="ok", text=text)


@dataclass(frozen=True)
class Speed:
    """Speed of the timed steps."""

    tokens_per_second: float
    seconds_per_step: float
    flops_per_second: float
    """FLOPs of matrix products of forward and backward pass, without recomputation."""
    peak_flops: float | None
    """None if the device has no listed peak."""
    why_no_peak: str = ""
    peak_of: str = ""
    """Name of the GPU in the list."""

    @property
    def mfu(self) -> float | None:
        return None if self.peak_flops is None else self.flops_per_second / self.peak_flops


def measured_speed(session: TrainingSession) -> Speed:
    """Speed of the timed steps of a session."""
    steps = session.steps
    flops = required_flops(session.model, session.timed_rows(), OFF)
    peak, why, name = listed_peak(session.machine, session.dtype, list_gpus())
    return Speed(
        tokens_per_second=steps.tokens / steps.seconds,
        seconds_per_step=steps.seconds / steps.timed,
        flops_per_second=flops / steps.seconds,
        peak_flops=peak,
        why_no_peak=why,
        peak_of=name,
    )


def listed_peak(machine: Machine, dtype: torch.dtype, gpus: list[Gpu]) -> tuple[float | None, str, str]:
    """(FLOP/s in bf16, why unknown, name in the list) of a machine's GPU."""
    if machine.device == "cpu":
        return None, "a CPU has no listed peak", ""
    if dtype != torch.bfloat16:
        return None, "the listed peaks are those of bf16", ""
    if " MIG " in machine.name:
        return None, "the peak of a MIG instance is not listed", ""
    gpu = find_gpu(machine.name, gpus)
    if gpu is None or gpu.bf16_tflops is None:
        return None, f"{machine.name} has no listed peak: add bf16_tflops to gpus.toml", ""
    return gpu.bf16_tflops * TERA, "", gpu.name


def check_throughput(speed: Speed) -> TrainingCheck:
    """More FLOP/s than the GPU has means that the time or the FLOPs are wrong."""
    text = f"{decimal(speed.tokens_per_second, 0)} tokens/s, {significant(speed.seconds_per_step)} s/step, "
    text += f"{significant(speed.flops_per_second / TERA)} TFLOP/s"
    if speed.mfu is None or speed.peak_flops is None:
        text += f"; MFU left out: {speed.why_no_peak}"
        return TrainingCheck(name=THROUGHPUT, state=_measured(speed), text=text)
    peak = f"{decimal(speed.peak_flops / TERA, 0)} TFLOP/s ({speed.peak_of})"
    text += f", MFU {percent(speed.mfu)} of {peak}"
    if speed.mfu > 1:
        return TrainingCheck(name=THROUGHPUT, state="failed", text=f"{text}: more than the GPU has")
    return TrainingCheck(name=THROUGHPUT, state=_measured(speed), text=text)


def _measured(speed: Speed) -> CheckState:
    return "ok" if 0 < speed.tokens_per_second < math.inf else "failed"
