"""Run all checks of a method and give each its verdict; loss and throughput of the trained steps.

`check_methods`, of `ftbench doctor` without `--train`, only trains each method for one step on the embedded model.

Required FLOPs: for T tokens a layer of m inputs and n outputs takes 2 T m n forward, and the same again for the
gradient of its input, which frozen weights need too, and for the gradient of its weight, which only trained weights
need. The head counts at the positions in the loss only. Attention is not a matrix product here: fused kernels compute
it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from bitsandbytes.nn import Linear4bit
from transformers import set_seed
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.pytorch_utils import Conv1D

from engine.config.device_defaults import OFF, ActivationCheckpointing, describe_checkpointing
from engine.config.errors import error_text
from engine.config.files import SCRATCH_PREFIX, temporary_folder
from engine.config.gpu_prices import Gpu, find_gpu, list_gpus
from engine.config.method_specs import method_names, method_title
from engine.config.preset import Preset, resolve
from engine.config.quantities import decimal, percent, significant
from engine.data.rows import Row
from engine.extensions.doctor.agreement import check_decoding, check_packed_loss, check_shared_prefix
from engine.extensions.doctor.memory import (
    Peaks,
    check_out_of_memory,
    check_peak_memory,
    judge_paging,
    measure_paging,
    measured_peaks,
    paging_skipped,
)
from engine.extensions.doctor.training_report import (
    CHECKS,
    DECODING,
    MODELS,
    OUT_OF_MEMORY,
    PACKED_LOSS,
    PAGING,
    PEAK_MEMORY,
    SHARED_PREFIX,
    THROUGHPUT,
    TRAINING,
    CheckState,
    ModelChoice,
    TrainingCheck,
    TrainingReport,
    broken_report,
)
from engine.extensions.doctor.training_session import (
    WARM_UP,
    TrainingSession,
    embedded_config,
    embedded_subject,
    random_subject,
)
from engine.methods import method
from engine.methods.adapters import unwrap_peft
from engine.methods.machine import Machine
from engine.methods.optimizers import make_optimizer
from engine.training.batches import answer_tokens
from engine.training.guards import free_memory

MAX_REASON = 300
"""Characters of a failure's reason."""


@dataclass
class Checks:
    """The checks of one trained session, with what they measured."""

    session: TrainingSession
    speed: Speed | None = None
    peaks: Peaks | None = None

    def run(self, name: str) -> TrainingCheck:
        """The verdict of one check; an error is a failure."""
        session, steps = self.session, self.session.steps
        try:
            if name == TRAINING:
                learns = session.subject.tokenizer is not None
                return check_training(steps.losses, session.loss_before, session.loss_after, learns)
            if name == THROUGHPUT:
                self.speed = measured_speed(session)
                return check_throughput(self.speed)
            if name == PEAK_MEMORY:
                self.peaks = measured_peaks(session)
                return check_peak_memory(self.peaks, session.machine.device)
            others = {
                OUT_OF_MEMORY: check_out_of_memory,
                PACKED_LOSS: check_packed_loss,
                SHARED_PREFIX: check_shared_prefix,
                DECODING: check_decoding,
            }
            return others[name](session)
        except Exception as error:  # noqa: BLE001 - any failure of a library is the answer
            return TrainingCheck(name=name, state="failed", text=error_text(error, MAX_REASON))

    def report(self, results: list[TrainingCheck]) -> TrainingReport:
        session, speed, peaks = self.session, self.speed, self.peaks
        best, why = session.estimates.best, session.subject.why
        return TrainingReport(
            method=session.config.method,
            model=session.subject.title,
            device=session.machine.name,
            precision=str(session.dtype).removeprefix("torch."),
            optimizer=session.optimizer_name,
            parameters=best.parameters if best else None,
            packing=session.packing.mode,
            micro_batch=session.gradients.micro_batch,
            gradient_checkpointing=describe_checkpointing(session.checkpointing.setting),
            steps=len(session.steps.losses),
            tokens_per_second=speed.tokens_per_second if speed else None,
            seconds_per_step=speed.seconds_per_step if speed else None,
            mfu=speed.mfu if speed else None,
            peak_flops=speed.peak_flops if speed else None,
            peak=peaks.measured if peaks else None,
            peak_probe=peaks.probe if peaks else None,
            peak_dry_run=peaks.dry_run if peaks else None,
            peak_formula=peaks.formula if peaks else None,
            notes=[*([f"no larger shape ({why})"] if why else []), *session.notes],
            checks=results,
        )


def check_method(
    method: str, choice: ModelChoice, machine: Machine, scratch: Path, progress: Callable[[str], None]
) -> TrainingReport:
    """Train `method` for a few steps and run the checks of this model; `scratch`: where weights are written."""
    with temporary_folder(SCRATCH_PREFIX) as folder:
        name, title = method_title(method), MODELS[choice]
        try:
            progress(f"{name}, {title}: loading")
            is_embedded = choice == "embedded"
            subject = embedded_subject(method) if is_embedded else random_subject(method, machine, scratch)
            title = subject.title
            progress(f"{name}, {title}: planning")
            session = TrainingSession(subject, machine, folder)
            progress(f"{name}, {title}: {subject.steps} steps")
            session.train()
        except Exception as error:  # noqa: BLE001 - any failure of the method or of a library is the answer
            return broken_report(method, choice, title, machine.name, error_text(error, MAX_REASON))
        checks, results = Checks(session), []
        for check in CHECKS[choice]:
            if check == PAGING:
                why = paging_skipped(session.config, session.machine, session.optimizer_name, session.meters)
                results += [TrainingCheck(name=PAGING, state="skipped", text=why)] if why else []
                continue  # it runs in a process of its own
            progress(f"{name}, {title}: {check}")
            results.append(checks.run(check))
        report = checks.report(results)
    del session, checks
    free_memory()
    return report


def check_paging_of(method: str, machine: Machine) -> TrainingCheck:
    """The verdict on the paged optimizer of a method; an error is a failure."""
    try:
        return judge_paging(measure_paging(embedded_config(method), machine))
    except Exception as error:  # noqa: BLE001 - any failure of a library is the answer
        return TrainingCheck(name=PAGING, state="failed", text=error_text(error, MAX_REASON))


TERA = 1e12


def check_training(losses: Sequence[float], before: float, after: float, learns: bool) -> TrainingCheck:
    """`losses`: of the steps; `before` and `after`: of all rows, in nats/token.

    `learns`: whether the rows can be learned in so few steps; random tokens cannot.
    """
    text = f"{len(losses)} steps, loss {decimal(before, 3)} → {decimal(after, 3)} nats/token"
    problem = "it does not fall" if learns and not after < before else ""
    if not all(map(math.isfinite, (*losses, before, after))):
        problem = "not finite"
    if problem:
        return TrainingCheck(name=TRAINING, state="failed", text=f"{text}: {problem}")
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
    steps, rows = session.steps, session.subject.rows
    timed = range(WARM_UP, len(steps.losses))
    timed_rows = [rows[index] for step in timed for index in session.sampler.indices(step)]
    flops = required_flops(session.model, timed_rows, OFF)
    peak, why, name = listed_peak(session.machine, session.dtype, list_gpus())
    return Speed(
        tokens_per_second=steps.tokens / steps.seconds,
        seconds_per_step=steps.seconds / len(timed),
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
    state: CheckState = "ok" if 0 < speed.tokens_per_second < math.inf else "failed"
    if speed.mfu is None or speed.peak_flops is None:
        text += f"; MFU left out: {speed.why_no_peak}"
    else:
        text += f", MFU {percent(speed.mfu)} of {decimal(speed.peak_flops / TERA, 0)} TFLOP/s ({speed.peak_of})"
        if speed.mfu > 1:
            state, text = "failed", f"{text}: more than the GPU has"
    return TrainingCheck(name=THROUGHPUT, state=state, text=text)


def required_flops(model: torch.nn.Module, rows: Sequence[Row], checkpointing: ActivationCheckpointing) -> int:
    """FLOPs of a step over `rows`; the forward pass of layers that recompute their activations runs twice."""
    tokens, in_loss = sum(len(row.input_ids) for row in rows), sum(map(answer_tokens, rows))
    head = set(unwrap_peft(model).get_output_embeddings().modules())  # with the adapter of the LM head
    # The layers that recompute their activations, which transformers counts in this order too.
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    chosen = (layer for number, layer in enumerate(layers) if checkpointing.recomputes(number))
    recomputed = {module for layer in chosen for module in layer.modules()}
    flops = 0
    for module in model.modules():
        if isinstance(module, Linear4bit):  # its weight has another shape
            size = module.in_features * module.out_features
        elif isinstance(module, torch.nn.Linear | Conv1D):
            size = module.weight.numel()
        else:
            continue
        passes = 2 + int(module.weight.requires_grad) + int(module in recomputed)
        flops += 2 * (in_loss if module in head else tokens) * size * passes
    return flops


TOKENS = 32
"""Tokens of the row that is trained on."""


def check_methods(machine: Machine) -> Iterator[dict[str, Any]]:
    """Update the trainable parameters of the embedded model once by each method. For each: title, whether it is ready,
    seconds of the step, optimizer, notes, and why it is not ready.
    """
    for name in method_names():
        facts: dict[str, Any] = {"method": name, "title": method_title(name), "ready": False, "why": "", "notes": []}
        try:
            facts |= _train_one_step(name, machine, facts["notes"]) | {"ready": True}
        except Exception as error:  # noqa: BLE001 - any failure of the method or of a library is the answer
            facts["why"] = error_text(error)
        yield facts


def _train_one_step(name: str, machine: Machine, notes: list[str]) -> dict[str, Any]:
    """Load the embedded model, and update its trainable parameters once. Raises an error of any library."""
    config = resolve(Preset("doctor", {}), name).config
    set_seed(0)
    module = method(name)
    model = module.make_trainable(module.load(config, machine), config)
    optimizer, optimizer_name = make_optimizer(
        model.parameters(), config, machine, lambda code, text: notes.append(text)
    )
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    ids = torch.arange(1, TOKENS + 1, device=trainable[0].device)[None]  # (1, TOKENS)
    model.train()
    began = time.monotonic()
    loss = model(input_ids=ids, labels=ids).loss
    loss.backward()
    before = [parameter.detach().clone() for parameter in trainable]
    optimizer.step()
    changed = any(not torch.equal(was, now) for was, now in zip(before, trainable, strict=True))
    seconds = time.monotonic() - began
    if not math.isfinite(float(loss.detach())):
        raise ValueError("the loss of a training step is not finite")
    if not changed:
        raise ValueError("a training step changed no weight")
    return {"seconds": round(seconds, 3), "optimizer": optimizer_name}
