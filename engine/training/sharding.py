"""Fully sharded data parallelism (FSDP2, `torch.distributed.fsdp.fully_shard`): each rank keeps a part of every weight.

A decoder layer gets the other parts before it computes, and drops them afterwards. Adapters are added to a sharded base
and are whole on every rank: they are small. Of full fine-tuning each rank also has only its part of the gradients and
of the optimizer state, which the optimizer sees as ordinary tensors (`LocalShards`).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from transformers.modeling_layers import GradientCheckpointingLayer

from engine.methods.adapters import unwrap_peft

_in_use = False
QUANTIZATION_MARKS = {"compress_statistics", "quant_type"}
"""Attributes of bitsandbytes' 4-bit weights that a sharded weight does not have."""


def shard(model: torch.nn.Module, device: str, ranks: int) -> None:
    """Divide the weights of a model among all ranks; those on another device are moved, one layer at a time.

    Gradients are added up in float32. Every rank must have the same weights.
    """
    global _in_use
    _in_use = True
    mesh = init_device_mesh(device, (ranks,))
    marked = [(module, vars(module.weight)) for module in model.modules() if hasattr(module, "quant_state")]
    policy = MixedPrecisionPolicy(reduce_dtype=torch.float32)
    for module in model.modules():
        if isinstance(module, GradientCheckpointingLayer):
            fully_shard(module, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)
    for module, marks in marked:  # PEFT reads them where it adds adapters to 4-bit layers
        for name in QUANTIZATION_MARKS & marks.keys():
            setattr(module.weight, name, marks[name])


def reshard(model: torch.nn.Module) -> None:
    """Drop what the model gathered and keeps after a forward pass: embeddings and LM head. On all ranks, or the next
    forward pass gathers them on some.
    """
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def whole_weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The state dict of a sharded model with whole weights in host memory, tied ones once; all ranks call it."""
    whole: dict[int, torch.Tensor] = {}
    state = model.state_dict(keep_vars=True)
    for tensor in state.values():
        if id(tensor) not in whole:
            detached = tensor.detach()
            whole[id(tensor)] = (detached.full_tensor() if isinstance(detached, DTensor) else detached).cpu()
    return {name: whole[id(tensor)] for name, tensor in state.items()}


def is_sharded(model: torch.nn.Module) -> bool:
    """Whether `shard` sharded its weights."""
    return isinstance(unwrap_peft(model), FSDPModule)


def class_name(model: torch.nn.Module) -> str:
    """The name of its class in transformers: FSDP2 makes another class of it."""
    return type(model).__name__.removeprefix("FSDP" if isinstance(model, FSDPModule) else "")


def in_use() -> bool:
    """Whether this process has sharded a model: ranks then must compute the same batches at the same time."""
    return _in_use


class LocalShards:
    """The parts of a sharded model's trained weights on this rank, as parameters for an optimizer.

    They share their memory with the model. An optimizer of bitsandbytes knows no DTensors. Those of a model that is not
    sharded are its parameters.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        reshard(model)
        self.pairs = [
            (parameter, _local(parameter) if isinstance(parameter, DTensor) else parameter)
            for parameter in model.parameters()
            if parameter.requires_grad
        ]

    def __iter__(self) -> Iterator[torch.nn.Parameter]:
        return (local for _, local in self.pairs)

    def named(self, model: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Parameter, torch.nn.Parameter]]:
        """(name in the model, parameter, its part on this rank); of tied parameters the first name."""
        reshard(model)
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        return ((names[id(parameter)], parameter, local) for parameter, local in self.pairs)

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        """Let each step of the optimizer use the gradients of the model."""
        optimizer.register_step_pre_hook(lambda *_: self._set_gradients())
        optimizer.register_step_post_hook(lambda *_: self._drop_gradients())

    def _set_gradients(self) -> None:
        for parameter, local in self.pairs:
            if local is not parameter:
                local.grad = parameter.grad.to_local() if isinstance(parameter.grad, DTensor) else None

    def _drop_gradients(self) -> None:
        for parameter, local in self.pairs:
            if local is not parameter:
                local.grad = None


def _local(parameter: DTensor) -> torch.nn.Parameter:
    local = torch.nn.Parameter(parameter.to_local().detach())
    if hasattr(parameter, "rate_factor"):
        local.rate_factor = parameter.rate_factor
    return local
