"""AdamW optimizers: torch's, or bitsandbytes' with 32-bit state, or 8-bit state that can be paged or in host memory;
for float32 and bf16 weights.

`compensated` adds Kahan summation, which torch and bitsandbytes do not have. transformers offers it only through
`StableAdamW` of torch-optimi and `AnyPrecisionAdamW` of torchdistx, which have neither 8-bit nor paged state: their
32-bit moments take 6 bytes more per parameter. `stochastic` rounds at random instead, as torchao's optimizers can
(`bf16_stochastic_round`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch

from engine.config import schema
from engine.config.device_defaults import MAX_UPDATED, optimizer_name
from engine.config.settings import with_settings
from engine.methods.machine import Machine

Warn = Callable[[str, str], None]
"""Called with the code and text of a warning."""
SCALED = 256
"""Values of 8-bit state with a common scale (bitsandbytes' block size)."""
STATE_TENSORS = ("state1", "state2", "absmax1", "absmax2", "remainder")
"""Names of the tensors of a parameter's state that belong to it alone."""


def make_optimizer(
    parameters: Iterable[torch.nn.Parameter],
    config: schema.Config,
    machine: Machine,
    warn: Warn,
) -> tuple[torch.optim.Optimizer, str]:
    """The optimizer of the trainable parameters, and the name of what is actually used. `auto` is not paged: the plan
    decides that (`engine.memory.formula.fit`).

    Vectors (norms, biases) have no weight decay, as in GPT-2 and nanoGPT. bf16 parameters get an optimizer that keeps
    what rounding would lose (see `compensated`).
    """
    trainable = [parameter for parameter in parameters if parameter.requires_grad]
    chosen = config.optimizer
    rate, decay = config.train.learning_rate, config.train.weight_decay
    groups: list[dict[str, Any]] = []  # by the factor of their learning rate (LoRA+), the smallest first
    for factor in sorted({getattr(parameter, "rate_factor", 1.0) for parameter in trainable}):
        own = [parameter for parameter in trainable if getattr(parameter, "rate_factor", 1.0) == factor]
        matrices, vectors = [p for p in own if p.ndim >= 2], [p for p in own if p.ndim < 2]
        for parameters, weight_decay in ((matrices, decay), (vectors, 0.0)):
            if parameters:
                own_rate = {} if factor == 1.0 else {"lr": factor * rate}
                groups.append({"params": parameters, "weight_decay": weight_decay, **own_rate})
    settings: dict[str, Any] = {"lr": rate, "betas": (chosen.beta1, chosen.beta2), "eps": chosen.eps}
    pure_bf16 = any(parameter.dtype == torch.bfloat16 for parameter in trainable)
    name = optimizer_name(chosen.name, machine.device)
    if name == "paged_adamw_8bit" and not machine.paging:
        name = "adamw_8bit"
        warn("optimizer.unpaged", "paged optimizer state needs CUDA unified memory: using 8-bit AdamW without paging")
    if name == "adamw" and not pure_bf16:
        return torch.optim.AdamW(groups, **settings, fused=True), "adamw (fused)"
    import bitsandbytes as bnb  # takes a second to import, and LoRA with torch's AdamW does not need it

    kind = {
        "adamw": bnb.optim.AdamW32bit,
        "adamw_8bit": bnb.optim.AdamW8bit,
        "paged_adamw_8bit": bnb.optim.PagedAdamW8bit,
        "offloaded_adamw_8bit": bnb.optim.AdamW8bit,
    }[name]
    kind = offloaded(resumable(kind)) if name == "offloaded_adamw_8bit" else resumable(kind)
    if pure_bf16 and chosen.rounding == "stochastic":
        return stochastic(kind)(groups, **settings), f"{name} (stochastically rounded bf16)"
    if pure_bf16:
        return compensated(kind)(groups, **settings), f"{name} (compensated bf16)"
    return kind(groups, **settings), name


def make_unpaged(
    parameters: Iterable[torch.nn.Parameter], config: schema.Config, machine: Machine
) -> torch.optim.Optimizer:
    """For dry runs: the optimizer of a run on `machine`, created on the CPU without paging, which needs a GPU.

    Its state has the same size as that of the paged optimizer.
    """
    named = with_settings(config, {"optimizer.name": optimizer_name(config.optimizer.name, machine.device)})
    optimizer, _ = make_optimizer(parameters, named, replace(machine, device="cpu"), lambda code, text: None)
    return optimizer


def paged_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Bytes of optimizer state in CUDA unified memory, which torch does not count."""
    tensors = (value for state in optimizer.state.values() for value in state.values())
    return sum(value.nbytes for value in tensors if getattr(value, "is_paged", False))


def copy_mapped_state(optimizer: torch.optim.Optimizer) -> None:
    """Copy state that was loaded from a memory-mapped file, tensor by tensor: the file may be deleted or truncated.

    torch keeps the loaded tensors where the device is the same; bitsandbytes always copies them.
    """
    if hasattr(optimizer, "is_paged") or hasattr(getattr(optimizer, "optimizer", None), "is_paged"):
        return
    for state in optimizer.state.values():
        for name, value in state.items():
            if isinstance(value, torch.Tensor):
                state[name] = value.clone()


def resumable(kind: type) -> type:
    """A subclass of a bitsandbytes optimizer that loads a checkpoint's state onto the device where it belongs.

    bitsandbytes' `Optimizer8bit.load_state_dict` moves only the state it knows to the GPU and leaves everything else on
    the device the checkpoint was read to. It also loads paged state unpaged, which takes 2 bytes per parameter more of
    torch's pool than before the stop.
    """

    class Resumable(kind):
        offloads = False
        """Whether state is in host memory."""

        def load_state_dict(self, state_dict: Mapping[str, Any], move_to_device: bool = True) -> None:
            super().load_state_dict(state_dict, move_to_device=False)
            for parameter, state in self.state.items():
                for name, value in state.items():
                    if not isinstance(value, torch.Tensor):
                        continue
                    if self.is_paged and name in ("state1", "state2"):
                        # A loaded tensor still has the attribute is_paged, but is in ordinary memory.
                        state[name] = self.get_state_buffer(parameter, dtype=value.dtype).copy_(value)
                    elif self.offloads and name in STATE_TENSORS:
                        state[name] = host_zeros(value, parameter).copy_(value)
                    else:
                        state[name] = value.to(parameter.device)

    Resumable.__name__ = kind.__name__
    return Resumable


def offloaded(kind: type) -> type:
    """A subclass of a resumable bitsandbytes optimizer whose state is in host memory, page-locked for a GPU.

    An update copies the state of what it updates to the parameter's device and back: with `compensated` MAX_UPDATED
    weights at a time, otherwise a whole parameter. The copy back waits for the GPU, so that a checkpoint can read the
    state at any time. Paged state moves on demand instead, page by page, and only what does not fit.
    """

    class Offloaded(kind):
        offloads = True

        def get_state_buffer(self, p: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
            return host_zeros(p, p, dtype)

        @torch.no_grad()
        def init_state(self, group: dict[str, Any], p: torch.Tensor, gindex: int, pindex: int) -> None:
            super().init_state(group, p, gindex, pindex)
            state = self.state[p]
            for name in STATE_TENSORS:
                if name in state and state[name].device.type != "cpu":
                    state[name] = host_zeros(state[name], p)

        @torch.no_grad()
        def update_step(self, group: dict[str, Any], p: torch.Tensor, gindex: int, pindex: int) -> None:
            on_host = self.state[p]
            used = {name: on_host[name] for name in STATE_TENSORS if name in on_host and name != "remainder"}
            copies = {name: value.to(p.device, non_blocking=True, copy=True) for name, value in used.items()}
            self.state[p] = {**on_host, **copies}
            super().update_step(group, p, gindex, pindex)
            for name, value in used.items():
                value.copy_(copies[name])
            self.state[p] = {**self.state[p], **used}

    Offloaded.__name__ = f"Offloaded{kind.__name__}"
    return Offloaded


def host_zeros(like: torch.Tensor, parameter: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
    """Zeros in host memory, page-locked if `parameter` is on a GPU."""
    return torch.zeros(like.shape, dtype=dtype or like.dtype, device="cpu", pin_memory=parameter.is_cuda)


def compensated(kind: type) -> type:
    """A subclass of a resumable bitsandbytes optimizer with Kahan summation: bf16 weights do not lose small updates.

    bf16 has 8 significant bits, so an update below about 1/256 of the weight is rounded away. The optimizer state keeps
    the rounding error of each weight in bf16 (Zamirai et al. 2020, arXiv:2010.06192): the update is applied to weight +
    remainder in float32, MAX_UPDATED weights at a time, and the sum is split again. Takes 2 bytes per parameter.
    """

    class Compensated(kind):
        @torch.no_grad()
        def update_step(self, group: dict[str, Any], p: torch.nn.Parameter, gindex: int, pindex: int) -> None:
            if p.dtype != torch.bfloat16:
                super().update_step(group, p, gindex, pindex)
                return
            p.data = p.data.contiguous()  # as bitsandbytes
            own, steps = self.state[p], self.state[p]["step"]
            for part in self.parts(p):
                exact = self.exact(p, part)
                self.state[exact] = sliced_state(own, part)
                super().update_step(group, exact, gindex, pindex)
                del self.state[exact]
                self.store(p, part, exact)
            own["step"] = steps + 1

        def parts(self, p: torch.nn.Parameter) -> list[slice]:
            """The parts of a flattened weight, which are updated one after another."""
            return [slice(start, start + MAX_UPDATED) for start in range(0, p.numel(), MAX_UPDATED)]

        def exact(self, p: torch.nn.Parameter, part: slice) -> torch.Tensor:
            """A part of the weight in float32, with its gradient."""
            exact = self.exact_weight(p, part)
            exact.grad = p.grad.reshape(-1)[part].float()
            return exact

        def exact_weight(self, p: torch.nn.Parameter, part: slice) -> torch.Tensor:
            """Weight and remainder."""
            state = self.state[p]
            if "remainder" not in state:
                state["remainder"] = host_zeros(p, p) if self.offloads else torch.zeros_like(p)
            remainder = flat(state["remainder"])[part].to(p.device, non_blocking=True)
            return flat(p.data)[part].float().add_(remainder)

        def store(self, p: torch.nn.Parameter, part: slice, exact: torch.Tensor) -> None:
            weight, remainder = flat(p.data)[part], flat(self.state[p]["remainder"])[part]
            weight.copy_(exact)
            # Computed in float32, and rounded once.
            if self.offloads:
                remainder.copy_(torch.sub(exact, weight))
            else:
                torch.sub(exact, weight, out=remainder)

        @torch.no_grad()
        def allocate_step(self) -> None:
            """Allocate what a step allocates in addition to bitsandbytes' state, without changing a weight."""
            for group in self.param_groups:
                for p in group["params"]:
                    if p.dtype == torch.bfloat16 and p.grad is not None:
                        self.exact(p, self.parts(p)[0])

    Compensated.__name__ = f"Compensated{kind.__name__}"
    return Compensated


def flat(weight: torch.Tensor) -> torch.Tensor:
    """(N,): the same memory."""
    return weight.view(-1)


def sliced_state(state: Mapping[str, Any], part: slice) -> dict[str, Any]:
    """bitsandbytes' state of a part of a flattened weight, in the same memory."""
    own = dict(state)
    for name in ("state1", "state2"):
        own[name] = flat(state[name])[part]
        for attribute in ("is_paged", "page_deviceid"):  # such a tensor is on the CPU for torch
            if hasattr(state[name], attribute):
                setattr(own[name], attribute, getattr(state[name], attribute))
    for name in ("absmax1", "absmax2"):
        if name in state:
            own[name] = state[name][part.start // SCALED : -(-part.stop // SCALED)]
    return own


def stochastic(kind: type) -> type:
    """A subclass of a resumable bitsandbytes optimizer that rounds updated bf16 weights up or down at random.

    The expectation of a rounded weight is the exact one (Gupta et al. 2015, arXiv:1502.02551), so that small updates
    are not lost on average, and no remainder is stored. Draws from torch's random generator, whose state is in every
    checkpoint. On the embedded model the loss is about the same as with `remainder` (`tools/RESULTS.md`).
    """

    class Stochastic(compensated(kind)):
        def exact_weight(self, p: torch.nn.Parameter, part: slice) -> torch.Tensor:
            return flat(p.data)[part].float()

        def store(self, p: torch.nn.Parameter, part: slice, exact: torch.Tensor) -> None:
            flat(p.data)[part].copy_(rounded_stochastically(exact))

    Stochastic.__name__ = f"Stochastic{kind.__name__}"
    return Stochastic


def rounded_stochastically(exact: torch.Tensor) -> torch.Tensor:
    """Round float32 values to those of bf16, whose lower 16 bits are zero: add random numbers of 16 bits, truncate."""
    bits = torch.randint_like(exact, 1 << 16, dtype=torch.int32)
    bits += exact.view(torch.int32)
    bits &= -(1 << 16)
    return bits.view(torch.float32)
