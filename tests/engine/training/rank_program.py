"""Trains a small model with each method as one rank, with two, and with two that divide its weights; with two also
where one rank is out of memory. Then the model answers by transformers' `generate`, as on a GPU.

Started twice, as a rank each; rank 0 prints a JSON line: losses, micro-batch sizes of all ranks, and answers, by method
and kind.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from small_training import Steps, make_training
from transformers import LlamaConfig, LlamaForCausalLM

from engine.config import schema
from engine.config.method_specs import method_names
from engine.data.prepare import prepare
from engine.data.rows import Row
from engine.evaluation.generate import Generator
from engine.methods import method
from engine.methods.machine import Machine
from engine.methods.model_source import load_tokenizer
from engine.methods.optimizers import make_optimizer
from engine.training import ranks as training_ranks
from engine.training.batches import BatchSampler, Packing
from engine.training.fit import fit
from engine.training.gradients import StepGradients
from engine.training.ranks import SINGLE_RANK, LocalShards, Ranks, shard

CPU = Machine("cpu", "CPU", False, False)
STEPS, BATCH, ROWS = 6, 5, 23


class Tight(StepGradients):
    """The second rank has no memory for more than one row."""

    def forward_backward(self, group: list[Row], total_weight: float) -> torch.Tensor:
        if self.ranks.rank == 1 and len(group) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().forward_backward(group, total_weight)


@cache
def inputs(folder: Path) -> tuple[Any, Sequence[Row]]:
    """The tokenizer and the prepared rows."""
    tokenizer = load_tokenizer(schema.Model(id=str(folder / "model")))
    data = schema.Data(id=str(folder / "rows.jsonl"), test=0, validation=0)
    return tokenizer, prepare(data, 256, tokenizer).train


def train(
    config: schema.Config, kind: str, ranks: Ranks, folder: Path, gradients: type[StepGradients] = StepGradients
) -> dict[str, Any]:
    tokenizer, rows = inputs(folder)
    torch.manual_seed(0)
    model = method(config.method).load(config, CPU)
    if kind == "fsdp":
        shard(model, "cpu", ranks.size)
    torch.manual_seed(0)
    model = method(config.method).make_trainable(model, config)
    shards = LocalShards(model)
    optimizer, _ = make_optimizer(shards, config, CPU, lambda code, text: None)
    shards.attach(optimizer)
    sampler = BatchSampler.of(len(rows), BATCH, 1, STEPS, 0)
    training = make_training(
        model, rows, sampler, config, optimizer, folder / "checkpoints", packing=Packing("packed", 400), micro_batch=2,
        pad=tokenizer.pad_token_id, ranks=ranks, shards=shards, gradients=gradients,
    )  # fmt: skip
    steps = Steps()
    fit(training, steps)
    generator = Generator(tokenizer, 6, 3, "cpu", frozenset({tokenizer.eos_token_id}), lambda code, text: None)
    answers = generator.answer_tokens(model.eval(), rows[:5])
    return {
        "losses": steps.losses,
        "micro_batches": ranks.all_gather(training.gradients.micro_batch),
        "answers": answers,
    }


def save_rows(folder: Path) -> None:
    """Short rows: what is compared does not depend on their length."""
    rows = ({"prompt": f"{n} plus {n}?", "completion": f"It is {2 * n}."} for n in range(ROWS))
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def save_inputs(folder: Path) -> None:
    """A random model whose shapes have 4-bit kernels on the CPU, with the embedded tokenizer, and rows."""
    save_rows(folder)
    tokenizer = load_tokenizer(schema.Model())
    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=True,
    )  # fmt: skip
    LlamaForCausalLM(shape).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")


def main(folder: Path) -> None:
    logging.disable(logging.WARNING)
    together = training_ranks.join("cpu", folder)
    together.broadcast(lambda: save_inputs(folder))
    results: dict[str, dict[str, Any]] = {name: {} for name in method_names()}
    for kind in ("single", "ddp", "fsdp"):  # a process that has sharded a model waits for the others in every answer
        for name, of_method in results.items():
            config = schema.Config(
                method=name,
                model=schema.Model(id=str(folder / "model")),
                train=schema.Train(learning_rate=3e-3, batch=BATCH, precision="fp32"),
                quantization=schema.Quantization(compute_dtype="fp32"),
                optimizer=schema.Optimizer(name="adamw"),
            )
            if kind == "single":
                of_method[kind] = together.broadcast(lambda config=config: train(config, "single", SINGLE_RANK, folder))
            else:
                of_method[kind] = train(config, kind, together, folder)
            if (kind, name) == ("ddp", "lora"):
                of_method["tight"] = train(config, "ddp", together, folder, Tight)
    if together.is_first:
        print(json.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
