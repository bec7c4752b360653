"""What an optimizer reads and writes around bitsandbytes' kernel, with the weights of the plain formulas to the bit."""

from __future__ import annotations

from typing import Any

import bitsandbytes as bnb
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from engine.methods.optimizers import compensated, resumable

SIZE = 64 * 64


def optimizer_of(kind: type, weights: list[torch.nn.Parameter]) -> Any:
    return kind(weights, lr=1e-3, weight_decay=0.1)


def bf16_weights() -> list[torch.nn.Parameter]:
    torch.manual_seed(0)
    scales = (1e-30, 1e-3, 1.0, 1e30)
    return [torch.nn.Parameter((scale * torch.randn(64, 64)).bfloat16()) for scale in scales]


def give_gradients(weights: list[torch.nn.Parameter], step: int) -> None:
    torch.manual_seed(100 + step)
    for weight in weights:
        weight.grad = torch.randn_like(weight)


@pytest.mark.parametrize("kind", [bnb.optim.AdamW32bit, bnb.optim.AdamW8bit])
def test_weight_and_remainder_are_those_of_the_plain_formulas(kind: type) -> None:
    class Plain(compensated(resumable(kind))):
        def exact_weight(self, p: torch.nn.Parameter) -> torch.Tensor:
            state = self.state[p]
            if "remainder" not in state:
                state["remainder"] = torch.zeros_like(p)
            return p.data.float() + state["remainder"].float()

        def store(self, p: torch.nn.Parameter, weight: torch.Tensor, exact: torch.Tensor) -> None:
            weight.copy_(exact)
            self.state[p]["remainder"].copy_(exact - weight.float())

    weights, expected = bf16_weights(), bf16_weights()
    ours, plain = optimizer_of(compensated(resumable(kind)), weights), optimizer_of(Plain, expected)
    for step in range(20):
        for optimizer, of in ((ours, weights), (plain, expected)):
            give_gradients(of, step)
            optimizer.step()
    for weight, other in zip(weights, expected, strict=True):
        assert torch.equal(weight, other)
        assert torch.equal(ours.state[weight]["remainder"], plain.state[other]["remainder"])
        assert ours.state[weight]["remainder"].any()


class Traffic(TorchDispatchMode):
    """Counts the bytes that operations read and write."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, operation: Any, types: Any, given: Any = (), named: Any = None) -> Any:
        result = operation(*given, **(named or {}))
        inputs, _ = tree_flatten((given, named or {}))
        outputs, _ = tree_flatten(result)
        name = operation.overloadpacket.__name__
        if not torch._C._dispatch_has_kernel_for_dispatch_key(operation.name(), "CompositeImplicitAutograd"):
            read = [tensor for tensor in inputs if isinstance(tensor, torch.Tensor)]
            written = [tensor for tensor in outputs if isinstance(tensor, torch.Tensor)]
            if name == "copy_" or "out" in operation._overloadname:  # what is written is not read before
                read = [tensor for tensor in read if all(tensor is not other for other in written)]
            if name not in ("detach", "empty_like", "alias"):
                self.bytes += sum(tensor.nbytes for tensor in [*read, *written])
        return result


def test_a_compensated_update_reads_and_writes_36_bytes_per_parameter_around_the_kernel() -> None:
    """60 with a float32 tensor for every part of the formulas, with the gradient in float32."""
    weights = bf16_weights()[:1]
    optimizer = optimizer_of(compensated(resumable(bnb.optim.AdamW8bit)), weights)
    give_gradients(weights, 0)
    optimizer.step()
    give_gradients(weights, 1)
    with Traffic() as traffic:
        optimizer.allocate_step()
    assert traffic.bytes == 36 * SIZE
