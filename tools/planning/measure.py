"""Measure the memory of a step on the CPU: the worker's code with real weights under the allocator's profiler.

torch's profiler records every block that the CPU allocator allocates and frees, including temporary blocks of kernels
that no operation returns. The resident set would include libraries, oneDNN's buffers and freed memory that malloc
retains; counting tensors would miss temporary blocks, as the planner might.
"""

from __future__ import annotations

import gc
import json
import logging
import multiprocessing
import tempfile
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from multiprocessing.pool import Pool
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import torch
import transformers
from planning.grid import SHAPES, Case
from small_training import Steps, make_training
from torch.autograd.profiler import profile

from engine.config import schema
from engine.config.device_defaults import resolve_checkpointing
from engine.data.rows import Row
from engine.evaluation.generate import Generator
from engine.evaluation.score import row_losses
from engine.evaluation.worst_case import longest_answers, run_worst_case
from engine.hardware.cpu import has_bf16
from engine.methods import method
from engine.methods.machine import Machine, compute_dtype, this_machine
from engine.methods.model_source import vocabulary_size
from engine.methods.optimizers import make_optimizer
from engine.methods.weights import unwrap_peft
from engine.training import varlen_attention
from engine.training.batches import BatchSampler, choose_packing, held_out_batches, step_packing
from engine.training.fit import TrainingSetup, fit

MACHINE = Machine("cpu", "this machine", bf16=has_bf16(), flash_attention=False)


@dataclass(frozen=True)
class Measured:
    """Peaks in bytes."""

    static: int
    training: int
    held_out: int
    answering: int
    """Peak of the worst-case batches of generation (`engine.evaluation.worst_case`)."""


def measured_apart(case: Case) -> Measured:
    """Measure in a new process: garbage of an earlier case would be freed during this one."""
    with _new_process() as pool:
        return pool.apply(measured, (case,))


def _new_process() -> Pool:
    """A fork of a process that has computed nothing: where torch is built for CUDA, a process cannot compute gradients
    if it is the fork of one that has.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context.Pool(1)


def measured(case: Case) -> Measured:
    """Peaks of two steps of the worker's training, one held-out batch and the longest answers, with random weights."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        config = msgspec.structs.replace(case.config, model=with_id(case.config.model, _save(case.shape, folder)))
        model = method(config.method).make_trainable(method(config.method).load(config, MACHINE), config)
        weights = bytes_of(tensors_of(model))
        optimizer, _ = make_optimizer(model.parameters(), config, MACHINE, lambda code, text: None)
        training = _training(case, config, model, optimizer, folder)
        steps = profiled(lambda: fit(training, Steps()))
    static = bytes_of([*tensors_of(model), *_tensors_in(optimizer.state)])
    rows = _rows(case, 64)
    vocabulary = vocabulary_size(unwrap_peft(model).config)
    held_out = next(
        held_out_batches(rows, training.gradients.packing, "cpu", vocabulary, training.gradients.answers_only)
    )
    losses = profiled(lambda: row_losses(model, held_out, training.gradients.packing, 0, "cpu"))
    answers = longest_answers([row.prompt for row in rows], config.evaluation.batch, config.evaluation.max_new_tokens)
    assert answers
    answering = profiled(lambda: run_worst_case(model, answers, 0, "cpu"))
    return Measured(static, weights + steps, static + losses, static + answering)


def answering_apart(case: Case, count: int) -> int:
    """Peak bytes of generating answers of maximum length for `count` rows, in a new process."""
    with _new_process() as pool:
        return pool.apply(_answering, (case, count))


def _answering(case: Case, count: int) -> int:
    """The optimizer's state, which evaluation does not create, is added as it would be after a step."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        config = msgspec.structs.replace(case.config, model=with_id(case.config.model, _save(case.shape, folder)))
        model = method(config.method).make_trainable(method(config.method).load(config, MACHINE), config).eval()
    evaluation = config.evaluation
    tokenizer = SimpleNamespace(pad_token_id=0, decode=lambda tokens, **how: "")
    warn: Any = lambda code, text: None  # noqa: E731
    generator = Generator(tokenizer, evaluation.max_new_tokens, evaluation.batch, "cpu", frozenset(), warn)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    state = trained * (8 if config.optimizer.name in ("adamw", "auto") else 2)
    rows = _rows(case, count)
    return bytes_of(tensors_of(model)) + state + profiled(lambda: generator.answers(model, rows))


def on_gpu(case: Case, machine: Machine) -> tuple[int, int]:
    """(allocated, reserved): torch's peaks of two steps on a GPU, bytes."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        config = msgspec.structs.replace(case.config, model=with_id(case.config.model, _save(case.shape, folder)))
        model = method(config.method).make_trainable(method(config.method).load(config, machine), config)
        optimizer, _ = make_optimizer(model.parameters(), config, machine, lambda code, text: None)
        training = _training(case, config, model, optimizer, folder, "cuda")
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        fit(training, Steps())
        return torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()


def with_id(model: schema.Model, folder: Path) -> schema.Model:
    return msgspec.structs.replace(model, id=str(folder))


def profiled(work: Callable[[], object]) -> int:
    """Peak bytes that `work` allocates, in addition to what was allocated before."""
    gc.collect()
    with profile(use_cpu=True, profile_memory=True) as profiler:
        work()
    now = peak = 0
    events = [event for event in profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


def bytes_of(tensors: Iterable[torch.Tensor]) -> int:
    """Bytes of the tensors' storages, each counted once."""
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


def tensors_of(model: torch.nn.Module) -> list[torch.Tensor]:
    """Parameters, buffers and the scales of 4-bit weights."""
    tensors = [*model.parameters(), *model.buffers()]
    states = [state for parameter in model.parameters() if (state := getattr(parameter, "quant_state", None))]
    for state in states:
        tensors += [state.absmax]
        if state.nested:
            tensors += [state.state2.absmax, state.offset]
    return tensors


def _tensors_in(state: Mapping[Any, dict[str, Any]]) -> list[torch.Tensor]:
    return [value for values in state.values() for value in values.values() if isinstance(value, torch.Tensor)]


def quieten() -> None:
    """Turn off progress bars and warnings, which would disturb the printed table."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore")


def _save(shape: str, folder: Path) -> Path:
    torch.manual_seed(0)
    made = transformers.AutoModelForCausalLM.from_config(SHAPES[shape], dtype=torch.bfloat16)
    made.save_pretrained(folder / "model")
    (folder / "model" / "tokenizer_config.json").write_text(json.dumps({}))
    return folder / "model"


def _rows(case: Case, count: int) -> list[Row]:
    generator = torch.Generator().manual_seed(0)
    length, prompt = case.rows.length, case.rows.length - case.rows.answer
    rows = []
    for number in range(count):
        ids = torch.randint(3, 8000, (length,), generator=generator).tolist()
        rows.append(Row(ids, [-100] * prompt + ids[prompt:], ids[:prompt], "", f"row {number}", False))
    return rows


def _training(
    case: Case, config: schema.Config, model: Any, optimizer: Any, folder: Path, device: str = "cpu"
) -> TrainingSetup:
    rows = _rows(case, 2 * case.rows.count)
    machine = this_machine() if device == "cuda" else MACHINE
    dtype = compute_dtype(config, machine)
    segments = not varlen_attention.unsupported_reason(model, case.rows.length, machine, dtype)
    packing = step_packing(choose_packing(rows, config.train.packing, device, segments, segments), config)
    if segments:
        varlen_attention.enable(model)
    sampler = BatchSampler.of(len(rows), case.rows.count, 1.0, 2, 0)
    checkpointing = resolve_checkpointing(config.train.gradient_checkpointing, "cuda" if device == "cuda" else "cpu")
    return make_training(
        model, rows, sampler, config, optimizer, folder / "checkpoints", packing=packing,
        micro_batch=config.train.micro_batch, device=device, checkpointing=checkpointing,
    )  # fmt: skip
