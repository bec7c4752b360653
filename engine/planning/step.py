"""The moments of a run on fake tensors: weights there, optimizer state there, a training step, a held-out pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from accelerate.utils.operations import convert_outputs_to_fp32
from transformers.modeling_layers import GradientCheckpointingLayer

from engine.contract import schema
from engine.methods.machine import Machine
from engine.methods.optimizers import make_optimizer
from engine.planning.estimate import PARTS, Peak
from engine.planning.live import LiveStorage
from engine.planning.pool import with_pool
from engine.planning.skeleton import fill
from engine.training.batches import Pass
from engine.training.loss import CHUNK_ELEMENTS, answer_logits, keeps_logits, summed_loss

ENOUGH = 8
"""Blocks: Gemma 3 has a sixth kind every sixth, DeepSeek another kind in the first three."""


def weigh(model: torch.nn.Module, live: LiveStorage) -> None:
    with live.making("weights"):
        fill(model)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if len(trained) < len(list(model.parameters())):
        for parameter in trained:
            live.belongs(parameter, "adapters")
    for parameter in trained:
        parameter.register_post_accumulate_grad_hook(lambda parameter: live.belongs(parameter.grad, "gradients"))


def with_state(
    model: torch.nn.Module, config: schema.Config, machine: Machine, live: LiveStorage
) -> torch.optim.Optimizer:
    """The run's optimizer after a first step, when its state exists.

    Paged state is made as unpaged: it is as large, and paging wants a card.
    """
    unpaged = replace(machine, device="cpu")
    optimizer, _ = make_optimizer(model.parameters(), config, unpaged, lambda code, text: None)
    _give_gradients(model, live)
    with live.making("optimizer"):
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return optimizer


def _give_gradients(model: torch.nn.Module, live: LiveStorage) -> None:
    """What an earlier pass of the same step has left."""
    with live.making("gradients"):
        for parameter in model.parameters():
            if parameter.requires_grad and parameter.grad is None:
                parameter.grad = torch.empty_like(parameter)


def training_peak(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: list[Pass],
    config: schema.Config,
    live: LiveStorage,
) -> Peak:
    """A step in the middle of a run. Of many equal passes one is enough, with the gradients of another beside it."""
    model.train()
    keep = keeps_logits(model)
    live.restart()
    equal = len(batches) > 1 and batches[0].targets.shape == batches[1].targets.shape
    for number, batch in enumerate(batches[:1] if equal else batches):
        if equal or number:
            _give_gradients(model, live)
        (summed_loss(model, batch, keep) / 1).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), config.train.max_grad_norm or float("inf"))
    with live.making("optimizer"):
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return _peak(live)


@torch.inference_mode()
def evaluation_peak(model: torch.nn.Module, batch: Pass, live: LiveStorage) -> Peak:
    """The held-out loss of one pass, as `evaluation.score` computes it: of its equal portions of logits, the first."""
    model.eval()
    live.restart()
    with _few_blocks(model):
        logits, targets = answer_logits(model, batch, keeps_logits(model))
    part = slice(0, max(1, CHUNK_ELEMENTS // logits.shape[-1]))
    torch.nn.functional.cross_entropy(logits[part].float(), targets[part], reduction="none")
    return _peak(live)


@contextmanager
def _few_blocks(model: torch.nn.Module) -> Iterator[None]:
    """Without gradients a block leaves nothing behind, so that the first few, all kinds among them, have the peak of
    all: it saves seconds on a large model.
    """
    cut = [
        module
        for module in model.modules()
        if isinstance(module, torch.nn.ModuleList)
        and len(module) > ENOUGH
        and all(isinstance(block, GradientCheckpointingLayer) for block in module)
    ]
    whole = [dict(module._modules) for module in cut]
    try:
        for module in cut:
            module._modules = dict(list(module._modules.items())[:ENOUGH])
        yield
    finally:
        for module, modules in zip(cut, whole, strict=True):
            module._modules = modules


def _peak(live: LiveStorage) -> Peak:
    parts = {part: live.peak[part] for part in PARTS if live.peak.get(part)}
    return with_pool(Peak(total=sum(parts.values()), parts=parts), live.device)


def mix(model: torch.nn.Module) -> None:
    """bf16 arithmetic over float32 weights, with the outputs in float32: as accelerate prepares a model for it."""
    model.forward = convert_outputs_to_fp32(torch.autocast("cpu", torch.bfloat16)(model.forward))
