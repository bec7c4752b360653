"""AdamW in the memory it may take: torch's, or bitsandbytes' with 8-bit state, paged or not."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

from engine.contract import schema
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
        return compensated(kind)(groups, **settings), f"{name} (compensated bf16)"
    return kind(groups, **settings), name


def compensated(kind: type) -> type:
    """A bitsandbytes optimizer whose bf16 weights do not lose small updates.

    bf16 has 8 significant bits, so an update below about 1/256 of the weight rounds away. Beside each weight a
    bf16 remainder is kept, the part that rounding cut off (Kahan summation; Zamirai et al. 2020,
    arXiv:2010.06192): the update is applied to weight + remainder in float32, one parameter at a time, and the
    sum is split again. Costs 2 bytes a parameter.
    """

    class Compensated(kind):  # type: ignore[misc]
        @torch.no_grad()
        def update_step(self, group: dict, p: torch.nn.Parameter, gindex: int, pindex: int) -> None:
            if p.dtype != torch.bfloat16:
                super().update_step(group, p, gindex, pindex)
                return
            state = self.state[p]
            if "remainder" not in state:
                state["remainder"] = torch.zeros_like(p)
            weight, gradient = p.data, p.grad
            p.grad = None
            p.data = weight.float() + state["remainder"].float()
            p.grad = gradient.float()
            super().update_step(group, p, gindex, pindex)
            exact = p.data
            p.grad = None
            weight.copy_(exact)
            state["remainder"].copy_(exact - weight.float())
            p.data = weight
            p.grad = gradient

    Compensated.__name__ = f"Compensated{kind.__name__}"
    return Compensated
