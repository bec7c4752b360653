"""Training after an evaluation with 4-bit weights on the CPU keeps its gradients."""

from __future__ import annotations

import torch
from transformers import set_seed

from engine.config.schema import Config, Data
from engine.data.prepare import prepare
from engine.methods import qlora
from engine.methods.machine import this_machine
from engine.methods.model_source import load_tokenizer
from engine.training.batches import Packing, collate
from engine.training.loss import summed_loss


def test_gradient_norm_is_the_same_before_and_after_an_evaluation() -> None:
    """An eval-mode forward may repack 4-bit weights in place, which silently removes the gradient through them."""
    config = Config(method="qlora")
    rows = prepare(Data(max_rows=8), 512, load_tokenizer(config.model)).train[:4]
    set_seed(0)
    model = qlora.make_trainable(qlora.load(config, this_machine()), config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:  # zero at the start: then A has no gradient that could be lost
            torch.nn.init.normal_(parameter, std=0.02)
    batch = collate(rows, Packing("packed", 100_000), 0, "cpu")

    def gradient_norm() -> float:
        model.train()
        model.zero_grad()
        summed_loss(model, batch, answers_only=True).backward()
        return float(torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm())

    before = gradient_norm()
    model.eval()
    with torch.inference_mode():
        summed_loss(model, batch, answers_only=True)
    assert gradient_norm() == before > 0
