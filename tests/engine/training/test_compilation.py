"""Compiled decoder layers train as uncompiled ones do, for any number of tokens, and evaluation does not use them."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator

import pytest
import torch
import transformers
from model_shapes import SHAPES, VOCABULARY

from engine.config.errors import UserError
from engine.data.rows import IGNORE_INDEX, Row
from engine.training import varlen_attention
from engine.training.batches import Packing, collate
from engine.training.compilation import (
    compile_errors,
    compile_layers,
    refuse_compilation,
    remove_compiled,
    uncompiled,
)
from engine.training.loss import summed_loss

PACKED = Packing("packed", 10_000, segments=True)
PACKINGS = [PACKED, Packing("shared_prefix", 10_000, segments=True), Packing("padded", 10_000)]


def rows(seed: int) -> list[Row]:
    numbers = random.Random(seed)
    lengths = [(numbers.randint(4, 30), numbers.randint(1, 9)) for _ in range(numbers.randint(2, 5))]
    made = []
    for prompt, answer in lengths:
        tokens = [*range(1, 21), *numbers.choices(range(1, VOCABULARY), k=prompt + answer)]
        prompt += 20
        labels = [IGNORE_INDEX] * prompt + tokens[prompt:]
        made.append(Row(tokens, labels, tokens[:prompt], "", "here", False))
    return made


@pytest.fixture
def model() -> Iterator[torch.nn.Module]:
    torch.manual_seed(0)
    config = copy.deepcopy(SHAPES["llama"])
    config.num_hidden_layers = 2
    made = transformers.AutoModelForCausalLM.from_config(config, attn_implementation=varlen_attention.NAME)
    yield made.train()
    remove_compiled(made)
    torch.compiler.reset()


def gradients(model: torch.nn.Module, batch: list[Row], packing: Packing = PACKED) -> tuple[float, list[torch.Tensor]]:
    model.zero_grad()
    loss = summed_loss(model, collate(batch, packing, 0, "cpu"), True, 1.0)
    loss.backward()
    return loss.item(), [parameter.grad.clone() for parameter in model.parameters()]


@pytest.mark.parametrize("packing", PACKINGS, ids=lambda packing: packing.mode)
def test_losses_and_gradients_are_those_of_uncompiled_layers_for_all_lengths(
    packing: Packing, model: torch.nn.Module
) -> None:
    batches = [rows(seed) for seed in range(4)]
    expected = [gradients(model, batch, packing) for batch in batches]
    compiled: list[int] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> object:
        compiled.append(len(inputs))
        return graph.forward

    assert compile_layers(model, backend) == model.config.num_hidden_layers
    first = gradients(model, batches[0], packing)
    graphs = len(compiled)
    assert graphs > 0
    for actual, (loss, parts) in zip(
        [first, *(gradients(model, batch, packing) for batch in batches[1:])], expected, strict=True
    ):
        assert actual[0] == pytest.approx(loss, rel=1e-5)
        for gradient, other in zip(actual[1], parts, strict=True):
            torch.testing.assert_close(gradient, other, rtol=1e-4, atol=1e-6)
    assert len(compiled) == graphs
    with uncompiled(model):
        model.eval()(torch.tensor([[1, 2, 3]]))
    remove_compiled(model)
    gradients(model, batches[0], packing)
    assert len(compiled) == graphs


def test_an_error_of_the_compiler_names_the_setting(model: torch.nn.Module) -> None:
    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> object:
        raise KeyError("broken")

    compile_layers(model, backend)
    with pytest.raises(UserError) as caught, compile_errors():
        gradients(model, rows(0))
    assert (caught.value.code, caught.value.location) == ("training.compile_failed", "train.compile")
    with pytest.raises(RuntimeError, match="mine"), compile_errors():
        raise RuntimeError("mine")


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_machine_without_a_compiler_is_refused(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setattr("engine.training.compilation.find_spec", lambda name: None)  # triton can be installed
    with pytest.raises(UserError) as caught:
        refuse_compilation(device)
    assert caught.value.code == "training.no_compiler"
