"""Stages of a dry run on fake tensors: weights, optimizer state, a training step, held-out loss, generation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import torch
from accelerate.utils.operations import convert_outputs_to_fp32

from engine.config import schema
from engine.config.batch_limits import MAX_TOKENS
from engine.evaluation.worst_case import WorstCaseAnswers, run_worst_case
from engine.memory.dry_run.fake_model import allocate
from engine.memory.dry_run.memory_tracker import MemoryTracker
from engine.methods.machine import Machine
from engine.methods.optimizers import make_unpaged
from engine.training import loss
from engine.training import loss as loss_module
from engine.training.batches import MicroBatch
from engine.training.loss import answer_nll, summed_loss, supports_logits_to_keep

TRAINING, HELD_OUT, ANSWERING = "training", "held out", "answering"
"""Prefixes of the names of stages."""


def allocate_weights(model: torch.nn.Module, tracker: MemoryTracker) -> None:
    """Allocate the weights, and attribute trained parameters and gradients to their parts."""
    with tracker.attributing("weights"):
        allocate(model)
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    for name, parameter in trained.items():
        if ".lora_" in name:
            tracker.attribute(parameter, "adapters")
    for parameter in trained.values():
        parameter.register_post_accumulate_grad_hook(lambda parameter: tracker.attribute(parameter.grad, "gradients"))


def create_optimizer(
    model: torch.nn.Module, config: schema.Config, machine: Machine, tracker: MemoryTracker
) -> torch.optim.Optimizer:
    """The run's optimizer after a first step, which creates its state."""
    optimizer = make_unpaged(model.parameters(), config, machine)
    _give_gradients(model, tracker)
    with tracker.attributing("optimizer"):
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return optimizer


def _give_gradients(model: torch.nn.Module, tracker: MemoryTracker) -> None:
    """Allocate the gradients of an earlier micro-batch of the same step."""
    with tracker.attributing("gradients"):
        for parameter in model.parameters():
            if parameter.requires_grad and parameter.grad is None:
                parameter.grad = torch.empty_like(parameter)


def training_step(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: list[MicroBatch],
    config: schema.Config,
    tracker: MemoryTracker,
) -> None:
    """A training step in the middle of a run. Of identical micro-batches only one runs, with gradients allocated."""
    model.train()
    answers_only = supports_logits_to_keep(model)
    sizes = [(batch.tokens, batch.targets.shape) for batch in batches]
    equal = len(batches) > 1 and sizes[0] == sizes[1]
    for number, batch in enumerate(batches[:1] if equal else batches):
        tracker.stage = f"{TRAINING} {number}"
        tracker.begin("embedding")
        if equal or number:
            _give_gradients(model, tracker)
        with _few_portions():
            loss = summed_loss(model, batch, answers_only)
            tracker.begin("loss")
            tracker.in_backward = True
            loss.backward()
            tracker.in_backward = False
        del loss
    tracker.stage = TRAINING
    tracker.begin("update")
    torch.nn.utils.clip_grad_norm_(model.parameters(), config.train.max_grad_norm or float("inf"))
    with tracker.attributing("optimizer"):
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    tracker.end()


@contextmanager
def _few_portions() -> Iterator[None]:
    """Context in which the loss computes only 3 chunks of logits: later chunks need the same memory as the third."""
    original = loss.logit_chunks

    def few(rows: int, vocabulary: int, device: str) -> list[slice]:
        return original(rows, vocabulary, device)[:3]

    with mock.patch.object(loss_module, "logit_chunks", few):
        yield


@torch.inference_mode()
def held_out_loss(model: torch.nn.Module, batch: MicroBatch, tracker: MemoryTracker) -> None:
    """The held-out loss of one batch as in `evaluation.score`, with only the first three of its equal logit chunks."""
    model.eval()
    tracker.stage = HELD_OUT
    tracker.begin("embedding")
    with _few_portions():
        answer_nll(model, batch, supports_logits_to_keep(model))
    tracker.end()


def generate(model: torch.nn.Module, answers: WorstCaseAnswers, tracker: MemoryTracker) -> None:
    """Generation at its peak; tensors are on the CPU, prefill batches are those of the planned device."""

    def begin(moment: str) -> None:
        tracker.stage = f"{ANSWERING}, {moment}"
        tracker.begin("cache")

    run_worst_case(model, answers, 0, "cpu", together=MAX_TOKENS[tracker.device], begin=begin)
    tracker.end()


def enable_autocast(model: torch.nn.Module) -> None:
    """Mixed precision as accelerate sets it up: bf16 autocast over float32 weights, with float32 outputs."""
    model.forward = convert_outputs_to_fp32(torch.autocast("cpu", torch.bfloat16)(model.forward))
