"""Trains a small model with each method as one rank, with two, and with two that divide its weights.

Started twice by torchrun; rank 0 prints a JSON line {method: {kind: losses}}.
"""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

import torch

from engine.config import schema
from engine.config.checkpointing import OFF
from engine.config.method_specs import method_names
from engine.data.prepare import prepare
from engine.methods import method
from engine.methods.machine import Machine
from engine.methods.optimizers import make_optimizer
from engine.methods.tokenizer import load_tokenizer
from engine.training import ranks as training_ranks
from engine.training.batches import Schedule
from engine.training.collation import Packing
from engine.training.ranks import SINGLE_RANK, Ranks
from engine.training.sharding import LocalShards, shard
from engine.training.trainer import AnswerTrainer, Hooks, training_arguments

CPU = Machine("cpu", "CPU", False, False)
STEPS, BATCH = 50, 5
KINDS = ("single", "ddp", "fsdp")


class Recorded(Hooks):
    """Collects the loss of every step."""


def losses(config: schema.Config, kind: str, ranks: Ranks, folder: Path) -> list[float]:
    tokenizer = load_tokenizer(config.model)
    rows = prepare(config.data, 256, tokenizer).train
    torch.manual_seed(0)
    model = method(config.method).load(config, CPU)
    if kind == "fsdp":
        shard(model, "cpu", ranks.size)
    torch.manual_seed(0)
    model = method(config.method).make_trainable(model, config)
    shards = LocalShards(model)
    optimizer, _ = make_optimizer(shards, config, CPU, lambda code, text: None)
    shards.attach(optimizer)
    schedule = Schedule.of(len(rows), BATCH, 1, STEPS, 0)
    found: list[float] = []
    hooks = Hooks()
    trainer = AnswerTrainer(
        rows=rows, schedule=schedule, packing=Packing("packed", 400), micro_batch=2, keep_checkpoints=1,
        checkpoint_folder=folder / "checkpoints", tokenizer=tokenizer, hooks=hooks, model=model,
        args=training_arguments(config, schedule, folder, "cpu", OFF), optimizers=(optimizer, None), ranks=ranks,
    )  # fmt: skip
    optimizer.register_step_pre_hook(lambda *_: found.append(hooks.facts.loss))
    trainer.train()
    return found


def main(folder: Path) -> None:
    logging.disable(logging.WARNING)
    together = training_ranks.join("cpu")
    results: dict[str, dict[str, list[float]]] = {}
    for name in method_names():
        config = schema.Config(
            method=name,
            data=schema.Data(max_rows=48),
            train=schema.Train(learning_rate=1e-3, batch=BATCH, precision="fp32"),
            quantization=schema.Quantization(compute_dtype="fp32"),
            optimizer=schema.Optimizer(name="adamw"),
        )
        results[name] = {
            kind: losses(config, kind, SINGLE_RANK if kind == "single" else together, folder) for kind in KINDS
        }
    if together.is_first:
        print(json.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
