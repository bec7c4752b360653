"""The processes that train one run together, one per device: "ranks" in torch's terms. Most runs have a single one.

Small values are exchanged in host memory (gloo), so that no rank waits for its GPU; gradients over the GPUs (NCCL).
Gradients are summed after the last backward pass: torch's DistributedDataParallel sums them within it. There a rank
that is out of memory would leave the others waiting forever, and ranks with other numbers of micro-batches need empty
ones. Here all ranks first agree that the step fitted.

Ranks can shard the model (FSDP2, `torch.distributed.fsdp.fully_shard`): each keeps a part of every weight. A decoder
layer gets the other parts before it computes, and drops them afterwards. Adapters are added to a sharded base and are
whole on every rank: they are small. Of full fine-tuning each rank also has only its part of the gradients and of the
optimizer state, which the optimizer sees as ordinary tensors (`LocalShards`).
"""

from __future__ import annotations

import ctypes
import datetime
import os
import socket
import struct
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import psutil
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from transformers.modeling_layers import GradientCheckpointingLayer

from engine.methods.adapters import unwrap_peft

S = TypeVar("S")
T = TypeVar("T")

BUCKET_BYTES = 25 << 20
"""Gradients that are summed at a time, as in DistributedDataParallel (its `bucket_cap_mb`)."""
CONTROL_TIMEOUT = datetime.timedelta(days=7)
"""A rank may wait for as long as the first one evaluates; the launcher notices when a rank ends."""
COLLECTIVE_TIMEOUT = datetime.timedelta(minutes=30)
"""Limit for what all ranks compute at the same time, such as a sum of gradients: a rank that hangs ends the run."""
SO_ATTACH_FILTER, BPF_RETURN = 26, 0x06
"""Of Linux, which Python's `socket` does not have: socket(7), linux/bpf_common.h (BPF_RET | BPF_K)."""
LOOPBACK = "lo0" if sys.platform == "darwin" else "lo"
"""Network interface over which the ranks of one machine connect to each other."""
QUANTIZATION_MARKS = {"compress_statistics", "quant_type"}
"""Attributes of bitsandbytes' 4-bit weights that a sharded weight does not have."""
_weights_are_sharded = False


class Ranks:
    """This process among the ranks of its run. All ranks must call its methods in the same order."""

    def __init__(self, rank: int = 0, size: int = 1, control: Any = None) -> None:
        """`control`: process group in host memory; None for a single rank."""
        self.rank, self.size, self.control = rank, size, control
        self.shards_model = False
        """Whether each rank has a part of the weights; decided before the model is loaded."""

    @property
    def splits_evaluation(self) -> bool:
        """Whether each rank evaluates a part of the items. Those of a sharded model compute a layer together, for the
        same items.
        """
        return self.size > 1 and not self.shards_model

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, the only one that writes into the run's directory."""
        return self.rank == 0

    def sums(self, *values: int) -> list[int]:
        """The sums of these values over all ranks."""
        if self.size == 1:
            return [int(value) for value in values]
        numbers = torch.tensor(values, dtype=torch.int64)
        dist.all_reduce(numbers, group=self.control)
        return [int(number) for number in numbers]

    def barrier(self) -> None:
        """Wait until every rank has called this."""
        self.sums(0)

    def any(self, value: bool) -> bool:
        """Whether it is true on any rank."""
        return self.sums(value)[0] > 0

    def all_gather(self, value: T) -> list[T]:
        """The values of all ranks, by rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=self.control)
        return values

    def broadcast(self, make: Callable[[], T]) -> T:
        """The result of `make`, which is called on rank 0 only; the other ranks wait for it."""
        if self.size == 1:
            return make()
        box: list[Any] = [make() if self.is_first else None]
        dist.broadcast_object_list(box, src=0, group=self.control)
        received: T = box[0]
        return received

    def first_before_others(self, make: Callable[[], T]) -> T:
        """The result of `make`, called first on rank 0, then on the others, which find the files that it wrote."""
        value = make() if self.is_first else None
        self.barrier()
        return value if self.is_first else make()  # type: ignore[return-value]

    def mapped(self, work: Callable[[Sequence[S]], Sequence[T]], items: Sequence[S]) -> list[T]:
        """`work(items)`, which returns one result per item in their order; each rank does a part of the items."""
        if not self.splits_evaluation:
            return list(work(items))
        own = [items[place] for place in range(self.rank, len(items), self.size)]
        results: list[Any] = [None] * len(items)
        for rank, part in enumerate(self.all_gather(list(work(own)) if own else [])):
            results[rank :: self.size] = part
        return results

    def all_reduce(self, tensors: Sequence[torch.Tensor]) -> None:
        """Replace tensors by their sums over all ranks, which are the same to the bit on each."""
        if self.size == 1:
            return
        buckets: list[list[torch.Tensor]] = []  # of one data type, up to BUCKET_BYTES or a single larger tensor
        size, dtype = 0, None
        for tensor in tensors:
            if not buckets or tensor.dtype != dtype or size + tensor.nbytes > BUCKET_BYTES:
                buckets.append([])
                size, dtype = 0, tensor.dtype
            buckets[-1].append(tensor)
            size += tensor.nbytes
        for bucket in buckets:
            flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
            dist.all_reduce(flat)
            for tensor, total in zip(bucket, flat.split([tensor.numel() for tensor in bucket]), strict=True):
                tensor.copy_(total.view_as(tensor))

    def seed(self, seed: int, step: int, *, same: bool) -> None:
        """Seed torch's random generators for a step: `same` on all ranks, or different on each.

        A function of the step, so that a resumed run needs no generator's state of any rank but the first. Nothing for
        a single rank, whose checkpoints contain it.
        """
        if self.size > 1:
            torch.manual_seed((seed * 1_000_003 + step) * (self.size + 1) + (0 if same else self.rank + 1))


SINGLE_RANK = Ranks()


def join(device: str, folder: Path) -> Ranks:
    """Join the process group of this run's ranks. `device`: "cuda" or "cpu".

    `folder`: in which they meet, which only this user can open. The ranks connect to each other over loopback. NCCL
    accepts who knows the random number of its communicator (ncclSocket in its sources), gloo any process of this
    machine, also once all ranks are connected; then its sockets are closed to everybody.
    """
    os.environ |= {"GLOO_SOCKET_IFNAME": LOOPBACK, "NCCL_SOCKET_IFNAME": LOOPBACK}
    # Removed, because libraries would recognize ranks by these variables.
    rank, size = int(os.environ.pop("RANK")), int(os.environ.pop("WORLD_SIZE"))
    where: dict[str, Any] = {"store": dist.FileStore(str(folder / "store"), size), "rank": rank, "world_size": size}
    others = set[int]()
    if device == "cuda":  # the only one that this process sees
        device_id = torch.device("cuda", 0)
        dist.init_process_group("nccl", timeout=COLLECTIVE_TIMEOUT, device_id=device_id, **where)
        others = _listening_sockets()  # which NCCL needs until the end
    else:
        dist.init_process_group("gloo", timeout=COLLECTIVE_TIMEOUT, **where)
    ranks = Ranks(rank, size, dist.new_group(backend="gloo", timeout=CONTROL_TIMEOUT))
    ranks.barrier()
    for descriptor in _listening_sockets() - others:
        # The kernel keeps 0 bytes of each packet to the socket, so that no connection to it is made any more.
        instruction = ctypes.create_string_buffer(struct.pack("HBBI", BPF_RETURN, 0, 0, 0))
        program = struct.pack("HP", 1, ctypes.addressof(instruction))  # struct sock_fprog, of one instruction
        with socket.socket(fileno=os.dup(descriptor)) as listener:
            listener.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)
    return ranks


def _listening_sockets() -> set[int]:
    """Descriptors of this process that accept TCP connections; none except on Linux."""
    if sys.platform != "linux":
        return set()
    connections = psutil.Process().net_connections("tcp")
    return {connection.fd for connection in connections if connection.status == psutil.CONN_LISTEN}


def shard(model: torch.nn.Module, device: str, ranks: int) -> None:
    """Divide the weights of a model among all ranks; those on another device are moved, one layer at a time.

    Gradients are added up in float32. Every rank must have the same weights.
    """
    global _weights_are_sharded
    _weights_are_sharded = True
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


def trains_parts(model: torch.nn.Module) -> bool:
    """Whether the trained weights are sharded across the ranks; adapters are not."""
    return any(isinstance(weight, DTensor) and weight.requires_grad for weight in model.parameters())


def class_name(model: torch.nn.Module) -> str:
    """The name of its class in transformers: FSDP2 makes another class of it."""
    return type(model).__name__.removeprefix("FSDP" if isinstance(model, FSDPModule) else "")


def weights_are_sharded() -> bool:
    """Whether this process has sharded a model: ranks then must compute the same batches at the same time."""
    return _weights_are_sharded


class LocalShards:
    """The parts of a sharded model's trained weights on this rank, as parameters for an optimizer.

    They share their memory with the model. An optimizer of bitsandbytes knows no DTensors. Those of a model that is not
    sharded are its parameters.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        reshard(model)
        self.pairs: list[tuple[torch.nn.Parameter, torch.nn.Parameter]] = []
        for parameter in model.parameters():
            if parameter.requires_grad:
                local = parameter
                if isinstance(parameter, DTensor):
                    local = torch.nn.Parameter(parameter.to_local().detach())
                    if hasattr(parameter, "rate_factor"):
                        local.rate_factor = parameter.rate_factor
                self.pairs.append((parameter, local))

    def __iter__(self) -> Iterator[torch.nn.Parameter]:
        return (local for _, local in self.pairs)

    def named(self, model: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Parameter, torch.nn.Parameter]]:
        """(name in the model, parameter, its part on this rank); of tied parameters the first name."""
        reshard(model)
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        return ((names[id(parameter)], parameter, local) for parameter, local in self.pairs)

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        """Let each step of the optimizer use the gradients of the model."""
        parts = [(parameter, local) for parameter, local in self.pairs if local is not parameter]

        def set_gradients(*_: object) -> None:
            for parameter, local in parts:
                local.grad = parameter.grad.to_local() if isinstance(parameter.grad, DTensor) else None

        def drop_gradients(*_: object) -> None:
            for _, local in parts:
                local.grad = None

        optimizer.register_step_pre_hook(set_gradients)
        optimizer.register_step_post_hook(drop_gradients)
