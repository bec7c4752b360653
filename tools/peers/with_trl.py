"""trl's SFTTrainer: conversational prompt-completion rows or a text column, defaults otherwise."""

from __future__ import annotations

from typing import Any

import torch
from datasets import Dataset
from measure import Job, Measurement, arguments, main, watcher
from transformers import set_seed
from trl import SFTConfig, SFTTrainer
from with_trainer import adapter, four_bit, question


def train(job: Job) -> Measurement:
    """Train without packing, with the loss on the completion only (the default for such rows)."""
    set_seed(0)
    callback, seen = watcher()
    trainer = SFTTrainer(
        model=job.model,
        args=SFTConfig(
            **arguments(job),
            train_sampling_strategy="sequential",
            max_length=job.max_length,
            gradient_checkpointing=False,
            model_init_kwargs={"dtype": getattr(torch, job.weights)},
        ),
        train_dataset=Dataset.from_list([row_of(row) for row in job.rows]),
        peft_config=adapter(job) if job.method != "full" else None,
        quantization_config=four_bit() if job.method == "qlora" else None,
        callbacks=[callback],
    )
    trainer.train()
    return seen


def row_of(row: dict[str, str]) -> dict[str, Any]:
    """A row with trl's columns."""
    if "text" in row:
        return row
    return {
        "prompt": question(row),
        "completion": [{"role": "assistant", "content": row["completion"]}],
    }


if __name__ == "__main__":
    main(train)
