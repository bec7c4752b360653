"""AdamW in the memory it may take: torch's, or bitsandbytes' with 8-bit state, paged or not."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from engine.config import schema
from engine.methods.machine import Machine

Warn = Callable[[str, str], None]
"""(code, text): how a method reports what it had to do differently."""


def make_optimizer(
    parameters: Iterable[torch.nn.Parameter],
    config: schema.Config,
    machine: Machine,
    warn: Warn,
) -> tuple[torch.optim.Optimizer, str]:
    """The optimizer over the trainable parameters, and its name as it really is.

    Weight decay spares vectors (norms, biases), as in GPT-2's and nanoGPT's training. Parameters in bf16 get
    an optimizer that keeps what rounding would lose (see `compensated`).
    """
    trainable = [parameter for parameter in parameters if parameter.requires_grad]
    wanted = config.optimizer
    groups = [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": config.train.weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    settings: dict[str, Any] = {
        "lr": config.train.learning_rate,
        "betas": (wanted.beta1, wanted.beta2),
        "eps": wanted.eps,
    }
    pure_bf16 = any(parameter.dtype == torch.bfloat16 for parameter in trainable)
    name: str = wanted.name
    if name == "paged_adamw_8bit" and not machine.paging:
        name = "adamw_8bit"
        warn("optimizer", "paged optimizer state needs CUDA unified memory: 8-bit AdamW without paging is used here")
    if name == "adamw" and not pure_bf16:
        return torch.optim.AdamW(groups, **settings, fused=True), "adamw (fused)"
    import bitsandbytes as bnb

    kind = {
        "adamw": bnb.optim.AdamW32bit,
        "adamw_8bit": bnb.optim.AdamW8bit,
        "paged_adamw_8bit": bnb.optim.PagedAdamW8bit,
    }[name]
    if pure_bf16:
        return compensated(resumable(kind))(groups, **settings), f"{name} (compensated bf16)"
    return resumable(kind)(groups, **settings), name


def paged_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Bytes of state in CUDA's managed memory, which torch does not count."""
    held = (value for state in optimizer.state.values() for value in state.values())
    return sum(value.nbytes for value in held if getattr(value, "is_paged", False))


def resumable(kind: type) -> type:
    """A bitsandbytes optimizer that takes up a checkpoint's state where its own would lie.

    bitsandbytes' own (`Optimizer8bit.load_state_dict`) moves what it knows to the card and leaves everything else where
    the checkpoint was read; and what was paged comes back unpaged, two bytes a parameter more in torch's pool than
    before the stop.
    """

    class Resumable(kind):
        def load_state_dict(self, state_dict: Mapping[str, Any], move_to_device: bool = True) -> None:
            super().load_state_dict(state_dict, move_to_device=False)
            for parameter, state in self.state.items():
                for name, value in state.items():
                    if isinstance(value, torch.Tensor):
                        state[name] = self._placed(parameter, name, value)

        def _placed(self, parameter: torch.nn.Parameter, name: str, value: torch.Tensor) -> torch.Tensor:
            if not self.is_paged or name not in ("state1", "state2"):
                return value.to(parameter.device)
            # A saved tensor keeps its mark of having been paged, and is not.
            buffer: torch.Tensor = self.get_state_buffer(parameter, dtype=value.dtype)
            return buffer.copy_(value)

    Resumable.__name__ = kind.__name__
    return Resumable


def compensated(kind: type) -> type:
    """A bitsandbytes optimizer whose bf16 weights do not lose small updates.

    bf16 has 8 significant bits, so an update below about 1/256 of the weight rounds away. Beside each weight a
    bf16 remainder is kept, the part that rounding cut off (Kahan summation; Zamirai et al. 2020,
    arXiv:2010.06192): the update is applied to weight + remainder in float32, one parameter at a time, and the
    sum is split again. Costs 2 bytes a parameter.
    """

    class Compensated(kind):
        @torch.no_grad()
        def update_step(self, group: dict[str, Any], p: torch.nn.Parameter, gindex: int, pindex: int) -> None:
            if p.dtype != torch.bfloat16:
                super().update_step(group, p, gindex, pindex)
                return
            with self.exact(p):
                super().update_step(group, p, gindex, pindex)

        @contextmanager
        def exact(self, p: torch.nn.Parameter) -> Iterator[None]:
            """Meanwhile weight and gradient are float32, with what earlier rounding cut off."""
            state = self.state[p]
            if "remainder" not in state:
                state["remainder"] = torch.zeros_like(p)
            weight, gradient = p.data, p.grad
            p.grad = None
            p.data = weight.float() + state["remainder"].float()
            p.grad = gradient.float()
            yield
            exact = p.data
            p.grad = None
            weight.copy_(exact)
            state["remainder"].copy_(exact - weight.float())
            p.data = weight
            p.grad = gradient

        @torch.no_grad()
        def hold(self) -> None:
            """Hold what a step holds beside bitsandbytes' own state, and change no weight."""
            for group in self.param_groups:
                for p in group["params"]:
                    if p.dtype == torch.bfloat16 and p.grad is not None:
                        with self.exact(p):
                            pass

    Compensated.__name__ = f"Compensated{kind.__name__}"
    return Compensated
