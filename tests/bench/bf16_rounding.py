"""Full fine-tuning with bf16 weights: updates that rounding loses. `python tests/bench/bf16_rounding.py`.

The embedded model and data, batches of 4 rows, 8-bit AdamW, cosine schedule, the same rows in the same order for
every variant of a seed. The loss is that of the validation rows after training, with the weights as they are saved
(bf16, except for float32 weights) and computed in float32, so that only the weights differ.
"""

from __future__ import annotations

import argparse
import copy
import statistics
from pathlib import Path
from typing import Any

import bitsandbytes as bnb
import torch
from transformers import set_seed

from engine.config import schema
from engine.config.activation_checkpointing import OFF
from engine.config.files import temporary_folder
from engine.data.prepare import prepare
from engine.evaluation.row_loss import mean_loss
from engine.evaluation.score import row_losses
from engine.methods import method
from engine.methods.machine import this_machine
from engine.methods.optimizers import compensated, resumable, stochastic
from engine.methods.tokenizer import load_tokenizer
from engine.training.batches import BatchSampler
from engine.training.collation import Packing
from engine.training.trainer import AnswerTrainer, Hooks, training_arguments

PACKING = Packing("packed", 100_000)


VARIANTS = {
    "float32 weights and arithmetic": ("fp32", resumable),
    "bf16, rounded to nearest": ("bf16", resumable),
    "bf16 with remainder": ("bf16", lambda kind: compensated(resumable(kind))),
    "bf16, rounded stochastically": ("bf16", lambda kind: stochastic(resumable(kind))),
}


def config_of(precision: str, rate: float, seed: int, steps: int) -> schema.Config:
    train = schema.Train(precision=precision, learning_rate=rate, seed=seed, steps=steps, batch=4)
    return schema.Config(method="full", train=train)


def trained(variant: str, config: schema.Config, rows: Any, tokenizer: Any, folder: Path) -> tuple[Any, float]:
    """The trained model, and bytes per parameter of weights, gradients and optimizer state."""
    kind = VARIANTS[variant][1](bnb.optim.AdamW8bit)
    set_seed(config.train.seed)
    model = method("full").make_trainable(method("full").load(config, this_machine()), config)
    optimizer = kind(model.parameters(), lr=config.train.learning_rate)
    sampler = BatchSampler.of(len(rows), config.train.batch, 1, config.train.steps, config.train.seed)
    AnswerTrainer(
        rows=rows, sampler=sampler, packing=PACKING, micro_batch=config.train.batch, keep_checkpoints=1,
        checkpoint_folder=folder, tokenizer=tokenizer, hooks=Hooks(), model=model,
        args=training_arguments(config, sampler, folder, "cpu", OFF), optimizers=(optimizer, None),
    ).train()  # fmt: skip
    state = sum(v.nbytes for s in optimizer.state.values() for v in s.values() if isinstance(v, torch.Tensor))
    weights = sum(parameter.nbytes for parameter in model.parameters())
    return model, (2 * weights + state) / sum(parameter.numel() for parameter in model.parameters())


def loss_of(model: Any, rows: Any, tokenizer: Any) -> float:
    """Loss of the rows in nats/token with the model's weights in float32 arithmetic."""
    return mean_loss(row_losses(copy.deepcopy(model).float(), rows, PACKING, tokenizer.pad_token_id, "cpu"))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-3, 1e-4])
    chosen = parser.parse_args()
    tokenizer = load_tokenizer(schema.Model())
    prepared = prepare(schema.Data(), 512, tokenizer)
    print(
        "| variant | learning rate | bytes per parameter | validation loss, by seed | mean | minus float32, by seed |"
    )
    print("|---|---|---|---|---|---|", flush=True)
    for rate in chosen.rates:
        exact: list[float] = []
        for variant, (precision, _) in VARIANTS.items():
            losses, size = [], 0.0
            for seed in range(chosen.seeds):
                with temporary_folder("ftbench-bench-") as folder:
                    config = config_of(precision, rate, seed, chosen.steps)
                    model, size = trained(variant, config, prepared.train, tokenizer, folder)
                    losses.append(loss_of(model, prepared.validation, tokenizer))
            exact = exact or losses
            gaps = ", ".join(f"{loss - other:+.4f}" for loss, other in zip(losses, exact, strict=True))
            values = ", ".join(f"{loss:.4f}" for loss in losses)
            print(
                f"| {variant} | {rate:g} | {size:.2f} | {values} | {statistics.mean(losses):.4f} | {gaps} |", flush=True
            )


if __name__ == "__main__":
    main()
