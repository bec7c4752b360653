"""What an optimizer reads and writes around bitsandbytes' kernel, with the weights of the plain formulas to the bit."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import bitsandbytes as bnb
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from engine.methods import optimizers
from engine.methods.optimizers import compensated, offloaded, resumable, stochastic

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
        def exact_weight(self, p: torch.nn.Parameter, part: slice) -> torch.Tensor:
            state = self.state[p]
            if "remainder" not in state:
                state["remainder"] = torch.zeros_like(p)
            return (p.data.float() + state["remainder"].float()).flatten()

        def store(self, p: torch.nn.Parameter, part: slice, exact: torch.Tensor) -> None:
            p.data.copy_(exact.view_as(p))
            self.state[p]["remainder"].copy_(exact.view_as(p) - p.data.float())

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
            if name not in ("detach", "empty_like", "alias", "view", "slice"):
                self.bytes += sum(tensor.nbytes for tensor in [*read, *written])
        return result


def test_a_compensated_update_reads_and_writes_36_bytes_per_parameter_around_the_kernel() -> None:
    """60 with a float32 tensor for every part of the formulas, with the gradient in float32."""
    weights = bf16_weights()[:1]
    optimizer = optimizer_of(compensated(resumable(bnb.optim.AdamW8bit)), weights)
    give_gradients(weights, 0)
    optimizer.step()
    give_gradients(weights, 1)
    (part,) = optimizer.parts(weights[0])
    with Traffic() as traffic:
        optimizer.store(weights[0], part, optimizer.exact(weights[0], part))
    assert traffic.bytes == 36 * SIZE


@pytest.mark.parametrize("kind", [bnb.optim.AdamW32bit, bnb.optim.AdamW8bit])
def test_a_large_weight_is_updated_in_parts_with_the_same_result(kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    def trained(most: int) -> tuple[list[torch.nn.Parameter], Any]:
        monkeypatch.setattr(optimizers, "MAX_UPDATED", most)
        torch.manual_seed(0)
        weights = [torch.nn.Parameter(torch.randn(shape).bfloat16()) for shape in ((60, 100), (100, 8, 9), (7,))]
        optimizer = optimizer_of(compensated(resumable(kind)), weights)
        for step in range(5):
            give_gradients(weights, step)
            weights[0].grad = torch.randn(100, 60).bfloat16().T  # not contiguous
            optimizer.step()
        return weights, optimizer

    (whole, expected), (parts, optimizer) = trained(1 << 25), trained(1024)
    assert all(map(torch.equal, whole, parts))
    for weight, other in zip(parts, whole, strict=True):
        state, same = optimizer.state[weight], expected.state[other]
        assert state["step"] == same["step"] == 5
        assert all(torch.equal(state[name], same[name]) for name in state if isinstance(state[name], torch.Tensor))
    assert len(optimizer.state) == len(parts)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rounding", [compensated, stochastic])
def test_offloaded_state_gives_the_same_weights_and_resumes_to_the_bit(
    rounding: Callable[[type], type], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """State that is not copied back, or loaded where it does not belong, would change the weights."""
    monkeypatch.setattr(optimizers, "MAX_UPDATED", 1024)  # several parts

    def trained(kind: type, stop: int | None = None) -> tuple[list[torch.nn.Parameter], Any]:
        torch.manual_seed(0)
        weights = [torch.nn.Parameter(torch.randn(shape).to(dtype)) for shape in ((60, 100), (64, 64), (7,))]
        optimizer = optimizer_of(rounding(kind), weights)
        for step in range(6):
            if step == stop:
                saved = copy.deepcopy(optimizer.state_dict())
                optimizer = optimizer_of(rounding(kind), weights)
                optimizer.load_state_dict(saved)
            give_gradients(weights, step)
            optimizer.step()
        return weights, optimizer

    ordinary = resumable(bnb.optim.AdamW8bit)
    expected, reference = trained(ordinary)
    for stop in (None, 3):
        weights, optimizer = trained(offloaded(ordinary), stop)
        assert all(map(torch.equal, weights, expected))
        for weight, other in zip(weights, expected, strict=True):
            state, same = optimizer.state[weight], reference.state[other]
            assert state.keys() == same.keys() and state["step"] == 6
            assert all(torch.equal(state[name], same[name]) for name in state if name != "step")
        assert len(optimizer.state) == len(weights)
