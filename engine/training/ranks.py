"""The processes that train one run together, one per device: "ranks" in torch's terms. Most runs have a single one.

Small values are exchanged in host memory (gloo), so that no rank waits for its GPU; gradients over the GPUs (NCCL).
The Trainer and accelerate are not told of the other ranks: accelerate wraps the model in DistributedDataParallel, which
sums gradients within the last backward pass. There a rank that is out of memory would leave the others waiting forever,
and ranks with other numbers of micro-batches need empty ones. Here all ranks first agree that the step fitted.
"""

from __future__ import annotations

import ctypes
import datetime
import os
import socket
import struct
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import psutil
import torch
import torch.distributed as dist

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
        for bucket in _buckets(tensors):
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
    # Removed, because the Trainer and accelerate would recognize ranks by these variables.
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
        _drop_everything(descriptor)
    return ranks


def _listening_sockets() -> set[int]:
    """Descriptors of this process that accept TCP connections; none except on Linux."""
    if sys.platform != "linux":
        return set()
    connections = psutil.Process().net_connections("tcp")
    return {connection.fd for connection in connections if connection.status == psutil.CONN_LISTEN}


def _drop_everything(descriptor: int) -> None:
    """Have the kernel drop all packets to a listening socket, so that no connection to it is made any more."""
    instruction = ctypes.create_string_buffer(struct.pack("HBBI", BPF_RETURN, 0, 0, 0))  # keep 0 bytes of a packet
    program = struct.pack("HP", 1, ctypes.addressof(instruction))  # struct sock_fprog, of one instruction
    with socket.socket(fileno=os.dup(descriptor)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)


def _buckets(tensors: Sequence[torch.Tensor]) -> list[list[torch.Tensor]]:
    """Tensors of one data type in groups of up to BUCKET_BYTES, or single larger ones."""
    buckets: list[list[torch.Tensor]] = []
    size, dtype = 0, None
    for tensor in tensors:
        if not buckets or tensor.dtype != dtype or size + tensor.nbytes > BUCKET_BYTES:
            buckets.append([])
            size, dtype = 0, tensor.dtype
        buckets[-1].append(tensor)
        size += tensor.nbytes
    return buckets
